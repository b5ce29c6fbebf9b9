"""Error-minimising noise: images that are already learnt."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustkit.attacks.base import Learner, Poisoned, PoisoningAttack
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, RobustkitWarning
from robustkit.randomness import Streams
from robustkit.threat_models import PerturbationSet, ThreatModel
from robustkit.training.batch import Batch
from robustkit.training.losses import bare, cross_entropy, held
from robustkit.training.losses.inner import maximise
from robustkit.unlearnable.moving import Noise
from robustkit.unlearnable.publishing import publish, settled
from robustkit.unlearnable.share import stratified
from robustkit.unlearnable.surrogates import surrogate, towards

# Images that a pass changes together; noise of a class moves once for each such batch.
_WIDTH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class EM(PoisoningAttack):
    """Error-minimising noise, a pattern for each image.

    Model and noise lower the same loss in turns: after every few batches on the images as they
    stand, a pass over all of them moves each one's noise. It ends when the model is hardly ever
    wrong on the images with their noise: then there is nothing left in them to learn. The trainer
    trains the model and sets how long this may go on; what it goes on with after the end changes
    nothing. The noise is kept in memory, four bytes per value.

    Published with the linf radius 8/255.

    Attributes:
        architecture: Of the model, as `robustkit.models.load` takes it.
        batches: That the model learns from between two passes.
        steps: Of each image in a pass, down the gradient.
        step_size: In units of the radius; 0.8/255 of 8/255.
        stop_error: Share of wrong answers at which it ends.
        share: Of the images, evenly from the classes, through which passes go and on which errors
            are counted.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Warns:
        RobustkitWarning: The trainer ended before the error was reached.

    Reference:
        Huang, Ma, Erfani, Bailey, Wang: Unlearnable examples: making personal data unexploitable.
        ICLR 2021.

    Differs from the reference:
        Images with their noise are clipped to [0, 1] in training too. A pass comes before the
        last of the batches has changed the weights. The learning rate follows the trainer's
        schedule. Bytes are rounded towards the clean image.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})

    architecture: str = "resnet-18"
    batches: int = 10
    steps: int = 20
    step_size: float = 0.1
    stop_error: float = 0.01
    share: float = 1.0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        name = type(self).__name__
        if self.batches < 1 or self.steps < 1 or not self.step_size > 0:
            raise BadInput(
                f"{name} takes {self.steps} steps of {self.step_size} radii after every "
                f"{self.batches} batches; give at least 1 of each and a size above 0."
            )
        if not 0 <= self.stop_error < 1 or not 0 < self.share <= 1:
            raise BadInput(
                f"{name} has the stop error {self.stop_error} and the share {self.share}; give one "
                "in [0, 1) and one in (0, 1]."
            )

    def owners(self, data: LabelledImages) -> Tensor:
        """(N,) int64: whose noise each image carries, from 0."""
        return torch.arange(len(data))

    def run(
        self, data: LabelledImages, threat: ThreatModel, *, trainer: Learner, streams: Streams
    ) -> Poisoned:
        """Change training data; see `PoisoningAttack.run`."""
        self.check(threat)
        mask = stratified(data.labels, threat.budget.poison_rate or 0.0, streams)
        hidden = data.take(mask)
        noise = Noise(hidden, self.owners(hidden))
        if len(hidden):
            loss = ErrorMinimisation(self, noise, threat.allowed)
            trainer.fit(surrogate(self.architecture, data, streams), noise.images(), loss)
            self._tell(loss.error)
        place = mask.cumsum(0) - 1

        def change(rows: Tensor, clean: Tensor, _: Tensor, __: Streams) -> Tensor:
            return clean + noise.of(place[rows]).to(clean.device)

        name = type(self).__name__
        return settled(publish(data, mask, threat.allowed, change, name=name, streams=streams))

    def _tell(self, error: float) -> None:
        if error > self.stop_error:
            warnings.warn(
                f"The trainer ended when the model was still wrong on {error:.1%} of the images "
                f"with their noise, more than {self.stop_error:.1%}. Give it more epochs, or a "
                "larger stop error.",
                RobustkitWarning,
                stacklevel=3,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EMClassWise(EM):
    """Error-minimising noise, one pattern for all images of a class.

    As `EM`; in a pass the pattern of a class moves, batch by batch, to the mean of where its
    members would take it.

    Reference:
        Huang, Ma, Erfani, Bailey, Wang: Unlearnable examples: making personal data unexploitable.
        ICLR 2021.

    Differs from the reference:
        As `EM`.
    """

    steps: int = 1
    stop_error: float = 0.1
    share: float = 0.2

    def owners(self, data: LabelledImages) -> Tensor:
        """(N,) int64: the class."""
        return data.labels


class ErrorMinimisation:
    """Cross-entropy on images whose noise goes down the same slope every few batches.

    Attributes:
        error: Share of wrong answers on the images with their noise after the last pass; 1 before
            the first.
    """

    def __init__(self, attack: EM, noise: Noise, allowed: PerturbationSet) -> None:
        """Args: how the noise moves, the noise itself, and how far it may go."""
        self.attack = attack
        self.noise = noise
        self.allowed = allowed
        self.error = 1.0
        self._seen = 0
        self._place = (-1, -1)
        rows = noise.clean.stratified(max(1, round(attack.share * len(noise.clean))))
        self._rows = torch.isin(noise.clean.ids, rows.ids).nonzero()[:, 0]

    def __repr__(self) -> str:
        """The hyper-parameters, without what was learnt."""
        return f"ErrorMinimisation({self.attack}, {self.allowed})"

    @contextlib.contextmanager
    def around(self, model: nn.Module, batch: Batch) -> Iterator[None]:
        """Let the noise move behind every so many batches."""
        yield
        # The parts of one batch are one batch.
        if (batch.epoch, batch.step) == self._place or self._over:
            return
        self._place = (batch.epoch, batch.step)
        self._seen += 1
        if self._seen % self.attack.batches == 0:
            with held(bare(model)) as still:
                self._pass(still, batch.streams)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch, which carries its noise already."""
        return cross_entropy(model, batch)

    def stop(self, _: Sequence[Mapping[str, Any]]) -> str | None:
        """Whether the noise has reached its end."""
        return f"an error of {self.error:.2%} under noise" if self._over else None

    @property
    def _over(self) -> bool:
        return self.error <= self.attack.stop_error

    def _pass(self, model: nn.Module, streams: Streams) -> None:
        """Move the noise of every image once, and count the errors that are left."""
        device = streams.ids.device
        for rows in torch.split(self._rows, _WIDTH):
            clean = self.noise.clean.inputs(rows).to(device)
            labels = self.noise.clean.labels[rows].to(device)
            point = maximise(
                model,
                clean,
                towards(labels),
                self.allowed,
                steps=self.attack.steps,
                step_size=self.attack.step_size,
                start=clean + self.noise.of(rows).to(device),
                streams=streams,
            )
            self.noise.settle(rows, (point - clean).cpu())
        self.error = self._errors(model, device) / len(self._rows)

    @torch.no_grad()
    def _errors(self, model: nn.Module, device: torch.device) -> int:
        wrong = torch.zeros((), dtype=torch.int64, device=device)
        for rows in torch.split(self._rows, _WIDTH):
            answers = model(self.noise.covered(rows).to(device)).argmax(1)
            wrong += (answers != self.noise.clean.labels[rows].to(device)).sum()
        return int(wrong)

    def state_dict(self) -> dict[str, Tensor]:
        """The noise, and how far it has come."""
        return {
            "noise": self.noise.table.clone(),
            "error": torch.tensor(self.error, dtype=torch.float64),
            "seen": torch.tensor([self._seen, *self._place]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give the noise back."""
        self.noise.table.copy_(state["noise"])
        self.error = float(state["error"])
        self._seen, *place = state["seen"].tolist()
        self._place = (place[0], place[1])
