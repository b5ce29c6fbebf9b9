"""The trainer: what it changes, what it gives back."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput, UnknownName
from robustkit.training import (
    SGD,
    AdamW,
    Averaging,
    Batch,
    Constant,
    Runtime,
    Trainer,
)
from robustkit.training.losses import PGDTraining, cross_entropy, logits_of
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
