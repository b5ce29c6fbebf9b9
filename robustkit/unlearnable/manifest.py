"""What a published set says about itself: everything but the key.

    DIR/robustkit.json      the set, which `robustkit.data.load` reads
    DIR/unlearnable.json    how it was made

Nothing in it helps to undo the change. The key's fingerprint tells whether a key is the right one.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustkit import data as datasets
from robustkit.attacks.base import PoisoningAttack
from robustkit.data import LabelledImages
from robustkit.data.reading import reading
from robustkit.errors import BadInput, CorruptFile
from robustkit.report.codec import Count, decode, encode, parse
from robustkit.report.parts import PerturbationFacts, ThreatFacts
from robustkit.report.unlearnable import Distortion
from robustkit.threat_models import (
    Access,
    Availability,
    Budget,
    Convolutions,
    LpBall,
    PerturbationSet,
    Stage,
    ThreatModel,
)
from robustkit.unlearnable.building import build, describe
from robustkit.unlearnable.keys import Key

NAME = "unlearnable.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The clean images that a set was made of.

    Attributes:
        spec: The words by which they were loaded.
        n: How many, evenly from the classes.
        whole: How many there were to choose from.
        size: The side that images of mixed sizes were brought to.
        sha256: Hash of those that were used.
    """

    spec: str
    n: Count
    whole: Count
    size: Count
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """How a published set was made.

    Attributes:
        version: Of this description.
        robustkit: The version that made it.
        method: What the method is called.
        options: Its options; the key is none of them.
        threat: What it was allowed to change.
        key: The fingerprint of the key; None where there is none, so that anybody can undo it.
        seed: Of what is no secret: which images were used, and how models were trained.
        training: The settings of the trainer, for methods that train a model.
        clean: What it was made of.
        sha256: Hash of the published training images.
        changed: How many of them were to be changed.
        distortion: How far these are from their originals.
    """

    kind: Literal["unlearnable"] = "unlearnable"
    version: Literal[1] = 1
    robustkit: str = importlib.metadata.version("robustkit")
    method: str
    options: Mapping[str, object]
    threat: ThreatFacts
    key: str | None
    seed: Count
    training: Mapping[str, object]
    clean: Source
    sha256: str
    changed: Count
    distortion: Distortion

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The description in a published set.

        Raises:
            MissingFile: The folder has none.
            CorruptFile: It is damaged, or of another version.
        """
        path = folder / NAME
        with reading(path, "the description of unlearnable data"):
            text = path.read_text(encoding="utf-8")
        try:
            return decode(cls, parse(text))
        except CorruptFile as error:
            raise CorruptFile(f"{path}: {error}") from error

    def text(self) -> str:
        """As JSON."""
        return json.dumps(encode(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def check_key(self, key: Key | None) -> None:
        """Refuse any key but the one that the set was made with.

        Raises:
            BadInput: It is another one, or there is one too many or too few.
        """
        given = None if key is None else key.fingerprint
        if given != self.key:
            raise BadInput(
                f"The set was made with {_told(self.key)}, and {_told(given)} was given. Give the "
                "key file it was made with."
            )

    def again(self, key: Key | None) -> PoisoningAttack:
        """The method that made the set.

        Args:
            key: The one it was made with.

        Raises:
            BadInput: It is another key, or the method had options that no command line can give.
        """
        self.check_key(key)
        words = (bool, int, float, str)
        table = {name: value for name, value in self.options.items() if isinstance(value, words)}
        method = build(self.method, table, key=key)
        if encode(describe(method)) != dict(self.options):
            raise BadInput(
                f"The options of {self.method!r} in {NAME} are not all numbers and words: build "
                "the method in Python."
            )
        return method

    def threat_model(self) -> ThreatModel:
        """What it was allowed to change.

        Raises:
            CorruptFile: It describes another kind of threat model.
        """
        facts = self.threat
        if facts.perturbation is None or facts.goal != Availability().name:
            raise CorruptFile(f"{NAME} describes {facts.name!r}, which makes nothing unlearnable.")
        return ThreatModel(
            name=facts.name,
            stage=Stage(facts.stage),
            goal=Availability(),
            access=Access.parse(facts.access),
            perturbation=_set(facts.perturbation),
            budget=Budget(poison_rate=facts.poison_rate, may_relabel=facts.may_relabel),
        )

    def originals(self, *, root: Path | None = None) -> LabelledImages:
        """The clean images that the set was made of.

        Args:
            root: Where named data sets lie; see `robustkit.data.load`.

        Raises:
            MissingFile, BadInput: They are not there, or are others by now.
        """
        clean = self.clean
        images = datasets.load(
            clean.spec,
            split="train",
            root=root,
            size=clean.size,
            n=None if clean.n == clean.whole else clean.n,
            select="stratified",
            seed=self.seed,
        )
        if images.sha256 != clean.sha256:
            raise BadInput(
                f"{clean.spec!r} holds other images than those the set was made of: their hash is "
                f"{images.sha256}, expected is {clean.sha256}."
            )
        return images


def _told(fingerprint: str | None) -> str:
    return "no key" if fingerprint is None else f"the key {fingerprint}"


def _set(facts: PerturbationFacts) -> PerturbationSet:
    low, high = facts.low, facts.high
    if facts.norm == "convolution":
        kernel = facts.options.get("kernel")
        if type(kernel) is not int:
            raise CorruptFile(f"{NAME} names no kernel.")
        return Convolutions(kernel=kernel, low=low, high=high)
    radius = float("inf") if facts.radius is None else facts.radius
    return LpBall(norm=facts.norm, radius=radius, low=low, high=high)  # type: ignore[arg-type]
