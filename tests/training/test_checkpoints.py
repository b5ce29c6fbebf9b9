"""Checkpoints: two generations, nothing of another run, no code from a file."""

import json
import logging
import pickle
from pathlib import Path

import pytest
import torch

from robustkit.errors import BadInput, CorruptFile
from robustkit.training import SGD
from robustkit.training.checkpoints import Checkpoints
from tests.training.tiny import Smooth, equal, quick, tiny_data

HERE = {"seed": 1, "loss": {"type": "PGDTraining", "steps": 3}}


def test_the_newest_of_two_generations_is_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, HERE)
    assert checkpoints.load() is None
    for updates in range(1, 6):
        checkpoints.save({"value": torch.tensor(updates)}, updates)
        assert len(list(tmp_path.iterdir())) == min(updates, 2)
        found = Checkpoints(tmp_path, HERE).load()
        assert found is not None
        assert int(found["value"]) == updates


def test_after_a_resume_the_older_one_is_replaced(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, HERE)
    first.save({"value": 1}, 1)
    first.save({"value": 2}, 2)
    second = Checkpoints(tmp_path, HERE)
    second.load()
    second.save({"value": 3}, 3)
    values = [torch.load(file, weights_only=True)["updates"] for file in tmp_path.iterdir()]
    assert sorted(values) == [2, 3]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
def test_a_damaged_one_leaves_the_other(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, HERE)
    checkpoints.save({"value": 1}, 1)
    checkpoints.save({"value": 2}, 2)
    newest = tmp_path / "checkpoint-1.pt"
    content = newest.read_bytes()
    newest.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello"}.get(damage, b"")
    )
    if damage == "other":
        torch.save({"weights": torch.zeros(1)}, newest)
    with caplog.at_level(logging.WARNING, "robustkit"):
        found = Checkpoints(tmp_path, HERE).load()
    assert found == {"value": 1}
    assert "checkpoint-1.pt" in caplog.text


def test_when_none_can_be_read_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-0.pt").write_bytes(b"nothing")
    with pytest.raises(CorruptFile, match="Remove them to start anew"):
        Checkpoints(tmp_path, HERE).load()


class Marker:
    """Writes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"format": 1, "state": Marker(marker)}, tmp_path / "checkpoint-0.pt")
    (tmp_path / "checkpoint-1.pt").write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(CorruptFile):
        Checkpoints(tmp_path, HERE).load()
    assert not marker.exists()
    pickle.loads((tmp_path / "checkpoint-1.pt").read_bytes())
    assert marker.exists(), "the trap itself must work"


def test_another_run_is_refused_and_the_difference_told(tmp_path: Path) -> None:
    Checkpoints(tmp_path, HERE).save({}, 1)
    other = json.loads(json.dumps(HERE))
    other["loss"]["steps"] = 4
    with pytest.raises(BadInput, match=r"loss: .*3.* there, .*4.* now"):
        Checkpoints(tmp_path, other).load()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, HERE).save({}, 1)
    file = tmp_path / "checkpoint-0.pt"
    content = torch.load(file, weights_only=True)
    torch.save({**content, "format": 99}, file)
    with pytest.raises(BadInput, match="newer version"):
        Checkpoints(tmp_path, HERE).load()


def test_a_folder_with_a_run_is_only_used_to_go_on(tmp_path: Path) -> None:
    quick(out=tmp_path).fit(Smooth(), tiny_data())
    with pytest.raises(BadInput, match="--resume"):
        quick(out=tmp_path).fit(Smooth(), tiny_data())


def test_resuming_where_nothing_is_starts(tmp_path: Path) -> None:
    first, second = Smooth(), Smooth()
    quick(out=tmp_path / "new", resume=True).fit(first, tiny_data())
    quick().fit(second, tiny_data())
    assert equal(first, second)


def test_other_data_model_or_settings_are_another_run(tmp_path: Path) -> None:
    quick(out=tmp_path).fit(Smooth(), tiny_data())
    again = quick(out=tmp_path, resume=True)
    for what, model, data, trainer in (
        ("model", Smooth(seed=1), tiny_data(), again),
        ("data", Smooth(), tiny_data(seed=1), again),
        ("optimizer", Smooth(), tiny_data(), quick(out=tmp_path, resume=True, lr=0.2)),
        ("epochs", Smooth(), tiny_data(), quick(out=tmp_path, resume=True, epochs=4)),
    ):
        with pytest.raises(BadInput, match=f"another run.*{what}"):
            trainer.fit(model, data)
    assert SGD(lr=0.1) == again.optimizer
