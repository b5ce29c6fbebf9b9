"""What a saved model remembers of its training, for commands that go on from there."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit import models, registry, threat_models
from robustkit.data import LabelledImages
from robustkit.defenses import RiFT
from robustkit.errors import BadInput
from robustkit.threat_models import ThreatModel
from robustkit.training import Runtime, Trainer
from robustkit.training.recipe import Recipe

# Held-out images of the training that are enough to choose by.
_ENOUGH = 400


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from; everything is empty for one that was not trained here.

    Attributes:
        about: What stands in its `robustkit.json`.
    """

    about: Mapping[str, Any]

    @classmethod
    def of(cls, spec: str) -> "Origin":
        """What the word for a model leads to.

        Raises:
            BadInput: A folder whose description cannot be read.
        """
        folder = Path(spec)
        if not spec or spec in registry.entries("models") or not folder.is_dir():
            return cls({})
        about: Any = models.read_record(folder).get("about")
        return cls(about if isinstance(about, dict) else {})

    @property
    def recipe(self) -> Recipe | None:
        """How it was trained."""
        table = self._training.get("recipe")
        return Recipe(table, "the saved model's recipe") if isinstance(table, dict) else None

    @property
    def seed(self) -> int:
        """The seed of its training."""
        seed = {} if self.recipe is None else self.recipe.table.get("trainer", {})
        return _integer(seed.get("seed")) or 0

    @property
    def held_out(self) -> int | None:
        """How many images its training held out, if they are enough to choose by again."""
        recipe, n = self.recipe, self.n
        if recipe is None or "selection" not in recipe.table or n is None:
            return None
        count = min(_integer(recipe.table["selection"].get("n")) or 1024, n // 10)
        return count if count >= _ENOUGH else None

    @property
    def data(self) -> str:
        """The words that name what it has learnt from.

        Raises:
            BadInput: It does not know.
        """
        spec = self._data.get("spec")
        if not isinstance(spec, str):
            raise BadInput("The model does not say what it has learnt from: give --data.")
        return spec

    @property
    def split(self) -> str:
        """Which part of it."""
        split = self._data.get("split")
        return split if isinstance(split, str) else "train"

    @property
    def n(self) -> int | None:
        """How many images."""
        return _integer(self._data.get("n"))

    def threat(self, spec: str | None, eps: str | None) -> ThreatModel:
        """The adversary that was asked for; by default that of the training."""
        recipe = self.recipe
        if spec is not None or recipe is None:
            threat = threat_models.load(spec or "linf")
        else:
            threat = recipe.threat()
        return threat if eps is None else threat.with_radius(threat_models.parse_radius(eps))

    def threat_words(self, spec: str | None, eps: str | None) -> list[str]:
        """The same as words of a command line."""
        recipe = self.recipe
        table = {} if spec is not None or recipe is None else recipe.table.get("threat", {})
        radius = eps if eps is not None else table.get("eps")
        words = ["--threat", str(spec or table.get("spec", "linf"))]
        return words if radius is None else [*words, "--eps", str(radius)]

    def fine_tuning(
        self, images: LabelledImages, *, epochs: int, lr: float, device: str
    ) -> Trainer:
        """RiFT's published fine-tuning, with the augmentation and the layout of the training."""
        trainer = RiFT.published(epochs=epochs, lr=lr)
        if self.recipe is None:
            return dataclasses.replace(trainer, runtime=Runtime(device=device))
        first = self.recipe.trainer(images)
        return dataclasses.replace(
            trainer,
            augmentation=first.augmentation,
            runtime=Runtime(device=device, channels_last=first.runtime.channels_last),
        )

    @property
    def _training(self) -> Mapping[str, Any]:
        return _table(self.about.get("training"))

    @property
    def _data(self) -> Mapping[str, Any]:
        return _table(self._training.get("data"))


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
