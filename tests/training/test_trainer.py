"""The trainer: what it changes, what it gives back, when it stops, what it refuses."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput, CannotWrite, MissingExtra, UnknownName
from robustkit.randomness import Streams
from robustkit.training import (
    SGD,
    AccuracyGradient,
    AdamW,
    Averaging,
    Batch,
    Constant,
    Crop,
    Flip,
    RobustAccuracy,
    Runtime,
    Selection,
    Trainer,
)
from robustkit.training.losses import AWP, Loss, PGDTraining, cross_entropy, logits_of
from robustkit.training.losses.early_learning import EarlyLearning
from tests.training.tiny import LINF, Normed, Smooth, equal, quick, state, tiny_data


def test_it_learns_and_tells_how() -> None:
    model = Smooth()
    result = quick(epochs=8).fit(model, tiny_data())
    assert result.stopped_by == "epochs"
    assert [record["epoch"] for record in result.history] == list(range(1, 9))
    assert result.history[-1]["steps"] == 8 * 3
    assert result.history[-1]["accuracy"] > 0.9 > result.history[0]["accuracy"]
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2
    assert result.best is result.last
    assert all(torch.equal(result.best.state[name], value) for name, value in state(model).items())


def test_a_pair_of_tensors_is_data_too() -> None:
    data = tiny_data()
    first, second = Smooth(), Smooth()
    quick().fit(first, data)
    quick().fit(second, (data.inputs(slice(None)), data.labels))
    assert equal(first, second)


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    models = [Smooth(dropout=0.3) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(seed)  # the global generator's state must not matter
        dataclasses.replace(quick(), seed=seed).fit(model, tiny_data())
    assert equal(models[0], models[1])
    assert not equal(models[0], models[2])


def test_it_matches_a_plain_loop() -> None:
    """One epoch in stored order, against torch's own optimiser and schedule."""
    data = tiny_data()
    model, plain = Smooth(), Smooth()
    trainer = Trainer(epochs=1, batch_size=48, optimizer=SGD(lr=0.2), schedule=Constant())
    trainer.fit(model, data)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    F.cross_entropy(plain(data.inputs(slice(None))), data.labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for name, value in state(model).items():
        torch.testing.assert_close(value, state(plain)[name])


@pytest.mark.parametrize("averaging", [None, Averaging(decay=0.9)])
def test_modes_and_flags_come_back_as_they_were(averaging: Averaging | None) -> None:
    model = Normed().eval()
    model.conv.train()
    model.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
    before = state(model)
    dataclasses.replace(quick(), averaging=averaging).fit(model, tiny_data())
    assert [m.training for m in (model, model.conv, model.norm)] == [False, True, False]
    assert [p.requires_grad for p in model.conv.parameters()] == [True, False]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state(model)["conv.bias"], before["conv.bias"])
    assert not torch.equal(state(model)["conv.weight"], before["conv.weight"])
    assert not torch.equal(state(model)["norm.running_mean"], before["norm.running_mean"])


def test_modes_come_back_after_an_error() -> None:
    def broken(model: nn.Module, batch: Batch) -> Tensor:
        raise RuntimeError("on purpose")

    model = Normed().eval()
    with pytest.raises(RuntimeError, match="on purpose"):
        quick().fit(model, tiny_data(), broken)
    assert not any(module.training for module in model.modules())


def test_only_the_chosen_parameters_change() -> None:
    model = Normed()
    before = state(model)
    dataclasses.replace(quick(), batch_norm="frozen").fit(
        model, tiny_data(), parameters=list(model.last.parameters())[:1]
    )
    changed = [name for name, value in state(model).items() if not torch.equal(value, before[name])]
    assert changed == ["last.weight"]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parameters_of_another_model_are_refused() -> None:
    with pytest.raises(BadInput, match="1 of the 1 parameters"):
        quick().fit(Smooth(), tiny_data(), parameters=list(Smooth().last.parameters())[:1])


def test_accumulation_gives_the_same_weights() -> None:
    whole, parts = Smooth(), Smooth()
    quick().fit(whole, tiny_data())
    dataclasses.replace(quick(), accumulate=4).fit(parts, tiny_data())
    for name, value in state(whole).items():
        torch.testing.assert_close(value, state(parts)[name], rtol=1e-5, atol=1e-6)


