"""RiFT: fine-tune on clean images the weights that robustness needs least."""

import copy
import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.defenses._criticality import Criticality, attacked, criticality, ranked
from robustkit.defenses._interpolation import (
    Limits,
    best,
    curve,
    displacement,
    mixed,
    put,
    values,
)
from robustkit.defenses._rift_report import RiFTReport
from robustkit.defenses._weights import Candidates, Weight, choice, weights
from robustkit.defenses.base import Defense, only
from robustkit.defenses.guards import buffers_kept
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.statistics import wilson
from robustkit.threat_models import ThreatModel
from robustkit.training import SGD, Selection, Step, Trainer
from robustkit.training.describing import describe
from robustkit.training.losses import cross_entropy

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What RiFT gives back.

    Attributes:
        model: A copy of the given model in which the chosen tensors alone may differ.
        report: Why these, and how far.
        old: The chosen tensors before fine-tuning, by name.
        new: The same after it.
    """

    model: nn.Module
    report: RiFTReport
    old: Mapping[str, Tensor]
    new: Mapping[str, Tensor]

    def at(self, alpha: float) -> nn.Module:
        """A copy of the model at another place between the old weights, 0, and the new ones, 1."""
        other = copy.deepcopy(self.model)
        put(other, mixed(self.old, self.new, alpha))
        return other


@dataclass(frozen=True, kw_only=True, slots=True)
class RiFT(Defense):
    """Robust fine-tuning: accuracy for an adversarially trained model, out of spare weights.

    One weight tensor is fine-tuned on clean images, that whose worst small change harms robustness
    least. Then the model goes as far from its old weights towards the new ones as held-out training
    images allow; if every step costs robustness or brings nothing, it stays where it was.

    The criticality (MRC) ranks tensors. It is a lower bound of a quantity that bounds nothing about
    the fine-tuned model: read it as a heuristic, and the held-out curve as what chose. A verdict
    needs an evaluation on test images.

    Attributes:
        modules: Dotted names of the modules whose weights are fine-tuned, together if there are
            several; none lets the ranking choose one.
        candidates: What the ranking may choose: `all`, or `spatial` for convolutions larger than
            1 x 1. Never the stem, the first layer, which can rank as uncritical and still cost
            robustness.
        relative_radius: How large the change is that measures criticality, relative to the tensor's
            Euclidean length.
        steps: Of the ascent in the weights.
        samples: Training images it is measured on.
        alphas: Places between the old weights, 0, and the fine-tuned ones, 1. 0 is always tried.
        held_out: Training images, evenly from the classes, that are not fine-tuned on and choose
            the place. The images that a `Selection` of the same size and seed has held out.
        attack_steps: Of the PGD attacks, before the ranking and on held-out images.
        max_drop: Held-out robust accuracy may fall by this at most.
        max_doubt: The lower end of the paired interval around that change may lie this far below
            zero.
        confidence: Of all intervals.
        batch_size: Images per pass outside training.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Zhu, Hu, Wang, Xie, Yang: Improving generalization of adversarial training via robust
        critical fine-tuning. ICCV 2023.

    Differs from the reference:
        Criticality is measured on training images (the authors' code takes those of the test), by
        full-batch ascent in steps of one length, projected after each (theirs leaves the ball
        inside a pass, by steps that depend on a tensor's scale). Batch norm keeps its statistics
        while weights are fine-tuned: in training mode it takes on those of clean images, which can
        end all robustness (the benchmark shows it). The place is chosen by a rule on held-out
        training images, against two attacks and with a paired interval; the authors read it off a
        curve of the test set. No epoch is selected: the last one is taken.

    Reproduces:
        None of the paper's tables, which need a GPU. The benchmark `rift` makes the comparison of
        modules at a small scale, with batch norm alone as a control.

    Example:
        >>> import torch
        >>> from robustkit.threat_models import LpBall
        >>> images = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> data = LabelledImages.from_tensors(images, (images.mean((1, 2, 3)) > 0.5).long())
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> threat = ThreatModel(name="small", perturbation=LpBall(norm="linf", radius=0.01))
        >>> rift = RiFT(samples=32, held_out=16, max_doubt=0.2, steps=2, attack_steps=2)
        >>> tuned = rift.tune(model, data, threat, trainer=Trainer(epochs=1, batch_size=16),
        ...                   streams=Streams.of(seed=0, ids=data.ids))
        >>> tuned.report.modules
        ('3',)
    """

    norms: ClassVar[frozenset[str] | None] = frozenset({"linf", "l2", "l1"})

    modules: tuple[str, ...] = ()
    candidates: Candidates = "all"
    relative_radius: float = 0.1
    steps: int = 10
    samples: int = 2048
    alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    held_out: int = 1024
    attack_steps: int = 10
    max_drop: float = 0.001
    max_doubt: float = 0.01
    confidence: float = 0.95
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        for what, value in (
            ("steps", self.steps),
            ("samples", self.samples),
            ("held_out", self.held_out),
            ("attack_steps", self.attack_steps),
            ("batch_size", self.batch_size),
        ):
            if value < 1:
                raise BadInput(f"RiFT's {what} is {value}; it must be at least 1.")
        if not self.relative_radius > 0:
            raise BadInput(f"RiFT's relative_radius is {self.relative_radius}; give one above 0.")
        if not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise BadInput(f"RiFT's alphas are {self.alphas}; all must lie in [0, 1].")
        if not (self.max_drop >= 0 and self.max_doubt > 0 and 0 < self.confidence < 1):
            raise BadInput(
                f"RiFT's max_drop is {self.max_drop}, max_doubt {self.max_doubt} and confidence "
                f"{self.confidence}; give 0 or more, more than 0, and a number between 0 and 1."
            )
        # What the paired interval reaches where not one image differs.
        least = wilson(0, self.held_out, self.confidence).high
        if least > self.max_doubt:
            needed = self.held_out * (1 / self.max_doubt - 1) / (1 / least - 1)
            raise BadInput(
                f"{self.held_out} held-out images cannot tell whether robustness falls by more "
                f"than {self.max_doubt:.2%}: even where none differs, the interval reaches "
                f"{least:.2%}. Hold out at least {math.ceil(needed)} (held_out) or raise max_doubt."
            )
        if self.candidates not in get_args(Candidates):
            raise BadInput(f"RiFT's candidates are {self.candidates!r}; use all or spatial.")

    def protect(
        self,
        models: Sequence[nn.Module],
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Trainer,
        streams: Streams,
    ) -> nn.Module:
        """The fine-tuned classifier; see `tune`, which reports how it came about too."""
        return self.tune(only(models, "RiFT"), data, threat, trainer=trainer, streams=streams).model

    def tune(
        self,
        model: nn.Module,
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Trainer,
        streams: Streams,
    ) -> Tuned:
        """Choose weights, fine-tune them, and choose how far to go.

        Args:
            model: An adversarially trained classifier; it is not changed.
            data: Training images.
            threat: What it was trained against; its perturbation set counts.
            trainer: Of the fine-tuning: passes, optimiser, augmentation, device, checkpoints. Its
                batch norm is frozen in any case. `published()` gives the paper's.
            streams: One per image of `data`.

        Raises:
            DoesNotFit: The threat or the model is none that RiFT can work with, or fine-tuning
                changes buffers.
            UnknownName: The model has no such module.
            BadInput: The data do not suffice, or the trainer holds images out itself.
            KeyboardInterrupt: A signal asked the trainer to end; it has saved what it had.
        """
        self.check(threat)
        if trainer.selection is not None:
            raise BadInput(
                "RiFT holds images out by itself. Give it a trainer without a selection."
            )
        tuned = copy.deepcopy(model)
        device = next((p.device for p in tuned.parameters()), torch.device("cpu"))
        threat = ThreatModel(name=threat.name, perturbation=threat.allowed)
        learnt, held_out = Selection(n=self.held_out).split(data, trainer.seed)
        there = Streams(streams.key, streams.ids.to(device), streams.lanes.to(device))
        found = weights(tuned, data.inputs([0]).to(device))
        ranking = self._ranking(
            tuned, learnt, threat, found, _of(there, data, learnt), trainer.seed
        )
        chosen = choice(
            found,
            [one.module for one in ranking],
            modules=self.modules,
            candidates=self.candidates,
        )
        names = [weight.name for weight in chosen]
        before = values(tuned, names)
        epochs = self._fine_tune(tuned, learnt, trainer, names)
        after = values(tuned, names)
        points = curve(
            tuned,
            before,
            after,
            sorted({0.0, *self.alphas}),
            held_out,
            threat,
            limits=Limits(drop=self.max_drop, doubt=self.max_doubt, confidence=self.confidence),
            steps=self.attack_steps,
            batch_size=self.batch_size,
            streams=_of(there, data, held_out).fork("held out"),
        )
        place = best(points).alpha
        put(tuned, mixed(before, after, place))
        report = RiFTReport(
            modules=tuple(weight.module for weight in chosen),
            chosen_by="name" if self.modules else "criticality",
            alpha=place,
            displacement={
                weight.module: displacement(before[weight.name], after[weight.name])
                for weight in chosen
            },
            criticality=ranking,
            curve=points,
            epochs=epochs,
            settings=describe(self),
            threat=describe(threat),
            data={"spec": data.spec, "split": data.split, "n": len(data), "sha256": data.sha256},
        )
        if report.advice is not None:
            _logger.warning(report.advice)
        return Tuned(tuned, report, before, after)

    def _ranking(
        self,
        model: nn.Module,
        learnt: LabelledImages,
        threat: ThreatModel,
        found: Sequence[Weight],
        streams: Streams,
        seed: int,
    ) -> tuple[Criticality, ...]:
        images = learnt.stratified(min(self.samples, len(learnt)), seed=seed)
        own = _of(streams, learnt, images).fork("criticality")
        inputs, labels = attacked(
            model, images, threat, steps=self.attack_steps, batch_size=self.batch_size, streams=own
        )
        return ranked(
            [
                criticality(
                    model,
                    weight,
                    inputs,
                    labels,
                    radius=self.relative_radius,
                    steps=self.steps,
                    batch_size=self.batch_size,
                )
                for weight in found
            ]
        )

    def _fine_tune(
        self,
        model: nn.Module,
        learnt: LabelledImages,
        trainer: Trainer,
        names: Sequence[str],
    ) -> int:
        """Change the chosen weights, and nothing else; the epochs that were done."""
        own = dict(model.named_parameters())
        trainer = dataclasses.replace(trainer, batch_norm="frozen")
        with buffers_kept(model):
            result = trainer.fit(
                model, learnt, cross_entropy, parameters=[own[name] for name in names]
            )
        if result.stopped_by == "signal":
            raise KeyboardInterrupt
        return result.best.epoch

    @staticmethod
    def published(*, epochs: int = 10, lr: float = 1e-3) -> Trainer:
        """The paper's fine-tuning, without its augmentation.

        Args:
            epochs: Passes over the data; the rate falls to a tenth halfway.
            lr: The paper's suits wide networks, which it moves little. One that leaves the tensor
                where it was shows nothing: see `RiFTReport.displacement`.
        """
        return Trainer(
            epochs=epochs, optimizer=SGD(lr=lr), schedule=Step(milestones=((epochs + 1) // 2,))
        )


def _of(streams: Streams, whole: LabelledImages, part: LabelledImages) -> Streams:
    """The streams of a part, from those of the whole."""
    place = {number: row for row, number in enumerate(whole.ids.tolist())}
    rows = torch.tensor([place[number] for number in part.ids.tolist()])
    return streams.take(rows.to(streams.ids.device))
