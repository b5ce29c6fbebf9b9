"""Recipes: everything a training is made of, as a table that can be read, changed and written."""

import functools
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from robustkit import data as datasets
from robustkit import registry, threat_models
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, CorruptFile, MissingFile
from robustkit.threat_models import ThreatModel, parse_radius
from robustkit.training.augmentation import (
    Augmentation,
    Crop,
    CutMix,
    Flip,
    Hide,
    MixUp,
    RandAugment,
    TrivialAugment,
)
from robustkit.training.averaging import Averaging
from robustkit.training.history import Progress, Silent
from robustkit.training.losses.awp import AWP
from robustkit.training.losses.base import Loss
from robustkit.training.losses.registered import loss_class
from robustkit.training.mixing import Extra
from robustkit.training.optimizers import SGD, AdamW, Optimizer
from robustkit.training.options import build, named
from robustkit.training.runtime import Runtime
from robustkit.training.schedules import (
    AccuracyGradient,
    Constant,
    Cosine,
    OneCycle,
    Plateau,
    Schedule,
    Step,
)
from robustkit.training.selection import RobustAccuracy, Selection
from robustkit.training.trainer import Trainer

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"sgd": SGD, "adamw": AdamW}
SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "plateau": Plateau,
    "accuracy-gradient": AccuracyGradient,
}
AUGMENTATIONS: Mapping[str, Callable[..., Augmentation]] = {
    "crop": Crop,
    "flip": Flip,
    "hide": Hide,
    "rand-augment": RandAugment,
    "trivial-augment": TrivialAugment,
    "mixup": MixUp,
    "cutmix": CutMix,
}

SECTIONS = (
    "model_arguments",
    "extra",
    "threat",
    "loss",
    "awp",
    "optimizer",
    "schedule",
    "averaging",
    "selection",
    "trainer",
    "runtime",
    "published",
)
_WORDS = ("summary", "reference", "differs", "data", "model")
_LISTS = ("augmentation",)

DEFAULTS: Mapping[str, Any] = {
    "model": "cnn",
    "threat": {"spec": "linf"},
    "loss": {"name": "pgd"},
    "optimizer": {"name": "sgd", "nesterov": True},
    "schedule": {"name": "one-cycle"},
    "selection": {},
    "trainer": {"epochs": 30},
    "runtime": {"channels_last": True},
}


