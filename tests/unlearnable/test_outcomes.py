"""Finished trainings on disk: found again by everything they depend on, or made."""

from pathlib import Path

import numpy as np
import pytest

from robustkit.errors import CorruptFile
from robustkit.passes import Passes
from robustkit.unlearnable.outcomes import FOLDER, Kept, Outcome


def outcome(n: int = 11) -> Outcome:
    bits = np.arange(n) % 3 == 0
    return Outcome(
        right={"clean": bits, "same key": ~bits},
        best=np.zeros(n, dtype=np.bool_),
        best_epoch=2,
        epochs=3,
        stopped_by="epochs",
        passes=Passes(5, 3, 5),
        seconds=1.5,
        cpu_seconds=1.25,
    )


def same(first: Outcome, second: Outcome | None) -> bool:
    return second is not None and first.packed() == second.packed()


@pytest.mark.parametrize("n", [1, 8, 11])
def test_what_is_packed_is_unpacked(n: int) -> None:
    found = Outcome.unpacked(outcome(n).packed())
    assert same(outcome(n), found)
    assert found.right["clean"].dtype == np.bool_
    assert len(found.best) == n


def test_a_training_is_found_again_by_all_that_it_depends_on(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    identity = {"learner": "erm", "seed": 0}
    assert kept.find(identity) is None
    assert same(kept.made(identity, outcome), outcome())
    assert same(outcome(), Kept(tmp_path).find({"seed": 0, "learner": "erm"}))
    assert kept.find({**identity, "seed": 1}) is None
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_nothing_is_kept_of_what_did_not_finish(tmp_path: Path) -> None:
    def interrupted() -> Outcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Kept(tmp_path).made({}, interrupted)
    assert not (tmp_path / FOLDER).exists()


def test_without_a_folder_nothing_is_written() -> None:
    kept = Kept(None)
    assert same(kept.made({}, outcome), outcome())
    assert kept.find({}) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"outcome": {}}',
        '{"outcome": {"right": {"clean": {"n": 9, "bits": "ff"}}}}',
    ],
)
def test_damaged_files_are_told(tmp_path: Path, text: str) -> None:
    kept = Kept(tmp_path)
    kept.made({}, outcome)
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_text(text)
    with pytest.raises(CorruptFile, match="no finished training"):
        kept.find({})
