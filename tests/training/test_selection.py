"""Held-out examples: who is scored on them, who learns from them, and which epoch is kept."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.training import (
    AccuracyGradient,
    Batch,
    Constant,
    RobustAccuracy,
    Selection,
    Trainer,
)
from robustkit.training.losses import cross_entropy
from tests.training.tiny import LINF, Smooth, quick, tiny_data


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
