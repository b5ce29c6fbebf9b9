"""From clean images to a published set on the disk, whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustkit import data as datasets
from robustkit.attacks.base import Learner, PoisoningAttack
from robustkit.data import LabelledImages, computed
from robustkit.data.computing import as_bytes
from robustkit.data.loading import Request
from robustkit.data.saved import load_saved
from robustkit.errors import BadInput, Violation
from robustkit.files import folder_atomically, write_atomically
from robustkit.report.parts import ThreatFacts
from robustkit.threat_models import ThreatModel
from robustkit.unlearnable.building import describe
from robustkit.unlearnable.distortion import distortion
from robustkit.unlearnable.keys import Key, streams
from robustkit.unlearnable.manifest import NAME, Manifest, Source

# What two sets must have in common to be the same.
_IDENTITY = ("method", "options", "threat", "seed", "training", "clean")
# Values of images that are checked together.
_VALUES = 2**22


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is to be published.

    Attributes:
        name: What the method is called.
        method: Changes the images.
        threat: What it may change.
        key: Its secret, and that of all it draws; None where there is none.
        seed: Of what is no secret.
        source: What `clean` is.
        clean: The training images.
        training: The settings of the trainer, of which methods that train no model take no notice.

    Raises:
        DoesNotFit: The method does not work under the threat model.
        BadInput: A class has no images.
    """

    name: str
    method: PoisoningAttack
    threat: ThreatModel
    key: Key | None
    seed: int
    source: Source
    clean: LabelledImages
    training: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse what cannot be published."""
        self.method.check(self.threat)
        counts = self.clean.labels.bincount(minlength=self.clean.classes)
        missing = [self.clean.class_names[row] for row in (counts == 0).nonzero()[:, 0].tolist()]
        if missing:
            raise BadInput(
                f"{self.clean.spec!r} has no images of {len(missing)} of its {self.clean.classes} "
                f"classes: {', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}. Give "
                "images of every class."
            )

    def already(self, folder: Path) -> Manifest | None:
        """The description of this very set, if it is in a folder already.

        Raises:
            BadInput: Another set is there, one with another key, or something else.
            CorruptFile: It is there and damaged.
        """
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
        if not (folder / NAME).is_file():
            raise BadInput(f"{str(folder)!r} holds something else. Choose another folder.")
        found = Manifest.read(folder)
        found.check_key(self.key)
        wanted = self._facts()
        other = [name for name in _IDENTITY if getattr(found, name) != wanted[name]]
        if other:
            raise BadInput(
                f"{str(folder)!r} holds a set of another {', '.join(other)}. Choose another folder."
            )
        load_saved(folder, Request(spec=str(folder), split="train"))
        return found

    def publish(
        self,
        folder: Path,
        *,
        test: LabelledImages | None,
        trainer: Learner,
        device: torch.device | str,
    ) -> Manifest:
        """Change the images and write them into a folder that is not there yet, or empty.

        What was written is read again, image by image: the changed ones must lie inside the threat
        model's set, the others must be as they were.

        Args:
            folder: Where.
            test: Written beside them as it is; None where there is none.
            trainer: For methods that train a model.
            device: Where to compute.

        Raises:
            Violation: The method changed more than the threat model allows.
            BadInput: Writing there is not allowed.
            CannotWrite: The disk is full. As after any other error, nothing is left.
        """
        device = torch.device(device)
        drawn = streams(self.key, self.seed, self.clean.ids.to(device))
        with folder_atomically(folder) as place:
            poisoned = self.method.run(self.clean, self.threat, trainer=trainer, streams=drawn)
            datasets.save(poisoned.data, place)
            if test is not None:
                datasets.save(test, place)
            published = load_saved(place, Request(spec=str(folder), split=self.clean.split))
            changed, clean = poisoned.changed.cpu(), in_bytes(self.clean)
            self._judge(clean, published, changed, device)
            manifest = Manifest(
                **self._facts(),
                key=None if self.key is None else self.key.fingerprint,
                sha256=published.sha256,
                changed=int(changed.sum()),
                distortion=distortion(clean, published, changed, device=device),
            )
            write_atomically(place / NAME, manifest.text())
        return manifest

    def _facts(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "options": describe(self.method),
            "threat": ThreatFacts.of(self.threat),
            "seed": self.seed,
            "training": {
                name: value
                for name, value in self.training.items()
                if name != "runtime" and self.method.trains
            },
            "clean": self.source,
        }

    def _judge(
        self,
        clean: LabelledImages,
        published: LabelledImages,
        changed: Tensor,
        device: torch.device,
    ) -> None:
        most = round((self.threat.budget.poison_rate or 0.0) * len(clean))
        if int(changed.sum()) > most:
            self._refuse(f"changed {int(changed.sum())} images, {most} are allowed")
        if len(published) != len(clean) or published.shape != clean.shape:
            self._refuse("changed the number or the shape of the images")
        if not self.threat.budget.may_relabel and not torch.equal(published.labels, clean.labels):
            self._refuse("changed labels")
        step = max(1, _VALUES // torch.Size(clean.shape).numel())
        outside = 0
        for start in range(0, len(clean), step):
            rows = torch.arange(start, min(start + step, len(clean)))
            old, new, moved = clean.stored(rows), published.stored(rows), changed[rows]
            if not torch.equal(old[~moved], new[~moved]):
                self._refuse("changed images that it calls unchanged")
            old, new = (images[moved].to(device).float() / 255 for images in (old, new))
            outside += int((~self.threat.allowed.contains(old, new)).sum())
        if outside:
            self._refuse(f"left the set {self.threat.allowed} with {outside} images")

    def _refuse(self, what: str) -> None:
        raise Violation(f"The method {self.name!r} {what}. Nothing was written.")


def in_bytes(images: LabelledImages) -> LabelledImages:
    """The same images as uint8: those that are published, where none is changed."""
    return computed(images, lambda stored, _: as_bytes(stored), spec=images.spec)


def source_of(spec: str, whole: LabelledImages, used: LabelledImages, *, size: int) -> Source:
    """What is to be remembered about the clean images.

    Args:
        spec: The words by which they were loaded.
        whole: All that there were.
        used: Those of them that are published.
        size: The side that images of mixed sizes were brought to.
    """
    return Source(spec=spec, n=len(used), whole=len(whole), size=size, sha256=used.sha256)
