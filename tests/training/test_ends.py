"""How a training ends: stops, refusals, full disks, and runs that go on."""

import dataclasses
import json
import logging
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit.errors import BadInput, CannotWrite, MissingExtra
from robustkit.training import (
    SGD,
    Averaging,
    Batch,
    Crop,
    Flip,
    RobustAccuracy,
    Selection,
    Trainer,
)
from robustkit.training.losses import AWP, Loss, PGDTraining, cross_entropy
from robustkit.training.losses.early_learning import EarlyLearning
from tests.training.tiny import LINF, Normed, Smooth, equal, quick, state, tiny_data


def test_it_stops_after_so_many_steps() -> None:
    result = dataclasses.replace(quick(), max_steps=4).fit(Smooth(), tiny_data())
    assert result.stopped_by == "max_steps"
    assert len(result.history) == 1
    result = dataclasses.replace(quick(), max_steps=3).fit(Smooth(), tiny_data())
    assert len(result.history) == 1
    assert result.last.epoch == 1


class Diverging:
    """Cross-entropy until one step of one epoch, NaN from there on."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"Diverging({self.epoch})"

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        value = cross_entropy(model, batch)
        return value * torch.nan if (batch.epoch, batch.step) >= (self.epoch, 1) else value


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, shorter = Smooth(), Smooth()
    with caplog.at_level(logging.WARNING, "robustkit"):
        result = quick(epochs=4, out=tmp_path).fit(model, tiny_data(), Diverging(2))
    assert result.stopped_by == "diverged"
    assert result.last.epoch == len(result.history) == 2
    assert "in epoch 3, step 2 of 3" in caplog.text
    quick(epochs=4).fit(shorter, tiny_data(), Stopping(2))
    assert equal(model, shorter)
    assert all(bool(value.isfinite().all()) for value in state(model).values())
    # The checkpoint is the good one too.
    again = Smooth()
    repeated = quick(epochs=4, out=tmp_path, resume=True).fit(again, tiny_data(), Diverging(2))
    assert repeated.stopped_by == "diverged"
    assert equal(model, again)


class Stopping:
    """Cross-entropy that wants to stop after the third epoch, back to the second."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model, batch)

    def stop(self, history: list[Mapping[str, Any]]) -> str | None:
        return "enough" if len(history) > self.epochs else None


def test_a_loss_can_stop_the_training_and_take_the_last_epoch_back() -> None:
    result = quick(epochs=9).fit(Smooth(), tiny_data(), Stopping(2))
    assert result.stopped_by == "enough"
    assert len(result.history) == 3
    assert result.last.epoch == 2


def test_a_loss_that_is_nan_at_once_is_an_error() -> None:
    model = Smooth().eval()
    with pytest.raises(BadInput, match=r"in epoch 1, step 2 of 3\. Lower the learning rate"):
        quick().fit(model, tiny_data(), Diverging(0))
    assert not model.training


def test_a_loss_that_is_no_number_is_refused() -> None:
    for wrong in (
        lambda model, batch: model(batch.inputs).sum(1),
        lambda model, batch: torch.zeros(()),
    ):
        with pytest.raises(BadInput, match="one number that depends on the model"):
            quick().fit(Smooth(), tiny_data(), wrong)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Smooth(classes=2), "label 2, but the model answers 2 classes"),
        (nn.Sequential(nn.Flatten(), nn.Linear(35, 3)), "cannot take images of 1 x 6 x 6"),
        (nn.Flatten(0), "no parameters to train"),
        (nn.Sequential(nn.Conv2d(1, 3, 3)), "one row of logits"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(model: nn.Module, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        quick().fit(model, tiny_data())


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"max_steps": 0},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"batch_norm": "eval"},
        {"resume": True},
        {"tensorboard": True},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Trainer(**settings)


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(BadInput, match="multiple of 3"):
        dataclasses.replace(quick(), accumulate=3).fit(Smooth(), tiny_data())


def test_the_history_is_a_file_too(tmp_path: Path) -> None:
    result = quick(out=tmp_path).fit(Smooth(), tiny_data())
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [dict(record) for record in result.history]


def test_every_number_goes_to_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []
    opened: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, folder: str, *, purge_step: int) -> None:
            opened.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr("robustkit.training.history.find_spec", lambda name: name)
    trainer = dataclasses.replace(quick(out=tmp_path), tensorboard=True)
    result = trainer.fit(Smooth(), tiny_data())
    assert opened == [(str(tmp_path / "tensorboard"), 0)]
    assert written.pop()[0] == "closed"
    expected = [
        (name, value, record["epoch"])
        for record in result.history
        for name, value in record.items()
        if name != "epoch"
    ]
    assert written == expected


def test_tensorboard_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustkit.training.history.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'robustkit\[tensorboard\]'"):
        dataclasses.replace(quick(out=tmp_path), tensorboard=True).fit(Smooth(), tiny_data())


def everything(out: Path | None, *, resume: bool = False) -> Trainer:
    """A trainer that uses all it has."""
    return Trainer(
        epochs=4,
        batch_size=12,
        optimizer=SGD(nesterov=True),
        augmentation=(Crop(padding=1), Flip()),
        averaging=Averaging(decay=0.8),
        selection=Selection(n=12, score=RobustAccuracy(threat=LINF, steps=2)),
        accumulate=2,
        out=out,
        resume=resume,
        checkpoint_steps=2,
    )


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    "loss",
    [PGDTraining(threat=LINF, steps=2), AWP(loss=PGDTraining(threat=LINF, steps=1)), None],
    ids=["pgd", "awp", "early-learning"],
)
def test_a_run_in_two_parts_is_the_run_in_one(
    tmp_path: Path, stop_after: int, loss: Loss | None
) -> None:
    models = [Normed() for _ in range(3)]
    whole = everything(None).fit(models[0], tiny_data(), loss or EarlyLearning())
    first = dataclasses.replace(everything(tmp_path), max_steps=stop_after)
    first.fit(models[1], tiny_data(), loss or EarlyLearning())
    second = everything(tmp_path, resume=True)
    resumed = second.fit(models[2], tiny_data(), loss or EarlyLearning())
    assert equal(models[0], models[2])
    assert resumed.best.epoch == whole.best.epoch
    assert all(
        torch.equal(value, resumed.last.state[name]) for name, value in whole.last.state.items()
    )
    assert [_timeless(record) for record in resumed.history] == [
        _timeless(record) for record in whole.history
    ]


def _timeless(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "seconds"}


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    model, again = Smooth(), Smooth()
    quick(out=tmp_path).fit(model, tiny_data())
    result = quick(out=tmp_path, resume=True).fit(again, tiny_data())
    assert len(result.history) == 3
    assert equal(model, again)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Smooth()
    quick().fit(whole, tiny_data())
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("robustkit.files.os.fsync", fsync)
    model = Smooth().eval()
    with pytest.raises(CannotWrite, match="No space left on device"):
        quick(out=tmp_path).fit(model, tiny_data())
    assert not model.training
    monkeypatch.undo()
    resumed = Smooth()
    assert len(list(tmp_path.glob("*.pt"))) == 1
    quick(out=tmp_path, resume=True).fit(resumed, tiny_data())
    assert equal(whole, resumed)
