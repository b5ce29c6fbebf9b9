"""The multi-resolution self-ensemble: one network that sees stacks, with heads on inner layers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import models, registry
from robustkit.data import LabelledImages
from robustkit.defenses._trunk import Stem, widened
from robustkit.defenses.base import Defense, only
from robustkit.defenses.crossmax import CrossMax
from robustkit.defenses.ensembles import Aggregation, always, options
from robustkit.defenses.multi_resolution_stack import MultiResolutionStack
from robustkit.defenses.self_ensemble import SelfEnsemble
from robustkit.errors import BadInput, CorruptFile
from robustkit.randomness import Streams
from robustkit.threat_models import ThreatModel
from robustkit.training import AdamW, Batch, Constant, Trainer
from robustkit.training.losses import PGDTraining, bare
from robustkit.training.options import build


@dataclass(frozen=True, kw_only=True)
class OnDraws:
    """Cross-entropy of a model that draws, each example by its own stream.

    Attributes:
        light: Crafts what is learnt from, on draws of its own; None learns from clean images.
    """

    light: PGDTraining | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch, and over its answers if the model gives several for each."""
        inputs = batch.inputs
        if self.light is not None:
            drawn = _OnOneDraw(bare(model), batch.streams.fork("draws under attack"))
            inputs = self.light.craft(drawn, batch)
        logits = model(inputs, streams=batch.streams.fork("draws")).float()
        each = len(logits) // len(batch)
        labels = batch.labels.repeat_interleave(each, dim=0)
        right = logits.detach().argmax(1) == batch.classes.repeat_interleave(each, dim=0)
        batch.notes["accuracy"] = right.float().mean()
        return F.cross_entropy(logits, labels)


class _OnOneDraw(nn.Module):
    """A model that draws, as one that does not: for an attack between two steps of training."""

    def __init__(self, model: nn.Module, streams: Streams) -> None:
        super().__init__()
        self.model = model
        self.streams = streams

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs, streams=self.streams)
        # One answer per example: where there are several, their mean.
        return logits.view(len(inputs), -1, logits.shape[1]).mean(1)


