"""An empty world: no test here finds data that the machine happens to have."""

from pathlib import Path

import pytest

from robustkit.data import places


@pytest.fixture(autouse=True)
def empty_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUSTKIT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(places, "SYSTEM", tmp_path / "system")
