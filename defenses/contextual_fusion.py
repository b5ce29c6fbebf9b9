"""Contextual fusion: one head on the features of two networks that were trained differently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import models
from robustkit.data import LabelledImages
from robustkit.defenses.base import Defended, Defense
from robustkit.defenses.ensembles import asked, check_distinct, options
from robustkit.errors import BadInput, CorruptFile, ShapeMismatch
from robustkit.models.frozen import frozen
from robustkit.models.layers import seeded
from robustkit.randomness import Streams
from robustkit.threat_models import Output, ThreatModel
from robustkit.training import Batch, Trainer
from robustkit.training.losses import bare
from robustkit.training.losses.base import accuracy
from robustkit.training.options import build

BRANCHES = ("context", "object")


@dataclass(frozen=True, kw_only=True)
class FusionLoss:
    """Cross-entropy of the fused head and of each branch's own, with a price on large weights.

    Attributes:
        penalties: Of the squared weights that read each branch.
    """

    penalties: tuple[float, ...]

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch, added up over the heads."""
        logits = model(batch.inputs).float()
        each = len(logits) // len(batch)
        batch.notes["accuracy"] = accuracy(logits[::each], batch)
        labels = batch.labels.repeat_interleave(each, dim=0)
        weights = bare(model).get_submodule("fused")
        if not isinstance(weights, Fused):
            raise TypeError(f"A {type(weights).__name__} has no branches.")
        return each * F.cross_entropy(logits, labels) + weights.price(self.penalties)


class _Heads(nn.Module):
    """All heads of a fused model, in one pass: (3 N, K) logits, image by image."""

    def __init__(self, fused: "Fused") -> None:
        super().__init__()
        self.fused = fused

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fused.every_head(inputs).flatten(0, 1)


class Features(nn.Module):
    """What a classifier's last linear layer reads.

    Attributes:
        network: The classifier.
        layer: The name of that layer.
    """

    def __init__(self, network: nn.Module) -> None:
        """Look for the layer.

        Raises:
            BadInput: There is none, or the classifier is none by itself.
        """
        super().__init__()
        found = [name for name, one in network.named_modules() if isinstance(one, nn.Linear)]
        if not found or hasattr(network, "answer"):
            raise BadInput(
                f"{type(network).__name__} has no features to fuse: give plain networks that end "
                "with a linear layer."
            )
        self.network = network
        self.layer = found[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, F) features of (N, C, H, W) images."""
        read: list[Tensor] = []
        handle = self.network.get_submodule(self.layer).register_forward_pre_hook(
            lambda _module, given: read.append(given[0])
        )
        try:
            self.network(inputs)
        finally:
            handle.remove()
        return read[-1].flatten(1)


class Fused(Defended):
    """Two frozen networks that see the same image, and heads on their features.

    Features are brought to mean 0 and deviation 1, so that a weight means as much wherever it
    reads. Deterministic and differentiable.

    Attributes:
        branches: What the features are read from: the context's network and the object's.
        norms: Mean and deviation of each branch's features.
        fusion: The head on both.
        alone: A head on each branch alone, for controls and adversaries.
    """

    def __init__(
        self,
        branches: Sequence[nn.Module],
        *,
        classes: int,
        shape: tuple[int, int, int],
        seed: int = 0,
    ) -> None:
        """Put new heads on two networks, which are shared, not copied.

        Args:
            branches: The context's classifier and the object's, of any classes.
            classes: Of the images.
            shape: Channels, height and width of the images.
            seed: Of the heads' weights.

        Raises:
            BadInput: Not two, one without features, or images that they cannot take.
        """
        super().__init__()
        if len(branches) != len(BRANCHES):
            raise BadInput(
                f"Contextual fusion needs two members, {' and '.join(BRANCHES)}; "
                f"{len(branches)} were given."
            )
        where = next((one.device for one in branches[0].parameters()), torch.device("cpu"))
        self.branches = nn.ModuleList(Features(branch) for branch in branches)
        blank = torch.zeros(1, *shape, device=where)
        for number, branch in enumerate(branches, start=1):
            asked(f"Member {number}", branch, blank)
        with frozen(self.branches), torch.no_grad():
            self.sizes = [int(branch(blank).shape[1]) for branch in self.branches]
        with seeded(seed):
            self.norms = nn.ModuleList(nn.BatchNorm1d(size, affine=False) for size in self.sizes)
            self.fusion = nn.Linear(sum(self.sizes), classes)
            self.alone = nn.ModuleList(nn.Linear(size, classes) for size in self.sizes)
        self.to(where)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Fused":
        """Put the heads in training mode or eval mode; the networks stay in eval mode."""
        super().train(mode)
        self.branches.eval()
        return self

    def features(self, inputs: Tensor, number: int) -> Tensor:
        """(N, F) normalised features of one branch.

        Raises:
            ShapeMismatch: The images give another number of features than those of training.
        """
        read: Tensor = self.branches[number](inputs)
        if read.shape[1] != self.sizes[number]:
            shape = " x ".join(str(side) for side in inputs.shape[1:])
            raise ShapeMismatch(
                f"Images of {shape} give {read.shape[1]} features of the {BRANCHES[number]}; its "
                f"head has learnt {self.sizes[number]}. Give images of the size of training."
            )
        normalised: Tensor = self.norms[number](read)
        return normalised

    def every_head(self, inputs: Tensor) -> Tensor:
        """(N, 3, K) logits of the fused head and of each branch's own."""
        read = [self.features(inputs, number) for number in range(len(BRANCHES))]
        own = [head(one) for head, one in zip(self.alone, read, strict=True)]
        return torch.stack([self.fusion(torch.cat(read, dim=1)), *own], dim=1)

    def price(self, penalties: Sequence[float]) -> Tensor:
        """The squared weights of all heads, each at the price of the branch that it reads."""
        fused = torch.split(self.fusion.weight, self.sizes, dim=1)
        own = [head.get_parameter("weight") for head in self.alone]
        squares = [
            each * (one.square().sum() + other.square().sum())
            for each, one, other in zip(penalties, fused, own, strict=True)
        ]
        return torch.stack(squares).sum()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        """The fused head's answers to a batch; see `Defended`."""
        read = [self.features(inputs, number) for number in range(len(BRANCHES))]
        return Output(self.fusion(torch.cat(read, dim=1)))

    def surrogates(self) -> Mapping[str, nn.Module]:
        """Each branch alone, with its own head: whoever attacks one network attacks this."""
        return {name: Branch(self, number) for number, name in enumerate(BRANCHES)}