@dataclass(frozen=True)
class Recipe:
    """Everything a training is made of.

    A table with the words `summary`, `reference`, `differs`, `data` and `model`, and with sections
    as in `SECTIONS`; `loss`, `optimizer`, `schedule` and each `augmentation` have a `name`, `extra`
    has `data`. Only a `selection` that is there holds examples out. What is not said has the
    defaults of the classes.

    Attributes:
        table: The contents.
        where: What messages call it.
    """

    table: Mapping[str, Any]
    where: str = "the recipe"

    def __post_init__(self) -> None:
        """Refuse a table with unknown parts."""
        known = (*_WORDS, *SECTIONS, *_LISTS)
        unknown = sorted(set(self.table) - set(known))
        if unknown:
            raise BadInput(
                f"{self.where}: unknown {', '.join(unknown)}. Allowed: {', '.join(known)}."
            )
        for name, value in self.table.items():
            kind = dict if name in SECTIONS else list if name in _LISTS else str
            if not isinstance(value, kind):
                shape = {dict: "a table", list: "a list of tables", str: "text"}[kind]
                raise BadInput(f"{self.where}: {name} is {value!r}; it must be {shape}.")
            if name in _LISTS and not all(isinstance(part, dict) for part in value):
                raise BadInput(f"{self.where}: {name} is {value!r}; each must be a table.")
        rate = self.table.get("optimizer", {}).get("lr")
        if isinstance(rate, float | int) and not 0 < rate < math.inf:
            raise BadInput(
                f"{self.where}: the learning rate (--lr) is {rate}; give a finite number above 0."
            )
        try:
            # What a model has learnt by is written beside it.
            json.dumps(dict(self.table), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"{self.where} holds what is no JSON: {error}. Give finite numbers, words, true or "
                "false, lists and tables."
            ) from error

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        """This recipe with some things changed.

        Sections are changed key by key; one that gets another `name` (for a threat, another `spec`)
        is replaced, because what was set for the old one does not fit the new.
        """
        table = dict(self.table)
        for name, value in changes.items():
            old = table.get(name)
            if isinstance(value, dict) and isinstance(old, dict):
                other = any(
                    key in value and key in old and value[key] != old[key]
                    for key in ("name", "spec")
                )
                table[name] = value if other else {**old, **value}
            else:
                table[name] = value
        return Recipe(table, self.where)

    def complete(self) -> "Recipe":
        """This recipe with a model."""
        return Recipe({"model": DEFAULTS["model"], **self.table}, self.where)

    @property
    def seed(self) -> int:
        """Of all randomness."""
        return build(Trainer, self.table.get("trainer", {}), where="trainer").seed

    def threat(self) -> ThreatModel:
        """The adversary of training and of the held-out score."""
        table = dict(self.table.get("threat", {}))
        threat = threat_models.load(str(table.pop("spec", "linf")))
        if "eps" in table:
            threat = threat.with_radius(parse_radius(table.pop("eps")))
        if table:
            raise BadInput(
                f"{self.where}, [threat]: unknown {', '.join(table)}. Allowed: spec, eps."
            )
        return threat

    def loss(self, teacher: nn.Module | None = None) -> Loss:
        """What is lowered.

        Args:
            teacher: For losses that have one.
        """
        table = dict(self.table.get("loss", DEFAULTS["loss"]))
        name = str(table.pop("name", "pgd"))
        kind = loss_class(name)
        given: dict[str, Any] = {"threat": self.threat()}
        if name == "distillation":
            if teacher is None:
                raise BadInput("The loss 'distillation' needs a teacher: a trained model.")
            given["teacher"] = teacher
        loss = build(kind, table, where=f"loss {name}", given=given)
        if "awp" not in self.table:
            return loss
        return build(AWP, self.table["awp"], where="awp", given={"loss": loss})

    def extra(self, *, root: Path | None = None, size: int = 32) -> Extra | None:
        """Further examples to learn from, if the recipe asks for some.

        Args:
            root: See `robustkit.data.load`.
            size: Likewise.

        Raises:
            MissingFile, CorruptFile, BadInput: See `robustkit.data.load` and `Extra`.
        """
        if "extra" not in self.table:
            return None
        table = dict(self.table["extra"])
        spec, split = table.pop("data", None), table.pop("split", "train")
        if not isinstance(spec, str) or not isinstance(split, str):
            raise BadInput(
                f"{self.where}, [extra]: give a file or the name of a data set as data (with a "
                "split, if it is not train): --extra PATH."
            )
        images = datasets.load(spec, split=split, root=root, size=size)
        return build(Extra, table, where="extra", given={"images": images})

    def trainer(
        self,
        data: LabelledImages,
        *,
        out: Path | None = None,
        resume: bool = False,
        tensorboard: bool = False,
        progress: Progress | None = None,
    ) -> Trainer:
        """Who does it.

        Args:
            data: What it will learn from; at most a tenth is held out.
            out: See `Trainer`.
            resume: See `Trainer`.
            tensorboard: See `Trainer`.
            progress: See `Trainer`.
        """
        parts = {
            "optimizer": self._named("optimizer", OPTIMIZERS),
            "schedule": self._named("schedule", SCHEDULES),
            "augmentation": tuple(map(_augmentation, self.table.get("augmentation", []))),
            "selection": self._selection(data),
            "averaging": self._optional("averaging", Averaging),
            "runtime": build(Runtime, self.table.get("runtime", {}), where="runtime"),
            "out": out,
            "resume": resume,
            "tensorboard": tensorboard,
            "progress": Silent() if progress is None else progress,
        }
        return build(Trainer, self.table.get("trainer", {}), where="trainer", given=parts)

    def _named(self, section: str, kinds: Mapping[str, Callable[..., Any]]) -> Any:  # noqa: ANN401
        table = self.table.get(section, DEFAULTS[section])
        kind, rest = named(table, kinds, where=section)
        return build(kind, rest, where=f"{section} {table['name']}")

    def _optional(self, section: str, kind: Callable[..., Any]) -> Any:  # noqa: ANN401
        if section not in self.table:
            return None
        return build(kind, self.table[section], where=section)

    def _selection(self, data: LabelledImages) -> Selection | None:
        if "selection" not in self.table:
            return None
        table = dict(self.table["selection"])
        steps = {"steps": table.pop("steps")} if "steps" in table else {}
        score = build(RobustAccuracy, steps, where="selection", given={"threat": self.threat()})
        selection = build(Selection, table, where="selection", given={"score": score})
        n = max(1, min(selection.n, len(data) // 10))
        return Selection(score=score, n=n, every=selection.every, batch_size=selection.batch_size)


def _augmentation(table: Mapping[str, Any]) -> Augmentation:
    kind, rest = named(table, AUGMENTATIONS, where="augmentation")
    return build(kind, rest, where=f"augmentation {table['name']}")


def load(spec: str) -> Recipe:
    """The recipe of a name or of a TOML file.

    Raises:
        UnknownName: No recipe is called so.
        MissingFile, CorruptFile, BadInput: There is no such file, it is no TOML, or says something
            unknown.
    """
    if not spec.endswith(".toml"):
        made: Callable[[], Recipe] = registry.find("recipes", spec).load()
        return made()
    try:
        text = Path(spec).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFile(f"There is no recipe at {spec!r}. Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{spec!r} cannot be read: {error}.") from error
    return _parsed(text, spec)


def for_words(*, data: str | None, model: str | None, loss: str | None) -> Recipe:
    """The shipped recipe that was made for a data set, a model and a loss, else the defaults.

    Args:
        data: A data set.
        model: An architecture; that of `DEFAULTS` if it is not said.
        loss: Likewise.
    """
    wanted = (data, model or DEFAULTS["model"], loss or DEFAULTS["loss"]["name"])
    for name in registry.entries("recipes"):
        recipe = shipped(name)
        table = recipe.table
        if (table["data"], table["model"], table["loss"]["name"]) == wanted:
            return recipe
    return Recipe(DEFAULTS, "the command")


def shipped(name: str) -> Recipe:
    """A recipe that is part of the package."""
    file = resources.files("robustkit.training") / "recipes" / f"{name}.toml"
    return _parsed(file.read_text(encoding="utf-8"), f"the recipe {name!r}")


def _parsed(text: str, where: str) -> Recipe:
    try:
        return Recipe(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise CorruptFile(f"{where} cannot be read as TOML: {error}.") from error


def __getattr__(name: str) -> Callable[[], Recipe]:
    """`recipe_x_y` makes the shipped recipe `x-y`: what the registry's lines name."""
    prefix, _, rest = name.partition("_")
    if prefix != "recipe" or not rest:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = functools.partial(shipped, rest.replace("_", "-"))
    made.__doc__ = _described(made())
    return made


def _described(recipe: Recipe) -> str:
    words = [
        str(recipe.table[key]) for key in ("summary", "reference", "differs") if key in recipe.table
    ]
    return "\n\n".join(words)
