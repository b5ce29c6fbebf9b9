"""RiFT as a whole: what it changes, what it chooses, what it refuses, what it writes."""

import copy
import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.defenses import RiFT, Tuned
from robustkit.defenses._interpolation import Limits, Point, best, curve, mixed
from robustkit.errors import BadInput, DoesNotFit, UnknownName
from robustkit.randomness import Streams
from robustkit.statistics import Interval
from robustkit.training import SGD, CleanAccuracy, Runtime, Selection, Trainer
from robustkit.training.losses import PGDTraining
from tests.training.tiny import L2, LINF, Normed, Smooth, differences, equal, state, tiny_data

TRAINER = Trainer(
    epochs=2, batch_size=16, optimizer=SGD(lr=0.5), runtime=Runtime(device="cpu"), seed=3
)
QUICK = RiFT(
    steps=3,
    samples=24,
    held_out=48,
    attack_steps=3,
    max_doubt=0.5,
    alphas=(0.5, 1.0),
    batch_size=32,
)
DATA = tiny_data(120)


@functools.cache
def _trained(kind: type[Normed] | type[Smooth], epochs: int) -> nn.Module:
    model = kind()
    trainer = dataclasses.replace(TRAINER, epochs=epochs, optimizer=SGD(lr=0.1))
    trainer.fit(model, DATA, PGDTraining(threat=LINF, steps=3, step_size=0.5))
    return model.eval()


def robust(kind: type[Normed] | type[Smooth], epochs: int = 6) -> nn.Module:
    """A tiny network after a little adversarial training."""
    return copy.deepcopy(_trained(kind, epochs))  # type: ignore[arg-type]


def tune(
    model: nn.Module, rift: RiFT = QUICK, trainer: Trainer = TRAINER, data: LabelledImages = DATA
) -> Tuned:
    streams = Streams.of(seed=0, ids=data.ids)
    return rift.tune(model, data, LINF, trainer=trainer, streams=streams)


def test_only_the_chosen_tensor_differs() -> None:
    model = robust(Normed)
    before = state(model)
    tuned = tune(model)
    assert tuned.report.modules == ("last",)  # the only one behind the stem
    assert tuned.report.chosen_by == "criticality"
    end = tuned.at(1.0)
    assert list(differences(before, state(end))) == ["last.weight"]
    assert torch.equal(state(end)["last.weight"], tuned.new["last.weight"])
    assert list(differences(before, state(tuned.at(0.0)))) == []
    assert set(differences(before, state(tuned.model))) <= {"last.weight"}
    assert list(differences(before, state(model))) == []


def test_flags_and_modes_are_those_of_the_given_model() -> None:
    model = robust(Normed)
    model.get_submodule("conv").train()
    model.get_parameter("conv.bias").requires_grad_(False)
    tuned = tune(model).model
    assert [m.training for m in tuned.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in tuned.parameters()] == [True, False, True, True, True, True]
    assert all(parameter.grad is None for parameter in tuned.parameters())


def test_the_chosen_place_lies_between_old_and_new() -> None:
    model = robust(Normed, epochs=1)
    tuned = tune(model, dataclasses.replace(QUICK, max_drop=1.0, max_doubt=1.0))
    alpha = tuned.report.alpha
    assert alpha > 0
    between = torch.lerp(tuned.old["last.weight"], tuned.new["last.weight"], alpha)
    assert torch.equal(state(tuned.model)["last.weight"], between)
    assert tuned.report.chosen.alpha == alpha
    assert tuned.report.displacement["last"] > 0.02
    assert tuned.report.advice is None


def test_named_modules_are_tuned_together() -> None:
    model = robust(Normed)
    tuned = tune(model, dataclasses.replace(QUICK, modules=("conv", "last")))
    assert tuned.report.chosen_by == "name"
    found = list(differences(state(model), state(tuned.at(1.0))))
    assert found == ["conv.weight", "last.weight"]


def test_the_same_seed_gives_the_same_bits() -> None:
    model = robust(Normed)
    first, second = tune(model), tune(model)
    assert first.report.to_json() == second.report.to_json()
    assert equal(first.model, second.model)
    assert first.report.picture() == second.report.picture()
    other = tune(model, trainer=dataclasses.replace(TRAINER, seed=4))
    assert other.report.criticality != first.report.criticality


