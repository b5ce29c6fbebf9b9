"""Learners from the words of a command line, and those that an audit tries by itself."""

from robustkit import registry
from robustkit.errors import BadInput
from robustkit.training.options import build as filled
from robustkit.unlearnable.learners.base import Learner

# In the order of the report: the plain ones, then what has been published against such data.
BATTERY = (
    "erm",
    "crop-flip",
    "mixup",
    "cutmix",
    "adversarial-linf:4/255",
    "adversarial-linf:8/255",
    "adversarial-linf:16/255",
    "adversarial-l2:0.5",
    "jpeg",
    "grayscale",
    "rsk-ff",
    "coin",
    "ueraser",
    "orthogonal-projection",
    "pretrained-features",
    "key-leak",
)


def build(spec: str) -> Learner:
    """The learner that words name: `NAME`, or `NAME:VALUE` for its main hyper-parameter.

    Raises:
        UnknownName: Nothing is called so; the message offers near names.
        BadInput: It has no hyper-parameter of this kind, or does not take the value.

    Example:
        >>> build("adversarial-linf:4/255").eps == 4 / 255
        True
    """
    name, colon, value = spec.partition(":")
    kind = registry.find("learners", name).load()
    if not colon:
        plain: Learner = kind()
        return plain
    if not kind.argument or not value:
        meant = f"{name}:{kind.argument.upper()}" if kind.argument else name
        raise BadInput(f"The learner {spec!r} is not understood. Write {meant}.")
    given = {kind.argument: int(value) if value.isdecimal() else value}
    made: Learner = filled(kind, given, where=f"learner {name}")
    return made