class _Heads(nn.Module):
    """The heads of a self-ensemble, all in one pass: (N (M - 1), K) logits, example by example."""

    def __init__(self, ensemble: SelfEnsemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, inputs: Tensor, streams: Streams | None = None) -> Tensor:
        streams = streams or always(inputs)
        return self.ensemble.heads_only(inputs, streams)[0].flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class MultiResolution(Defense):
    """A network fine-tuned on stacks of drawn versions of its input, with heads on inner layers.

    The first convolution is replaced by one that takes the stack; the network is fine-tuned on
    draws; then a head (batch norm and a linear layer) learns on each of some inner layers, all
    heads in one pass over the data while the network stands still. Heads and network are
    aggregated, by CrossMax unless another rule is given.

    Its answers are random, and CrossMax hides the members' gradients: an evaluation averages over
    draws, attacks all stand-ins, and scores on fresh draws. Published figures that did less did not
    last; see `CrossMax`.

    Attributes:
        stack: How an image becomes a stack.
        aggregation: The rule that makes one answer.
        layers: Names of the modules that get heads; none takes up to four.
        pooled: Average over places before each head. The authors flatten, which takes by far more
            weights.
        second_pass: Let the network answer to draws of its own, as the authors do.
        upsample: Height to which stacks are brought for the network, for one that was trained on
            larger images; none leaves them.
        stem: Weights of the new first convolution: `fresh`, as the authors have it, or the old ones
            `spread` over the stack.
        head_epochs: Passes over the data for the heads.
        light: Learn from images that one step of FGSM in the threat model's set has changed.

    Raises:
        BadInput: A value that means nothing.

    Reference:
        Fort, Lakshminarayanan: Ensemble everything everywhere: multi-scale aggregation for
        adversarial robustness. 2024.

    Differs from the reference:
        Heads are made only for layers that are used, and learn together, one pass for all. The
        network stays in eval mode meanwhile; in the authors' notebook its batch-norm statistics
        move with every head. Their notebook scores on one fresh draw of 32 images.

    Reproduces:
        None of the published figures, which need a GPU; the benchmark `crossmax` has a small one.
    """

    stack: MultiResolutionStack = field(default_factory=MultiResolutionStack)
    aggregation: Aggregation = field(default_factory=CrossMax)
    layers: tuple[str, ...] = ()
    pooled: bool = True
    second_pass: bool = True
    upsample: int | None = None
    stem: Stem = "fresh"
    head_epochs: int = 1
    light: bool = False

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.head_epochs < 1:
            raise BadInput(f"The heads learn for {self.head_epochs} epochs; give at least 1.")
        if self.stem not in get_args(Stem):
            raise BadInput(f"The stem is {self.stem!r}; use {' or '.join(get_args(Stem))}.")

    @staticmethod
    def published(*, epochs: int = 6, lr: float = 3.3e-5) -> Trainer:
        """The authors' fine-tuning: Adam at a small rate, for a pretrained ResNet-152."""
        return Trainer(
            epochs=epochs,
            batch_size=128,
            optimizer=AdamW(lr=lr, weight_decay=0.0),
            schedule=Constant(),
        )

    def protect(
        self,
        models: Sequence[nn.Module],
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Trainer,
        streams: Streams,
    ) -> SelfEnsemble:
        """The self-ensemble of one network, which is not changed; see `Defense`.

        With a folder, the trainer writes into `backbone` and `heads` inside it.

        Raises:
            BadInput: The stack does not fit the images, or there are no such layers.
            DoesNotFit: Light adversarial training knows no such threat.
            KeyboardInterrupt: A signal asked the trainer to end; it has saved what it had.
        """
        self.check(threat)
        network = only(models, "MultiResolution")
        shape = (data.shape[0], data.shape[1], data.shape[2])
        ensemble = self.assembled(network, shape=shape, seed=trainer.seed)
        loss = OnDraws(
            light=PGDTraining(threat=threat, steps=1, step_size=1.0, start="clean")
            if self.light
            else None
        )
        first = _into(trainer, "backbone")
        if first.fit(ensemble.trunk, data, loss).stopped_by == "signal":
            raise KeyboardInterrupt
        second = dataclasses.replace(_into(trainer, "heads"), epochs=self.head_epochs)
        heads = _Heads(ensemble)
        found = second.fit(heads, data, loss, parameters=ensemble.heads.parameters())
        if found.stopped_by == "signal":
            raise KeyboardInterrupt
        return ensemble.eval()

    def assembled(
        self, network: nn.Module, *, shape: tuple[int, int, int], seed: int = 0
    ) -> SelfEnsemble:
        """The self-ensemble before anything was learnt.

        Args:
            network: A classifier of images; a widened copy is taken.
            shape: Channels, height and width of the images.
            seed: Of the new weights.

        Raises:
            BadInput: See `SelfEnsemble`.
        """
        wide = widened(network, len(self.stack.resolutions), stem=self.stem, seed=seed)
        return SelfEnsemble(
            wide,
            self.stack,
            self.aggregation,
            shape=shape,
            layers=self.layers,
            pooled=self.pooled,
            second_pass=self.second_pass,
            upsample=self.upsample,
            seed=seed,
        )

    def arguments(
        self, backbone: Mapping[str, Any], ensemble: SelfEnsemble, *, shape: Sequence[int]
    ) -> dict[str, Any]:
        """What builds the self-ensemble again, for `robustkit.models.save`.

        Args:
            backbone: What builds the network, as `robustkit.models.recipe` gives it.
            ensemble: What was made of it.
            shape: Channels, height and width of the images.
        """
        own = {"pooled": self.pooled, "second_pass": self.second_pass, "upsample": self.upsample}
        return {
            "backbone": dict(backbone),
            "shape": list(shape),
            "layers": list(ensemble.layers),
            "stack": options(self.stack),
            "rule": {"entry": _entry(self.aggregation), "options": options(self.aggregation)},
            "own": {name: value for name, value in own.items() if value is not None},
        }

    @classmethod
    def rebuild(
        cls,
        *,
        backbone: Mapping[str, Any],
        shape: Sequence[int],
        layers: Sequence[str],
        stack: Mapping[str, Any],
        rule: Mapping[str, Any],
        own: Mapping[str, Any],
    ) -> SelfEnsemble:
        """The self-ensemble in its structure; its weights are still to be loaded.

        Args:
            backbone: What builds the network.
            shape: Channels, height and width of the images.
            layers: Where the heads are.
            stack: Of the stack.
            rule: The registered name and the options of the rule.
            own: Whatever else this class has been told.

        Raises:
            CorruptFile: They do not describe a self-ensemble.
        """
        kind = registry.find("defenses", str(rule["entry"])).load()
        if not issubclass(kind, Aggregation) or len(shape) != 3:
            raise CorruptFile("The saved self-ensemble has no rule, or no shape of images.")
        made = build(
            cls,
            {**own, "layers": list(layers)},
            where="multi-resolution",
            given={
                "stack": build(MultiResolutionStack, stack, where="stack"),
                "aggregation": kind.of(rule["options"]),
            },
        )
        channels, height, width = map(int, shape)
        return made.assembled(models.rebuild(backbone), shape=(channels, height, width))


def _into(trainer: Trainer, name: str) -> Trainer:
    return trainer if trainer.out is None else dataclasses.replace(trainer, out=trainer.out / name)


def _entry(rule: Aggregation) -> str:
    """The name under which a rule is registered."""
    for name, entry in registry.entries("defenses").items():
        if entry.load() is type(rule):
            return name
    raise BadInput(f"{type(rule).__name__} is not registered, so that it cannot be saved.")
