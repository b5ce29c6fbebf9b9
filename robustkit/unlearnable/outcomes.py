"""What came out of a training, and where finished ones are kept."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import CorruptFile
from robustkit.files import write_atomically
from robustkit.passes import Passes

FOLDER = "trainings"
Bits = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of one training.

    Attributes:
        right: For each test its (N,) bool: which images the network of the last epoch has right.
        best: (N,) bool: which clean test images that of the best epoch has right.
        best_epoch: The epoch that did best on the images by which it was chosen, from 1.
        epochs: How many there were.
        stopped_by: See `TrainResult`.
        passes: Of the network, tests included.
        seconds: On the clock.
        cpu_seconds: Of this process.
    """

    right: Mapping[str, Bits]
    best: Bits
    best_epoch: int
    epochs: int
    stopped_by: str
    passes: Passes
    seconds: float
    cpu_seconds: float

    def packed(self) -> dict[str, Any]:
        """As JSON."""
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("right", "best", "passes")
        }
        return {
            "right": {name: _packed(bits) for name, bits in self.right.items()},
            "best": _packed(self.best),
            "passes": dataclasses.asdict(self.passes),
            **plain,
        }

    @classmethod
    def unpacked(cls, table: Mapping[str, Any]) -> "Outcome":
        """What `packed` gave.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        return cls(
            **{
                **table,
                "right": {name: _unpacked(bits) for name, bits in table["right"].items()},
                "best": _unpacked(table["best"]),
                "passes": Passes(**table["passes"]),
            }
        )


def _packed(bits: Bits) -> dict[str, Any]:
    return {"n": len(bits), "bits": np.packbits(bits).tobytes().hex()}


def _unpacked(table: Mapping[str, Any]) -> Bits:
    stored = np.frombuffer(bytes.fromhex(table["bits"]), dtype=np.uint8)
    bits = np.unpackbits(stored, count=table["n"]).astype(bool)
    if len(bits) != table["n"]:
        raise ValueError(f"{len(bits)} answers, not {table['n']}")
    return bits


class Kept:
    """Finished trainings in a folder, each found again by everything that it depends on."""

    def __init__(self, folder: Path | None) -> None:
        """Args: where they are kept, in a folder of their own; None keeps none."""
        self.folder = None if folder is None else folder / FOLDER

    def find(self, identity: Mapping[str, Any]) -> Outcome | None:
        """The training of this identity, if it has been finished before.

        Raises:
            CorruptFile: Something else lies in its place.
        """
        if self.folder is None:
            return None
        path = self._path(self.folder, identity)
        try:
            return Outcome.unpacked(json.loads(path.read_bytes())["outcome"])
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(
                f"{str(path)!r} is no finished training: {error!r}. Remove it, and it is trained "
                "again."
            ) from error

    def made(self, identity: Mapping[str, Any], make: Callable[[], Outcome]) -> Outcome:
        """The training of this identity: made, and kept as soon as it is finished.

        Raises:
            BadInput, CannotWrite: See `write_atomically`.
        """
        outcome = make()
        if self.folder is not None:
            content = {"identity": dict(identity), "outcome": outcome.packed()}
            write_atomically(self._path(self.folder, identity), json.dumps(content) + "\n")
        return outcome

    @staticmethod
    def _path(folder: Path, identity: Mapping[str, Any]) -> Path:
        text = json.dumps(identity, sort_keys=True)
        return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
