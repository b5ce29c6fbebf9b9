"""Any attack of Foolbox, counted and limited by the view."""

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import foolbox.attacks
import torch
from foolbox.criteria import Criterion, Misclassification, TargetedMisclassification
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from robustkit.attacks._foolbox_catalogue import ALIASES, CATALOGUE, Known
from robustkit.attacks._foreign import ForeignAttack, Scalar
from robustkit.errors import BadInput, MissingExtra, UnknownName
from robustkit.threat_models import Access, Decisions, Objective, PerturbationSet, ThreatModel

# Options that the adapter sets itself, or that would write files.
_OURS = ("distance", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(ForeignAttack[Decisions]):
    """Any attack of Foolbox, by the name of its class.

    What it must see, its norms and goals, and whether it minimises, differ from attack to attack:
    on the class they say what is possible at all, on an instance what this attack does.

    Attributes:
        class_name: Foolbox's name of the class or its short form, as `HopSkipJumpAttack` or
            `LinfPGD`.
        options: Keyword arguments of its constructor. `init_attack` is the name of a class.

    Raises:
        UnknownName: Foolbox has no such attack.
        BadInput: Options it does not have or refuses.
        MissingExtra: It needs a package that is not installed.

    Reference:
        Rauber, Zimmermann, Bethge, Brendel: Foolbox Native: fast adversarial attacks to benchmark
        the robustness of machine learning models in PyTorch, TensorFlow, and JAX. JOSS 2020.

    Differs from the reference:
        Gradients do not reach the model's parameters. A batch that Foolbox gives up, for example
        because one image found no starting point, is attacked image by image; so is everything
        under a query budget, where the best point asked about counts when the budget ends. A
        search that asks about NaN is ended. What left the set by rounding is put back into it.
        Attacks that start from another image are offered some: for a target the images of its class
        that the adversary owns (`Objective.starts`; without these, one of the batch), otherwise one
        of another class where Foolbox's own start failed.

    Example:
        >>> attack = FoolboxAttack(class_name="HopSkipJumpAttack", options=(("steps", 8),))
        >>> str(attack.access), sorted(attack.norms)
        ('decision', ['l2', 'linf'])
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    class_name: str
    options: tuple[tuple[str, Scalar], ...] = ()

    def __post_init__(self) -> None:
        """Refuse unknown names and options; say what this attack needs."""
        if self._full_name not in CATALOGUE:
            raise UnknownName("Foolbox attack", self.class_name, [*CATALOGUE, *ALIASES])
        known = self._known
        norms = known.norms
        if self._full_name == "HopSkipJumpAttack":
            norms = (
                tuple(str(value) for name, value in self.options if name == "constraint") or norms
            )
        for name, value in (
            ("access", known.access),
            ("norms", frozenset(norms)),
            ("goals", frozenset(known.goals)),
            ("minimises", known.minimises),
        ):
            object.__setattr__(self, name, value)
        self._made(norms[0] if norms else "")

    @property
    def _full_name(self) -> str:
        return ALIASES.get(self.class_name, self.class_name)

    @property
    def _known(self) -> Known:
        return CATALOGUE[self._full_name]

    @property
    def variant(self) -> str:
        """The class's name, as it was given."""
        return self.class_name

    @property
    def arguments(self) -> Mapping[str, Scalar]:
        """All options of the constructor that are numbers or words, defaults included.

        The norm of HopSkipJump is the threat model's, unless it is given.
        """
        defaults = {
            name: parameter.default
            for name, parameter in parameters(self.class_name).items()
            if name != "constraint"
            and (parameter.default is None or isinstance(parameter.default, Scalar))
        }
        return defaults | dict(self.options)

    def why_not(self, threat: ThreatModel) -> str | None:
        """The reason why this attack does not fit the threat model; None if it does."""
        if self._known.never:
            return self._known.never
        reason = super().why_not(threat)
        if reason is None and self._known.unit_range:
            allowed = threat.allowed
            if (allowed.low, allowed.high) != (0, 1):
                reason = (
                    f"it works in the value range [0, 1], the threat's is "
                    f"[{allowed.low}, {allowed.high}]"
                )
        return reason

    def batches(self, objective: Objective) -> bool:
        """Not where each image needs a start of its own."""
        return not (self._known.starts and objective.targets is not None)

    def starts(self, inputs: Tensor, objective: Objective, row: int) -> Sequence[Tensor | None]:
        """Foolbox's own start and, where the attack takes one, another image.

        For a target the images that the adversary owns, or else one of the batch; without a target
        an image of another class.
        """
        if not self._known.starts:
            return (None,)
        if objective.targets is None:
            suitable = objective.labels != objective.labels[row]
            return (None, *(inputs[other] for other in suitable.nonzero()[:1]))
        if objective.starts is not None:
            owned = objective.starts[row]
            there = owned.isfinite().flatten(1).all(1)
            return (*torch.split(owned[there].to(inputs.dtype), 1), None)
        suitable = objective.labels == objective.targets[row]
        return (*(inputs[other] for other in suitable.nonzero()[:1]), None)

    def search(
        self,
        module: nn.Module,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        starts: Tensor | None,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Foolbox's search; see `ForeignAttack.search`."""
        model = PyTorchModel(module, bounds=(allowed.low, allowed.high), device=inputs.device)
        criterion: Criterion = Misclassification(objective.labels)
        if objective.targets is not None:
            criterion = TargetedMisclassification(objective.targets)
        given = {} if starts is None else {"starting_points": starts}
        # Without an epsilon an attack minimises to its end and needs no distance to clip by.
        epsilon = None if self.minimises else allowed.radius
        attack = self._made(allowed.norm)
        _, points, success = attack(model, inputs, criterion, epsilons=epsilon, **given)
        return points, torch.as_tensor(success)

    def _made(self, norm: str) -> Any:  # noqa: ANN401 - Foolbox's classes have no common base
        options: dict[str, Any] = dict(self.options)
        known = parameters(self.class_name)
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise BadInput(
                f"Foolbox's {self.class_name} has no option {', '.join(unknown)}. "
                f"Its options: {', '.join(known) or 'none'}."
            )
        missing = sorted(
            name
            for name, parameter in known.items()
            if parameter.default is parameter.empty and name not in options
        )
        if missing:
            raise BadInput(
                f"Foolbox's {self.class_name} needs the option {', '.join(missing)}. "
                f"Its options: {', '.join(known)}."
            )
        if isinstance(options.get("init_attack"), str):
            options["init_attack"] = FoolboxAttack(class_name=options["init_attack"])._made(norm)
        if self._full_name == "HopSkipJumpAttack":
            options.setdefault("constraint", norm)
        return self._called(options)

    def _called(self, options: Mapping[str, Any]) -> Any:  # noqa: ANN401
        try:
            return getattr(foolbox.attacks, self._full_name)(**options)
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"Foolbox's {self.class_name} needs the package {error.name!r}, which is not "
                f"installed. Install it with: pip install {error.name}"
            ) from error
        except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self.options)
            raise BadInput(
                f"Foolbox's {self.class_name} refuses the options {given or 'by default'}: "
                f"{error or type(error).__name__}."
            ) from error


def parameters(class_name: str) -> Mapping[str, inspect.Parameter]:
    """The options of an attack of Foolbox: its constructor's parameters, types resolved.

    Raises:
        UnknownName: Foolbox has no such attack.
    """
    full_name = ALIASES.get(class_name, class_name)
    if full_name not in CATALOGUE:
        raise UnknownName("Foolbox attack", class_name, [*CATALOGUE, *ALIASES])
    constructor = getattr(foolbox.attacks, full_name)
    types = typing.get_type_hints(constructor.__init__)
    return {
        name: parameter.replace(annotation=types.get(name, parameter.annotation))
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name not in _OURS
    }
