"""What is known about each attack of Foolbox 3.3; imports nothing of it.

Foolbox does not say what an attack has to see, so that it is written here; a test compares the rest
with Foolbox itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from robustkit.threat_models import Access

_EITHER = ("untargeted", "targeted")
_ANY_NORM = ("linf", "l2", "l1", "l0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """One attack of Foolbox.

    Attributes:
        access: What it must see.
        norms: Distances it keeps to or makes small; all of them where it searches along a path that
            no norm defines.
        goals: Goals it can pursue.
        minimises: It looks for the smallest change; otherwise for success within a radius.
        starts: It needs a point to start from that already reaches the goal.
        unit_range: It works in the value range [0, 1] only.
        never: Why it cannot be run under a threat model at all; empty if it can.
    """

    access: Access
    norms: tuple[str, ...]
    goals: tuple[str, ...] = _EITHER
    minimises: bool = False
    starts: bool = False
    unit_range: bool = False
    never: str = ""


def _descents() -> Iterator[tuple[str, Known]]:
    norms = (("Linf", "linf"), ("L2", "l2"), ("L1", "l1"))
    for prefix, norm in norms:
        either = Known(access=Access.GRADIENT, norms=(norm,))
        for name in (
            "ProjectedGradientDescentAttack",
            "AdamProjectedGradientDescentAttack",
            "BasicIterativeAttack",
            "AdamBasicIterativeAttack",
            "MomentumIterativeFastGradientMethod",
        ):
            yield f"{prefix}{name}", either
        yield (
            f"{prefix}FastGradientAttack",
            Known(access=Access.GRADIENT, norms=(norm,), goals=("untargeted",)),
        )
    for prefix, norm in (*norms, ("L0", "l0")):
        yield (
            f"{'LInf' if prefix == 'Linf' else prefix}FMNAttack",
            Known(access=Access.GRADIENT, norms=(norm,), minimises=True),
        )
        yield (
            f"{'Linfinity' if prefix == 'Linf' else prefix}BrendelBethgeAttack",
            Known(access=Access.GRADIENT, norms=(norm,), minimises=True, starts=True),
        )


def _noises() -> Iterator[tuple[str, Known]]:
    for norm, kinds in (
        ("l2", ("AdditiveGaussianNoise", "AdditiveUniformNoise")),
        ("l2", ("ClippingAwareAdditiveGaussianNoise", "ClippingAwareAdditiveUniformNoise")),
        ("l2", ("RepeatedAdditiveGaussianNoise", "RepeatedAdditiveUniformNoise")),
        (
            "l2",
            (
                "ClippingAwareRepeatedAdditiveGaussianNoise",
                "ClippingAwareRepeatedAdditiveUniformNoise",
            ),
        ),
        ("linf", ("AdditiveUniformNoise", "RepeatedAdditiveUniformNoise")),
    ):
        for kind in kinds:
            yield f"{norm.capitalize()}{kind}Attack", Known(access=Access.DECISION, norms=(norm,))


def _paths() -> Iterator[tuple[str, Known]]:
    for name in (
        "BinarySearchContrastReductionAttack",
        "GaussianBlurAttack",
        "InversionAttack",
        "LinearSearchBlendedUniformNoiseAttack",
        "LinearSearchContrastReductionAttack",
    ):
        yield name, Known(access=Access.DECISION, norms=_ANY_NORM, minimises=True)


CATALOGUE: Mapping[str, Known] = MappingProxyType(
    dict(_descents())
    | dict(_noises())
    | dict(_paths())
    | {
        "SparseL1DescentAttack": Known(access=Access.GRADIENT, norms=("l1",)),
        "VirtualAdversarialAttack": Known(
            access=Access.GRADIENT, norms=("l2",), goals=("untargeted",)
        ),
        "DDNAttack": Known(access=Access.GRADIENT, norms=("l2",), minimises=True),
        "L2CarliniWagnerAttack": Known(access=Access.GRADIENT, norms=("l2",), minimises=True),
        "EADAttack": Known(access=Access.GRADIENT, norms=("l1",), minimises=True),
        "NewtonFoolAttack": Known(
            access=Access.GRADIENT, norms=("l2",), goals=("untargeted",), minimises=True
        ),
        # Foolbox accepts a target here, and still walks to the nearest class.
        "L2DeepFoolAttack": Known(
            access=Access.GRADIENT, norms=("l2",), goals=("untargeted",), minimises=True
        ),
        "LinfDeepFoolAttack": Known(
            access=Access.GRADIENT, norms=("linf",), goals=("untargeted",), minimises=True
        ),
        "GenAttack": Known(
            access=Access.SCORE, norms=("linf",), goals=("targeted",), unit_range=True
        ),
        "L2ContrastReductionAttack": Known(access=Access.DECISION, norms=("l2",)),
        "SaltAndPepperNoiseAttack": Known(access=Access.DECISION, norms=("l2",), minimises=True),
        "BoundaryAttack": Known(access=Access.DECISION, norms=("l2",), minimises=True, starts=True),
        "HopSkipJumpAttack": Known(
            access=Access.DECISION,
            norms=("linf", "l2"),
            minimises=True,
            starts=True,
            unit_range=True,
        ),
        "PointwiseAttack": Known(
            access=Access.DECISION, norms=_ANY_NORM, minimises=True, starts=True
        ),
        "DatasetAttack": Known(
            access=Access.DECISION,
            norms=_ANY_NORM,
            minimises=True,
            never="it takes other people's images instead of changing the given one",
        ),
        "BinarizationRefinementAttack": Known(
            access=Access.DECISION,
            norms=_ANY_NORM,
            minimises=True,
            never="it only refines what another attack has found",
        ),
        "SpatialAttack": Known(
            access=Access.DECISION,
            norms=(),
            never="it rotates and shifts images, which no perturbation set here allows",
        ),
    }
)
"""Every attack that Foolbox exports, by its class name."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "FGM": "L2FastGradientAttack",
        "FGSM": "LinfFastGradientAttack",
        "L1PGD": "L1ProjectedGradientDescentAttack",
        "L2PGD": "L2ProjectedGradientDescentAttack",
        "LinfPGD": "LinfProjectedGradientDescentAttack",
        "PGD": "LinfProjectedGradientDescentAttack",
        "MIFGSM": "LinfMomentumIterativeFastGradientMethod",
        "L1AdamPGD": "L1AdamProjectedGradientDescentAttack",
        "L2AdamPGD": "L2AdamProjectedGradientDescentAttack",
        "LinfAdamPGD": "LinfAdamProjectedGradientDescentAttack",
        "AdamPGD": "LinfAdamProjectedGradientDescentAttack",
    }
)
"""Foolbox's short names."""