def test_clipping_limits_a_step() -> None:
    model = Smooth()
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    optimizer = SGD(lr=1.0, momentum=0, weight_decay=0)
    Trainer(epochs=1, batch_size=48, optimizer=optimizer, schedule=Constant(), clip=1e-3).fit(
        model, tiny_data()
    )
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_vectors_need_not_decay() -> None:
    def nothing(model: nn.Module, batch: Batch) -> Tensor:
        return 0.0 * logits_of(model, batch.inputs).sum()

    for optimizer in (
        SGD(weight_decay=0.1, decay_vectors=False),
        AdamW(lr=0.1, weight_decay=0.1),
    ):
        model = Normed()
        before = state(model)
        dataclasses.replace(quick(), optimizer=optimizer).fit(model, tiny_data(), nothing)
        after = state(model)
        assert torch.equal(after["norm.weight"], before["norm.weight"])
        assert torch.equal(after["conv.bias"], before["conv.bias"])
        assert after["conv.weight"].norm() < before["conv.weight"].norm()


def test_bf16_trains_float32_weights() -> None:
    model, other = Smooth(), Smooth()
    dataclasses.replace(quick(), runtime=Runtime(device="cpu", dtype="bf16")).fit(
        model, tiny_data(), PGDTraining(threat=LINF, steps=2)
    )
    quick().fit(other, tiny_data(), PGDTraining(threat=LINF, steps=2))
    assert model.last.weight.dtype == torch.float32
    assert not equal(model, other)
    torch.testing.assert_close(state(model), state(other), rtol=0.2, atol=0.05)


def test_layout_and_compilation_change_nothing_that_stays() -> None:
    plain, special = Normed(), Normed()
    quick().fit(plain, tiny_data(), PGDTraining(threat=LINF, steps=2))
    runtime = Runtime(device="cpu", channels_last=True, compile="eager")
    dataclasses.replace(quick(), runtime=runtime).fit(
        special, tiny_data(), PGDTraining(threat=LINF, steps=2)
    )
    assert special._compiled_call_impl is None
    assert special.conv.weight.is_contiguous()
    for name, value in state(plain).items():
        torch.testing.assert_close(value, state(special)[name], rtol=1e-3, atol=1e-4)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1", "tpu", "cuda:"):
        with pytest.raises(BadInput, match="device"):
            dataclasses.replace(quick(), runtime=Runtime(device=device)).fit(Smooth(), tiny_data())


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    model = Normed()
    before = state(model)
    dataclasses.replace(quick(), batch_norm="frozen").fit(model, tiny_data())
    after = state(model)
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["norm.weight"], before["norm.weight"])


def test_the_best_epoch_is_given_back() -> None:
    """A loss that unlearns from the fifth epoch on: the selection must go back."""

    def unlearning(model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model, batch) * (1.0 if batch.epoch < 4 else -3.0)

    model = Smooth()
    trainer = dataclasses.replace(quick(epochs=6), schedule=Constant(), selection=Selection(n=12))
    result = trainer.fit(model, tiny_data(), unlearning)
    scores = [record["held_out_accuracy"] for record in result.history]
    assert result.best.score == max(scores) > scores[-1]
    assert result.best.epoch == scores.index(max(scores)) + 1
    assert result.last.epoch == 6
    assert torch.equal(model.last.weight, result.best.state["last.weight"])
    assert not torch.equal(model.last.weight, result.last.state["last.weight"])


def test_what_is_held_out_is_not_learnt_from() -> None:
    data = tiny_data()
    seen: set[int] = set()

    def watching(model: nn.Module, batch: Batch) -> Tensor:
        seen.update(batch.ids.tolist())
        return cross_entropy(model, batch)

    selection = Selection(n=12, score=RobustAccuracy(threat=LINF, steps=2))
    result = dataclasses.replace(quick(), selection=selection).fit(Smooth(), data, watching)
    learnt, held_out = selection.split(data, 1)
    assert len(held_out) == 12
    assert seen <= set(learnt.ids.tolist())
    assert not seen & set(held_out.ids.tolist())
    assert held_out.labels.bincount().tolist() == [4, 4, 4]
    for record in result.history:
        assert record["held_out_robust_accuracy"] <= record["held_out_accuracy"]


