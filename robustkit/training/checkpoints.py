"""Checkpoints: two generations, each written whole or not at all, and loaded without running code.

The older of two files is replaced, so that whatever happens while one is written, the other is
there. Each says how many updates it has behind it; the one with more is taken.
"""

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from robustkit.errors import BadInput, CorruptFile
from robustkit.files import write_atomically

FORMAT = 1
_NAMES = ("checkpoint-0.pt", "checkpoint-1.pt")
_logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: Where they lie.
        configuration: What the run was asked to do, as JSON; a checkpoint of anything else is
            refused.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        """Args: see the attributes."""
        self.folder = folder
        # Through JSON and back: as it is compared with what a file says.
        self.configuration = json.loads(json.dumps(configuration))
        self._newest: str | None = None

    def save(self, state: Mapping[str, Any], updates: int) -> None:
        """Write a checkpoint over the older of the two.

        Args:
            state: Tensors, numbers, strings, lists and dictionaries of them.
            updates: How far the run is; larger than at the last call.

        Raises:
            BadInput: Writing there is not allowed.
            CannotWrite: The disk is full; the newer checkpoint is intact.
        """
        content = {
            "format": FORMAT,
            "configuration": json.dumps(self.configuration),
            "updates": updates,
            "state": dict(state),
        }
        stream = io.BytesIO()
        torch.save(content, stream)
        older = _NAMES[1] if self._newest == _NAMES[0] else _NAMES[0]
        write_atomically(self.folder / older, stream.getvalue())
        self._newest = older

    def load(self) -> Mapping[str, Any] | None:
        """The state of the newest checkpoint that can be read; None if there is none.

        Raises:
            BadInput: It belongs to another run.
            CorruptFile: There are checkpoints, and none can be read.
        """
        found = self._readable()
        if not found:
            if self.exist():
                raise CorruptFile(
                    f"No checkpoint in {str(self.folder)!r} can be read. Remove them to start anew."
                )
            return None
        self._newest = max(found, key=lambda name: int(found[name]["updates"]))
        newest = found[self._newest]
        self._check(json.loads(newest["configuration"]))
        state: Mapping[str, Any] = newest["state"]
        return state

    def exist(self) -> bool:
        """Whether there is any file of a checkpoint."""
        return any((self.folder / name).exists() for name in _NAMES)

    def _readable(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name in _NAMES:
            path = self.folder / name
            if not path.exists():
                continue
            try:
                found[name] = _read(path)
            except CorruptFile as error:
                _logger.warning("%s", error)
        return found

    def _check(self, other: Mapping[str, Any]) -> None:
        names = sorted(set(self.configuration) | set(other))
        differ = [name for name in names if self.configuration.get(name) != other.get(name)]
        if differ:
            details = "; ".join(
                f"{name}: {_short(other.get(name))} there, {_short(self.configuration.get(name))} "
                "now"
                for name in differ
            )
            raise BadInput(
                f"The checkpoint in {str(self.folder)!r} belongs to another run ({details}). Give "
                "the same settings, or another folder."
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise CorruptFile(
            f"{str(path)!r} is no readable checkpoint ({type(error).__name__}); it was left out."
        ) from error
    words = {"format": int, "configuration": str, "updates": int, "state": dict}
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), kind) for key, kind in words.items()
    ):
        raise CorruptFile(f"{str(path)!r} is not a checkpoint that robustkit wrote.")
    if content["format"] > FORMAT:
        raise BadInput(f"{str(path)!r} was written by a newer version of robustkit; upgrade it.")
    return content


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