class Branch(nn.Module):
    """One branch of a fused model with its own head: (N, C, H, W) images to (N, K) logits."""

    def __init__(self, fused: Fused, number: int) -> None:
        """Args: the model, and which branch."""
        super().__init__()
        self.fused = fused
        self.number = number

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.fused.alone[self.number](self.fused.features(inputs, self.number))
        return logits


@dataclass(frozen=True, kw_only=True)
class ContextualFusion(Defense):
    """Features of two differently trained networks, in parallel, under one regularised head.

    The claim: an attack that misleads the network of objects leaves that of their surroundings
    alone, so that a head on the features of both withstands it, without adversarial training. An
    adversary who sees the model follows the fused head through both networks at once. Nothing in it
    hides a gradient, so that an ordinary attack on the model itself is the adaptive one; the
    evaluation attacks each branch as well, whose results carry over or do not. Controls: the mean
    of the branches' own heads, and the better one of them, in the benchmark `purifiers`.

    The authors take a network trained on scenes (Places) and one trained on objects (ImageNet).
    Members may be any two networks that end with a linear layer, trained on the same classes or on
    others. Where no labels of surroundings exist, there is a small substitute, and no more: train
    one member on images whose centre is hidden and one on the centre alone (the augmentation
    `Hide`). What these learn are not places.

    Attributes:
        penalties: Price of the squared weights that read the context's features and the object's.
            A larger one leaves the decision to the other branch, for an adversary of whom it is
            known which branch it attacks.

    Raises:
        BadInput: Not two penalties, or one below 0.

    Reference:
        Akumalla, Haney, Bazhenov: Contextual fusion for adversarial robustness. 2020. Of its text
        only the abstract could be read; the form of the penalty is that of Joshi, Akumalla, Haney,
        Bazhenov: Contextual fusion enhances robustness to image blurring. 2024: a multiple of the
        squared weights that read the object's features.

    Differs from the reference:
        Features are normalised before the head, without which a price on weights means something
        else for each branch. Both branches have a price. Each branch gets a head of its own in
        the same pass, for controls and stand-ins.

    Reproduces:
        None of the published figures, which need Places and ImageNet networks.
    """

    penalties: tuple[float, ...] = (1e-3, 1e-3)

    def __post_init__(self) -> None:
        """Refuse penalties that mean nothing."""
        two = len(self.penalties) == len(BRANCHES)
        if not two or not all(0 <= one < float("inf") for one in self.penalties):
            raise BadInput(
                f"The penalties are {self.penalties}; give two numbers from 0 upwards, for "
                f"{' and '.join(BRANCHES)}."
            )

    def protect(
        self,
        models: Sequence[nn.Module],
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Trainer,
        streams: Streams,
    ) -> Fused:
        """The fused model of two networks, context first, which are not changed; see `Defense`.

        Raises:
            BadInput: They are not two different ones, or cannot take the images.
            KeyboardInterrupt: A signal asked the trainer to end; it has saved what it had.
        """
        self.check(threat)
        shape = (data.shape[0], data.shape[1], data.shape[2])
        fused = Fused(models, classes=data.classes, shape=shape, seed=trainer.seed)
        check_distinct(models)
        heads = [*fused.fusion.parameters(), *fused.alone.parameters()]
        loss = FusionLoss(penalties=self.penalties)
        if trainer.fit(_Heads(fused), data, loss, parameters=heads).stopped_by == "signal":
            raise KeyboardInterrupt
        return fused.eval()

    def arguments(
        self, members: Sequence[Mapping[str, Any]], *, classes: int, shape: Sequence[int]
    ) -> dict[str, Any]:
        """What builds the fused model again, for `robustkit.models.save`.

        Args:
            members: What builds each member, as `robustkit.models.recipe` gives it.
            classes: Of the images.
            shape: Channels, height and width of the images.
        """
        return {
            "members": list(members),
            "classes": classes,
            "shape": list(shape),
            "options": options(self),
        }

    @classmethod
    def rebuild(
        cls,
        *,
        members: Sequence[Mapping[str, Any]],
        classes: int,
        shape: Sequence[int],
        options: Mapping[str, Any],
    ) -> Fused:
        """The fused model in its structure; its weights are still to be loaded.

        Args:
            members: What builds each member.
            classes: Of the images.
            shape: Channels, height and width of the images.
            options: Of this class.

        Raises:
            CorruptFile: They do not describe a fused model.
        """
        build(cls, options, where="contextual-fusion")
        whole = all(isinstance(number, int) for number in (classes, *shape))
        if not whole or len(shape) != 3:
            raise CorruptFile("The saved fusion has no number of classes, or no shape of images.")
        rebuilt = [models.rebuild(member) for member in members]
        return Fused(rebuilt, classes=classes, shape=(shape[0], shape[1], shape[2]))