def test_the_robust_score_counts_what_stands() -> None:
    model = Smooth().train()
    quick(epochs=8).fit(model, tiny_data())
    rows = torch.arange(48)
    batch = Batch(
        inputs=tiny_data().inputs(rows),
        labels=tiny_data().labels,
        ids=rows,
        epoch=0,
        step=0,
        streams=Streams.of(seed=0, ids=rows),
    )
    shares = []
    for radius in (0.0, 0.15, 0.6):
        found = RobustAccuracy(threat=LINF.with_radius(radius), steps=5)(model, batch)
        stands, right = found["held_out_robust_accuracy"], found["held_out_accuracy"]
        assert bool((stands <= right).all())
        shares.append((float(stands.mean()), float(right.mean())))
    assert shares[0][0] == shares[0][1] > 0.9
    assert shares[0][0] > shares[1][0] > shares[2][0]
    assert model.training


def test_a_score_need_not_come_every_epoch() -> None:
    selection = Selection(n=12, every=2)
    result = dataclasses.replace(quick(epochs=5), selection=selection).fit(Smooth(), tiny_data())
    scored = [record["epoch"] for record in result.history if "held_out_accuracy" in record]
    assert scored == [2, 4, 5]


def test_nothing_left_to_learn_from_is_refused() -> None:
    with pytest.raises(BadInput, match="leaves none"):
        dataclasses.replace(quick(), selection=Selection(n=48)).fit(Smooth(), tiny_data())


def test_a_schedule_that_follows_scores_needs_them() -> None:
    with pytest.raises(BadInput, match="selection"):
        Trainer(schedule=AccuracyGradient())
    trainer = Trainer(
        epochs=9, batch_size=16, schedule=AccuracyGradient(slope=1.0), selection=Selection(n=12)
    )
    rates = [record["lr"] for record in trainer.fit(Smooth(), tiny_data()).history]
    assert rates == pytest.approx([0.1] * 7 + [0.08] * 2)


def test_every_batch_is_new_and_every_epoch_sees_each_example_once() -> None:
    seen: list[list[int]] = []
    drawn: dict[int, set[float]] = {}

    def watching(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch.ids.tolist())
        for id_, number in zip(batch.ids.tolist(), batch.streams.uniform(()).tolist(), strict=True):
            drawn.setdefault(id_, set()).add(number)
        return cross_entropy(model, batch)

    quick(epochs=2).fit(Smooth(), tiny_data(), watching)
    first, second = ([id_ for ids in part for id_ in ids] for part in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == list(range(48))
    assert first != second
    assert all(len(numbers) == 2 for numbers in drawn.values())


def test_an_odd_rest_is_left_out_and_small_data_makes_small_batches() -> None:
    assert quick(epochs=1).fit(Smooth(), tiny_data(40)).history[-1]["steps"] == 2
    assert quick(epochs=1).fit(Smooth(), tiny_data(6)).history[-1]["steps"] == 1


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


def test_losses_by_name() -> None:
    assert quick().loss("pgd")(threat=LINF, steps=3).steps == 3  # type: ignore[attr-defined]
    with pytest.raises(UnknownName, match=r"No loss is called 'trade'\. Did you mean trades"):
        quick().loss("trade")


def test_the_average_is_what_is_scored_and_given_back() -> None:
    averaging = Averaging(decay=0.9, warm_up=False)
    model, plain = Normed(), Normed()
    states: list[dict[str, Tensor]] = []

    def watching(module: nn.Module, batch: Batch) -> Tensor:
        states.append(state(module))
        return cross_entropy(module, batch)

    dataclasses.replace(quick(), averaging=averaging).fit(model, tiny_data(), watching)
    quick().fit(plain, tiny_data())
    states = [*states[1:], state(plain)]
    mean = states[0]
    for after in states[1:]:
        for name, value in after.items():
            mixed = torch.lerp(mean[name], value, 0.1) if value.is_floating_point() else value
            mean = {**mean, name: mixed}
    for name, value in state(model).items():
        torch.testing.assert_close(value, mean[name])
    assert not equal(model, plain)


def test_the_history_is_a_file_too(tmp_path: Path) -> None:
    result = quick(out=tmp_path).fit(Smooth(), tiny_data())
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [dict(record) for record in result.history]


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
