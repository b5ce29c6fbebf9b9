"""Finished pieces of long benchmarks, kept so that an interrupted one goes on where it was.

The folder that ROBUSTKIT_BENCHMARKS names holds them; without it nothing outlives the run. A piece
is found again by its name and by everything it depends on but the code: empty the folder after a
change of the code.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from robustkit.files import write_atomically


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Where pieces lie."""
    if "ROBUSTKIT_BENCHMARKS" in os.environ:
        path = Path(os.environ["ROBUSTKIT_BENCHMARKS"])
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def kept(place: Path, name: str, depends_on: Mapping[str, object], make: Callable[[], Any]) -> Any:  # noqa: ANN401 - JSON
    """What `make` gives, as JSON, made only if it does not lie in `place` yet."""
    text = json.dumps(depends_on, sort_keys=True)
    path = place / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        write_atomically(path, json.dumps(make()))
    return json.loads(path.read_text(encoding="utf-8"))