def test_it_does_not_learn_from_what_it_chooses_by(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    chosen: list[Tensor] = []
    fit = Trainer.fit

    def watched(self: Trainer, *given: Any, **named: Any) -> Any:  # noqa: ANN401
        seen.append(given[1].ids)
        assert self.batch_norm == "frozen"
        return fit(self, *given, **named)

    def asked(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        chosen.append(given[4].ids)
        return curve(*given, **named)

    monkeypatch.setattr(Trainer, "fit", watched)
    monkeypatch.setattr("robustkit.defenses.rift.curve", asked)
    tune(Normed().eval())
    assert len(seen[0]) == 72
    assert len(chosen[0]) == 48
    assert not set(seen[0].tolist()) & set(chosen[0].tolist())
    # The very images that a training with a selection of this size has held out.
    _, held_out = Selection(n=48).split(DATA, TRAINER.seed)
    assert torch.equal(chosen[0], held_out.ids)


def test_nothing_is_changed_where_no_step_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fine-tuning destroys the model, it must come back as it was."""
    fit = Trainer.fit

    def destroy(self: Trainer, *given: Any, **named: Any) -> Any:  # noqa: ANN401
        result = fit(self, *given, **named)
        for parameter in named["parameters"]:
            parameter.data.mul_(-1)
        return result

    model = robust(Normed, epochs=12)
    monkeypatch.setattr(Trainer, "fit", destroy)
    tuned = tune(model)
    assert tuned.report.alpha == 0
    assert equal(tuned.model, model)
    assert [point.safe for point in tuned.report.curve] == [True, False, False]
    assert not tuned.report.proven
    assert tuned.report.verdict.startswith("unchanged")


def test_a_step_that_brings_nothing_is_not_taken() -> None:
    """At rate 0 all places are the same: safe, and no gain."""
    model = robust(Smooth)
    tuned = tune(model, trainer=dataclasses.replace(TRAINER, optimizer=SGD(lr=1e-12)))
    assert tuned.report.alpha == 0
    assert all(point.safe for point in tuned.report.curve)


def test_a_fine_tuning_that_hardly_moves_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "robustkit.defenses"):
        tuned = tune(Smooth().eval(), trainer=dataclasses.replace(TRAINER, optimizer=SGD(lr=1e-4)))
    assert tuned.report.advice in [record.getMessage() for record in caplog.records]
    assert "Raise its rate" in caplog.text


def point(alpha: float, clean: float, *, safe: bool = True) -> Point:
    share = Interval(clean, 0.0, 1.0)
    none = Interval(0.0, 0.0, 0.0)
    return Point(
        alpha=alpha,
        clean=share,
        robust=share,
        clean_gain=none,
        robust_gain=none,
        confidence=0.5,
        safe=safe,
    )


def test_the_best_place_is_safe_and_moves_least() -> None:
    points = [point(0.0, 0.8), point(0.3, 0.9), point(0.6, 0.9), point(1.0, 0.95, safe=False)]
    assert best(points).alpha == 0.3
    assert best([*points, point(1.0, 0.95)]).alpha == 1.0
    assert best([point(0.0, 0.8), point(1.0, 0.8)]).alpha == 0


@pytest.mark.parametrize(
    ("drop", "doubt", "safe"), [(1.0, 1.0, True), (0.0, 1.0, False), (1.0, 0.02, False)]
)
def test_both_limits_count(drop: float, doubt: float, safe: bool) -> None:
    """The end of the way answers one class only: it loses much."""
    model = robust(Smooth, epochs=12)
    before = {"last.bias": model.get_parameter("last.bias").detach().clone()}
    after = {"last.bias": torch.tensor([99.0, 0.0, 0.0])}
    data = tiny_data(60, seed=1)
    points = curve(
        model,
        before,
        after,
        [0.0, 1.0],
        data,
        L2,
        limits=Limits(drop=drop, doubt=doubt, confidence=0.95),
        steps=2,
        batch_size=25,
        streams=Streams.of(seed=0, ids=data.ids),
    )
    assert points[0].safe
    assert points[0].robust.value > 0.5
    assert points[0].robust_gain == Interval(0.0, 0.0, 0.0)
    assert points[1].safe is safe
    assert points[1].clean.value == pytest.approx(1 / 3)
    assert points[1].robust_gain.value == pytest.approx(
        points[1].robust.value - points[0].robust.value
    )


def test_robust_accuracy_is_less_the_larger_the_radius() -> None:
    model = robust(Normed, epochs=12)
    values = []
    for radius in (0.0, 0.1, 0.3):
        points = curve(
            model,
            {},
            {},
            [0.0],
            DATA,
            LINF.with_radius(radius),
            limits=Limits(drop=0.0, doubt=0.1, confidence=0.95),
            steps=5,
            batch_size=50,
            streams=Streams.of(seed=0, ids=DATA.ids),
        )
        values.append(points[0].robust.value)
        assert points[0].clean.value >= values[-1]
    assert values[0] == points[0].clean.value
    assert values[0] > values[1] > values[2]


def test_the_ends_of_the_way_have_the_very_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = ({"w": torch.randn(1000, generator=generator)} for _ in range(2))
    assert torch.equal(mixed(old, new, 0.0)["w"], old["w"])
    assert torch.equal(mixed(old, new, 1.0)["w"], new["w"])


class Tracking(nn.Module):
    """Gathers statistics in training mode by a layer that is no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.InstanceNorm2d(4, track_running_stats=True)
        self.last = nn.Linear(64, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self.last(self.norm(self.conv(inputs)).flatten(1))
        return answer


def test_a_layer_that_gathers_statistics_of_clean_images_is_caught() -> None:
    model = Tracking().eval()
    before = state(model)
    with pytest.raises(DoesNotFit, match=r"changed the model's buffer 'norm\.running_mean'"):
        tune(model)
    assert list(differences(before, state(model))) == []


def test_protect_gives_the_model_alone() -> None:
    model = robust(Normed)
    streams = Streams.of(seed=0, ids=DATA.ids)
    protected = QUICK.protect([model], DATA, LINF, trainer=TRAINER, streams=streams)
    assert equal(protected, tune(model).model)
    with pytest.raises(BadInput, match="one model at a time"):
        QUICK.protect([model, model], DATA, LINF, trainer=TRAINER, streams=streams)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"relative_radius": 0.0}, "relative_radius is 0.0"),
        ({"relative_radius": float("nan")}, "relative_radius is nan"),
        ({"alphas": (0.5, 1.5)}, r"must lie in \[0, 1\]"),
        ({"max_drop": -0.1}, "max_drop is -0.1"),
        ({"confidence": 1.0}, "confidence 1.0"),
        ({"candidates": "some"}, "use all or spatial"),
        ({"held_out": 100}, r"reaches 3.70%. Hold out at least 381 "),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        RiFT(**changes)
    assert RiFT(held_out=381).held_out == 381


def test_what_does_not_fit_is_refused() -> None:
    model = Normed().eval()
    with pytest.raises(UnknownName, match=r"'las'\. Did you mean last"):
        tune(model, dataclasses.replace(QUICK, modules=("las",)))
    with pytest.raises(BadInput, match="48 of 40 training examples were to be held out"):
        tune(model, data=tiny_data(40))
    choosy = dataclasses.replace(TRAINER, selection=Selection(score=CleanAccuracy(), n=4))
    with pytest.raises(BadInput, match="a trainer without a selection"):
        tune(model, trainer=choosy)


def test_it_goes_on_after_a_stop(tmp_path: Path) -> None:
    model = robust(Normed)
    whole = tune(model)
    stopped = dataclasses.replace(TRAINER, out=tmp_path, max_steps=3)
    tune(model, trainer=stopped)
    resumed = tune(model, trainer=dataclasses.replace(TRAINER, out=tmp_path, resume=True))
    assert torch.equal(resumed.new["last.weight"], whole.new["last.weight"])
    assert resumed.report.to_json() == whole.report.to_json()


def test_the_report_is_written(tmp_path: Path) -> None:
    report = tune(robust(Normed)).report
    report.write(tmp_path / "new")
    found = json.loads((tmp_path / "new" / "rift.json").read_text())
    assert [one["module"] for one in found["criticality"]] == [
        one.module for one in report.criticality
    ]
    assert [one["alpha"] for one in found["curve"]] == [0.0, 0.5, 1.0]
    assert found["curve"][0]["robust_gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["alpha"] == report.alpha
    assert found["threat"]["perturbation"]["radius"] == 0.1
    assert "guarantees nothing" in found["note"]
    picture = (tmp_path / "new" / "rift.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"rift.json", "rift.png"}


def test_the_published_settings() -> None:
    trainer = RiFT.published()
    assert (trainer.epochs, trainer.batch_size) == (10, 128)
    assert trainer.optimizer == SGD(lr=1e-3, momentum=0.9, weight_decay=5e-4)
    factors = [trainer.schedule.factor(epoch, 10, []) for epoch in (0.0, 4.9, 5.0, 9.9)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1])
