"""Attacks from the words of a command line, and back."""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin

from robustkit import registry
from robustkit.attacks._foreign import ForeignAttack
from robustkit.attacks.base import EvasionAttack
from robustkit.errors import BadInput

Json = str | int | float | bool | None | list[Any]

_NOTHING: Mapping[str, str] = MappingProxyType({})


def build(spec: str, options: Mapping[str, str] = _NOTHING) -> EvasionAttack[Any]:
    """The attack that `spec` names.

    Args:
        spec: A registered name, `foolbox:CLASS` with Foolbox's own class name, or
            `autoattack[:standard|plus|rand]`.
        options: Hyper-parameters as text, converted to the types they are declared with: whole
            numbers, numbers or fractions such as 8/255, `true`, `false`, `none`, words.

    Raises:
        UnknownName: Nothing is called so; the message offers near names.
        BadInput: An option that the attack does not have, or a value that it does not take.

    Example:
        >>> build("pgd", {"steps": "10", "step_size": "1/4"}).step_size
        0.25
    """
    name, colon, variant = spec.partition(":")
    entry = registry.find("attacks", name)
    if name == "foolbox":
        return _build_foolbox(variant, options)
    kind = entry.load()
    if name == "autoattack" and variant:
        if options.get("version", variant) != variant:
            raise BadInput(f"{spec!r} was given the version {options['version']!r} too; give one.")
        options = {**options, "version": variant}
    elif colon:
        raise BadInput(f"{name!r} has no variants; {spec!r} names one. Use {name!r}.")
    hints = typing.get_type_hints(kind)
    allowed = {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}
    attack: EvasionAttack[Any] = kind(**_converted(name, options, allowed))
    return attack


def _build_foolbox(class_name: str, options: Mapping[str, str]) -> EvasionAttack[Any]:
    if not class_name:
        raise BadInput(
            "'foolbox' needs the name of an attack of Foolbox, as in foolbox:HopSkipJumpAttack."
        )
    # Through the registry, so that a missing or broken package is told as everywhere.
    kind = registry.find("attacks", "foolbox").load()
    parameters = inspect.getmodule(kind).parameters(class_name)  # type: ignore[union-attr]
    allowed = {key: parameter.annotation for key, parameter in parameters.items()}
    if "init_attack" in allowed:
        allowed["init_attack"] = str | None
    given = _converted(f"foolbox:{class_name}", options, allowed)
    attack: EvasionAttack[Any] = kind(class_name=class_name, options=tuple(given.items()))
    return attack


def describe(attack: EvasionAttack[Any]) -> dict[str, Json]:
    """The options of an attack for a report, defaults included.

    Example:
        >>> describe(build("fgsm"))
        {'loss': 'cross-entropy'}
    """
    if isinstance(attack, ForeignAttack):
        return dict(attack.arguments)
    if not dataclasses.is_dataclass(attack):
        return {}
    values: dict[str, Json] = {}
    for field in dataclasses.fields(attack):
        value = getattr(attack, field.name)
        # One attack around another has the other's options too.
        inner = isinstance(value, EvasionAttack)
        values |= describe(value) if inner else {field.name: _json(value)}
    return values


def name_of(attack: EvasionAttack[Any]) -> str:
    """The name under which `build` finds an attack; the class's name if it is not registered.

    Example:
        >>> name_of(build("autoattack:rand"))
        'autoattack:rand'
    """
    target = f"{type(attack).__module__}:{type(attack).__qualname__}"
    named = [entry.name for entry in registry.entries("attacks").values() if entry.target == target]
    name = named[0] if named else type(attack).__name__
    if isinstance(attack, ForeignAttack) and attack.variant:
        return f"{name}:{attack.variant}"
    return name


def _json(value: object) -> Json:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list | frozenset | set):
        return [_json(part) for part in value]
    return str(value)


def _converted(
    name: str, options: Mapping[str, str], allowed: Mapping[str, object]
) -> dict[str, Any]:
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise BadInput(
            f"The attack {name!r} has no option {', '.join(unknown)}. "
            f"Its options: {', '.join(allowed) or 'none'}."
        )
    values = {}
    for key, text in options.items():
        try:
            values[key] = _value(text.strip(), allowed[key])
        except (ValueError, ZeroDivisionError):
            raise BadInput(
                f"The option {key} of {name!r} is {text!r}; it must be {_meaning(allowed[key])}."
            ) from None
    return values


def _value(text: str, kind: object) -> object:
    """The text as a value of a declared type; ValueError if it is none."""
    if get_origin(kind) in (Union, types.UnionType):
        return _first_that_fits(text, get_args(kind))
    if get_origin(kind) is Literal:
        return {str(value).lower(): value for value in get_args(kind)}[_known(text, kind)]
    if kind is types.NoneType and text.lower() == "none":
        return None
    if kind is bool:
        return {"true": True, "false": False}[_known(text, Literal["true", "false"])]
    if kind is int:
        return int(text)
    if kind is float:
        return _fraction(text)
    if kind is str:
        return text
    raise ValueError


def _first_that_fits(text: str, kinds: tuple[object, ...]) -> object:
    # Words last: every text is one.
    for kind in sorted(kinds, key=lambda kind: kind is str):
        try:
            return _value(text, kind)
        except ValueError:
            continue
    raise ValueError


def _known(text: str, kind: object) -> str:
    if text.lower() not in {str(value).lower() for value in get_args(kind)}:
        raise ValueError
    return text.lower()


def _fraction(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    value = float(numerator) / float(denominator) if slash else float(numerator)
    if math.isnan(value):
        raise ValueError
    return value


def _meaning(kind: object) -> str:
    """A declared type in words."""
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_meaning(part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(kind))
    words = {
        types.NoneType: "none",
        bool: "true or false",
        int: "a whole number",
        float: "a number or a fraction such as 8/255",
        str: "a word",
    }
    return next((text for known, text in words.items() if kind is known), "set in Python code")
