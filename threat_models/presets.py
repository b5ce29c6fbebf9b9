"""Threat models by name, and from TOML files."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustkit import registry
from robustkit.errors import BadInput, CorruptFile, MissingFile
from robustkit.threat_models.access import Access
from robustkit.threat_models.convolutions import Convolutions
from robustkit.threat_models.goal import Availability, Goal, parse_goal
from robustkit.threat_models.model import Budget, Stage, ThreatModel, parse_radius
from robustkit.threat_models.perturbation import LpBall, Patch, PerturbationSet


def linf() -> ThreatModel:
    """White box, every value may change by 8/255: the CIFAR convention."""
    return ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=8 / 255))


def l2() -> ThreatModel:
    """White box, Euclidean length of the change at most 0.5: the CIFAR convention."""
    return ThreatModel(name="l2", perturbation=LpBall(norm="l2", radius=0.5))


def l1() -> ThreatModel:
    """White box, absolute changes adding up to at most 12: the CIFAR convention."""
    return ThreatModel(name="l1", perturbation=LpBall(norm="l1", radius=12.0))


def linf_decision() -> ThreatModel:
    """As linf, but the adversary sees labels only and may ask 5,000 times per image."""
    return replace(
        linf(), name="linf-decision", access=Access.DECISION, budget=Budget(queries=5000)
    )


def l2_decision() -> ThreatModel:
    """As l2, but the adversary sees labels only and may ask 5,000 times per image."""
    return replace(l2(), name="l2-decision", access=Access.DECISION, budget=Budget(queries=5000))


def corruptions() -> ThreatModel:
    """Nobody attacks: 15 common corruptions at 5 severities happen to every image."""
    return ThreatModel(name="corruptions", access=Access.DECISION)


def unlearnable() -> ThreatModel:
    """Who publishes data filters all of it, 3 x 3, so that nobody learns much from it."""
    return ThreatModel(
        name="unlearnable",
        stage=Stage.TRAINING,
        goal=Availability(),
        # The publisher's work is done before there is a model; this is the least there is.
        access=Access.DECISION,
        perturbation=Convolutions(kernel=3),
        budget=Budget(poison_rate=1.0),
    )


def unlearnable_linf() -> ThreatModel:
    """As unlearnable, but every value may change by 8/255 and nothing else."""
    return replace(
        unlearnable(),
        name="unlearnable-linf",
        perturbation=LpBall(norm="linf", radius=8 / 255),
    )


def unlearnable_l2() -> ThreatModel:
    """As unlearnable, but the change of an image has a Euclidean length of at most 1."""
    return replace(unlearnable(), name="unlearnable-l2", perturbation=LpBall(norm="l2", radius=1.0))


def load(spec: str) -> ThreatModel:
    """The threat model a user means: a preset's name or the path of a TOML file.

    Raises:
        UnknownName: No preset has this name.
        MissingFile, CorruptFile, BadInput: The file is not there, no TOML, or says something
        unknown.

    Example:
        >>> load("linf").name
        'linf'
    """
    if spec.endswith(".toml"):
        return read(Path(spec))
    preset: ThreatModel = registry.find("threats", spec).load()()
    return preset


def read(path: Path) -> ThreatModel:
    """A threat model from a TOML file.

    The file holds `name`, `stage`, `goal`, `access`, a table `perturbation` (`norm` and `radius`,
    or `patch = [height, width]`, or `kernel`; optional `low`, `high`) and an optional table
    `budget` (`queries`, `poison_rate`, `may_relabel`). Radii may be fractions in quotes.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFile(f"There is no threat model file {str(path)!r}. Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CorruptFile(f"{str(path)!r} cannot be read as TOML: {error}") from error
    _only(table, ("name", "stage", "goal", "access", "perturbation", "budget"), str(path))
    return ThreatModel(
        name=str(table.get("name", path.stem)),
        stage=_stage(str(table.get("stage", "inference"))),
        goal=_goal(str(table.get("goal", "untargeted"))),
        access=Access.parse(str(table.get("access", "gradient"))),
        perturbation=_perturbation(
            _table(
                table,
                "perturbation",
                ("norm", "radius", "patch", "kernel", "low", "high"),
                str(path),
            ),
            path,
        ),
        budget=_budget(
            _table(table, "budget", ("queries", "poison_rate", "may_relabel"), str(path)), path
        ),
    )


def written(threat: ThreatModel) -> str:
    """A preset that changes inputs as the TOML that `read` takes.

    Example:
        >>> print(written(linf_decision()), end="")
        name = "linf-decision"
        stage = "inference"
        goal = "untargeted"
        access = "decision"
        <BLANKLINE>
        [perturbation]
        norm = "linf"
        radius = "8/255"
        <BLANKLINE>
        [budget]
        queries = 5000
    """
    lines = [
        f'name = "{threat.name}"',
        f'stage = "{threat.stage.value}"',
        f'goal = "{threat.goal.name}"',
        f'access = "{threat.access}"',
    ]
    match threat.perturbation:
        case LpBall(norm=norm, radius=radius):
            lines += ["", "[perturbation]", f'norm = "{norm}"', f"radius = {_radius(radius)}"]
        case Patch(height=height, width=width):
            lines += ["", "[perturbation]", f"patch = [{height}, {width}]"]
        case Convolutions(kernel=kernel):
            lines += ["", "[perturbation]", f"kernel = {kernel}"]
    budget = {"queries": threat.budget.queries, "poison_rate": threat.budget.poison_rate}
    spent = [f"{name} = {value}" for name, value in budget.items() if value is not None]
    return "\n".join([*lines, *(["", "[budget]", *spent] if spent else []), ""])


def _radius(value: float) -> str:
    steps = round(255 * value)
    return (
        f'"{steps}/255"' if value and value != int(value) and steps / 255 == value else f"{value}"
    )


def _goal(text: str) -> Goal:
    """Availability too, which no attack on single images can pursue."""
    return Availability() if text == Availability().name else parse_goal(text)


def _budget(table: Mapping[str, Any], path: Path) -> Budget:
    queries, rate = table.get("queries"), table.get("poison_rate")
    relabel = table.get("may_relabel", False)
    if queries is not None and (not isinstance(queries, int) or isinstance(queries, bool)):
        raise BadInput(f"{path}: queries is {queries!r}; it must be a whole number, at least 1.")
    if not isinstance(relabel, bool):
        raise BadInput(f"{path}: may_relabel is {relabel!r}; it must be true or false.")
    return Budget(
        queries=queries,
        poison_rate=None if rate is None else _number(rate, "poison_rate", path),
        may_relabel=relabel,
    )


def _stage(text: str) -> Stage:
    try:
        return Stage(text)
    except ValueError:
        names = ", ".join(stage.value for stage in Stage)
        raise BadInput(f"The stage {text!r} is unknown. Use one of: {names}.") from None


def _perturbation(table: Mapping[str, Any], path: Path) -> PerturbationSet:
    low, high = (
        _number(table.get(key, default), key, path) for key, default in (("low", 0), ("high", 1))
    )
    if "patch" in table:
        sides = table["patch"]
        if not (
            isinstance(sides, list) and len(sides) == 2 and all(type(side) is int for side in sides)
        ):
            raise BadInput(f"{path}: patch is {sides!r}; it must be [height, width] in pixels.")
        return Patch(height=sides[0], width=sides[1], low=low, high=high)
    if "kernel" in table:
        if type(table["kernel"]) is not int:
            raise BadInput(f"{path}: kernel is {table['kernel']!r}; it must be an odd number.")
        return Convolutions(kernel=table["kernel"], low=low, high=high)
    if not {"norm", "radius"} <= table.keys():
        raise BadInput(
            f"{path}: the table [perturbation] needs norm and radius, or patch, or kernel."
        )
    return LpBall(norm=table["norm"], radius=parse_radius(table["radius"]), low=low, high=high)


def _number(value: object, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{path}: {key} is {value!r}; it must be a number.")
    return float(value)


def _table(
    table: Mapping[str, Any], key: str, known: tuple[str, ...], path: str
) -> Mapping[str, Any]:
    inner = table.get(key, {})
    if not isinstance(inner, dict):
        raise BadInput(f"{path}: {key} is {inner!r}; it must be a table [{key}].")
    _only(inner, known, f"{path}, table [{key}]")
    return inner


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise BadInput(f"{where}: unknown {', '.join(unknown)}. Allowed: {', '.join(known)}.")
