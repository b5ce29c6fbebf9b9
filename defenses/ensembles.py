"""Several classifiers asked together, and the rules that make one answer of theirs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from robustkit import models
from robustkit.data import LabelledImages
from robustkit.defenses.base import Defended, Defense
from robustkit.errors import BadInput, ShapeMismatch
from robustkit.models.frozen import frozen
from robustkit.randomness import Streams
from robustkit.threat_models import Output, ThreatModel, answer
from robustkit.training import Trainer
from robustkit.training.options import build

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, kw_only=True)
class Aggregation(Defense):
    """A rule that makes one answer of several members' logits, and the ensemble that follows it.

    A pure function of logits; as a defense, it makes an `Ensemble` of the models it is given and
    trains nothing.

    Attributes:
        least: The fewest members for which it means anything.
        temperatures: What each member's logits are divided by; none divides nothing. A member whose
            logits are large for no reason counts for too much otherwise.

    Raises:
        BadInput: A temperature that is no positive number.
    """

    least: ClassVar[int] = 1

    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse temperatures that mean nothing."""
        if not all(0 < one < float("inf") for one in self.temperatures):
            raise BadInput(f"The temperatures are {self.temperatures}; all must be above 0.")

    def __call__(self, logits: Tensor) -> Tensor:
        """(N, K) answers to (N, M, K) logits of M members.

        Where a member's logits hold NaN, so does the answer to that image, which names no class.

        Raises:
            BadInput: Too few members, or not one temperature for each.
            ShapeMismatch: The logits have another number of dimensions.
        """
        if logits.ndim != 3:
            raise ShapeMismatch(
                f"The logits have shape {tuple(logits.shape)}; give (examples, members, classes)."
            )
        self.check_members(logits.shape[1])
        if self.temperatures:
            logits = logits / logits.new_tensor(self.temperatures)[:, None]
        return self.combine(logits)

    @abstractmethod
    def combine(self, logits: Tensor) -> Tensor:
        """(N, K) answers to (N, M, K) logits, M enough, that temperatures have divided."""

    def stand_ins(self) -> Mapping[str, "Aggregation"]:
        """Rules by name through which an adversary would look at the same members.

        None for a rule that hides nothing.
        """
        return {}

    def check_members(self, count: int) -> None:
        """Refuse a number of members for which the rule means nothing.

        Raises:
            BadInput: It does.
        """
        name = type(self).__name__
        if count < self.least:
            raise BadInput(f"{name} needs at least {self.least} members; {count} were given.")
        if self.temperatures and len(self.temperatures) != count:
            raise BadInput(
                f"{name} was given {len(self.temperatures)} temperatures for {count} members; give "
                "one for each, or none."
            )

    def protect(
        self,
        models: Sequence[nn.Module],
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Trainer,
        streams: Streams,
    ) -> "Ensemble":
        """The ensemble of these models; see `ensemble`. Nothing is learnt."""
        self.check(threat)
        return self.ensemble(models, data.inputs(torch.arange(min(2, len(data)))))

    def ensemble(self, members: Sequence[nn.Module], images: Tensor) -> "Ensemble":
        """The ensemble of classifiers that belong together.

        Args:
            members: Classifiers; they are shared, not copied.
            images: (N, C, H, W) a few of the images they will see, to try them on.

        Raises:
            BadInput: They do not: other classes, two with the same weights, answers that are no
                numbers, or images of another shape.
        """
        made = Ensemble(members, self)
        check_distinct(members)
        numbered = enumerate(members, start=1)
        _check_classes([asked(f"Member {number}", member, images) for number, member in numbered])
        return made

    def arguments(self, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What builds the ensemble again, for `robustkit.models.save`.

        Args:
            members: What builds each member, as `robustkit.models.recipe` gives it.
        """
        return {"members": list(members), "options": options(self)}

    @classmethod
    def rebuild(
        cls, *, members: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> "Ensemble":
        """The ensemble in its structure; its weights are still to be loaded.

        Args:
            members: What builds each member.
            options: Of the rule.
        """
        rule = cls.of(options)
        rule.check_members(len(members))
        return Ensemble([models.rebuild(member) for member in members], rule)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """The rule with these options, as `arguments` writes them."""
        return build(cls, options, where=cls.__name__)


def options(rule: "DataclassInstance") -> dict[str, Any]:
    """A rule's hyper-parameters as JSON, without those that are None."""
    found = {field.name: getattr(rule, field.name) for field in fields(rule)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value is not None
    }


class Ensemble(Defended):
    """Classifiers whose answers a rule makes into one.

    Attributes:
        members: What is asked.
        aggregation: The rule.
        stochastic: Whether any member answers at random.
    """

    def __init__(self, members: Sequence[nn.Module], aggregation: Aggregation) -> None:
        """Put members together; they are shared, not copied.

        Args:
            members: Classifiers of the same images and classes.
            aggregation: The rule.

        Raises:
            BadInput: The rule needs more of them, or one answers labels and nothing else.
        """
        super().__init__()
        aggregation.check_members(len(members))
        for number, member in enumerate(members, start=1):
            if models.labels_only(member):
                raise BadInput(
                    f"Member {number} answers labels and nothing else, and "
                    f"{type(aggregation).__name__} needs logits."
                )
        self.members = nn.ModuleList(members)
        self.aggregation = aggregation
        self.stochastic = any(getattr(member, "stochastic", False) for member in members)

    def votes(self, inputs: Tensor, *, streams: Streams | None = None) -> Tensor:
        """(N, M, K) logits of the M members for (N, C, H, W) images.

        Raises:
            ShapeMismatch: The members do not answer the same number of classes.
            BadInput: A member refuses answers.
        """
        answers = [
            _logits(number, answer(member, inputs, _own(streams, number)))
            for number, member in enumerate(self.members, start=1)
        ]
        counts = [logits.shape[1] for logits in answers]
        if len(set(counts)) > 1:
            raise ShapeMismatch(
                f"The members answer {', '.join(map(str, counts))} classes; all must answer the "
                "same."
            )
        return torch.stack(answers, dim=1)

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        """The rule's answers to a batch; see `Defended`."""
        return Output(self.aggregation(self.votes(inputs, streams=streams)))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, K) logits; members that draw at random always draw alike, row by row."""
        streams = always(inputs) if self.stochastic else None
        return self.answer(inputs, streams=streams).logits

    def surrogates(self) -> Mapping[str, nn.Module]:
        """The members under plainer rules, and each of them alone.

        None where the rule hides nothing. Of members that name stand-ins themselves, their first
        ones are taken.
        """
        rules = self.aggregation.stand_ins()
        if not rules:
            return {}
        plain = [stand_in(member) for member in self.members]
        together = {name: Ensemble(plain, rule) for name, rule in rules.items()}
        alone = {f"member-{number}": member for number, member in enumerate(plain, start=1)}
        return {**together, **alone}


def always(inputs: Tensor) -> Streams:
    """Streams for (N, ...) rows of which nobody has said who they are: always the same."""
    return Streams.of(seed=0, ids=torch.arange(len(inputs), device=inputs.device))


def stand_in(member: nn.Module) -> nn.Module:
    """What an adversary would attack in place of a classifier: its first stand-in, or itself."""
    named = getattr(member, "surrogates", dict)
    return next(iter(named().values()), member)


def _own(streams: Streams | None, number: int) -> Streams | None:
    return None if streams is None else streams.fork(f"member {number}")


def _logits(number: int, output: Output) -> Tensor:
    if output.rejected is not None or output.label_set is not None:
        raise BadInput(
            f"Member {number} refuses answers or names several labels; an ensemble needs members "
            "that answer every image with one label."
        )
    return output.logits


def asked(name: str, member: nn.Module, images: Tensor) -> Tensor:
    """(N, K) logits of a classifier for (N, C, H, W) images on which it is tried.

    Args:
        name: What messages call it.
        member: In whatever mode; it is left as it was.
        images: A few, wherever they are.

    Raises:
        BadInput: It cannot take such images, or answers something else than numbers.
    """
    images = images.to(next((one.device for one in member.parameters()), images.device))
    try:
        with frozen(member), torch.no_grad():
            logits = answer(member, images, always(images)).logits
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shape = " x ".join(str(side) for side in images.shape[1:])
        raise BadInput(
            f"{name} cannot take images of {shape} (channels x height x width): "
            f"{str(error).strip().rstrip('.')}. It must take the images that are defended."
        ) from error
    if not bool(logits.isfinite().all()):
        raise BadInput(
            f"{name} answers NaN or infinity, which makes every answer that is built on it "
            "worthless: leave it out, or train it again."
        )
    return logits


def _check_classes(answers: Sequence[Tensor]) -> None:
    counts = [logits.shape[1] for logits in answers]
    if len(set(counts)) > 1:
        raise BadInput(
            f"The members answer {', '.join(map(str, counts))} classes; an ensemble needs members "
            "of the same classes."
        )


def check_distinct(members: Sequence[nn.Module]) -> None:
    """Refuse members of which two are the same.

    Raises:
        BadInput: There are two.
    """
    seen: dict[str, int] = {}
    for number, member in enumerate(members, start=1):
        first = seen.setdefault(models.fingerprint(member), number)
        if first != number:
            raise BadInput(
                f"Members {first} and {number} have the same weights. They would vote twice with "
                "one voice: train them from different seeds, or name each once."
            )
