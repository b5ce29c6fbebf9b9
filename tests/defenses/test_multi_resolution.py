"""The stack against a slow copy, heads, training, saving, and what a random model reports."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import data, evaluate, models
from robustkit.attacks import PGD
from robustkit.defenses import (
    CrossMax,
    MeanLogits,
    MultiResolution,
    MultiResolutionStack,
    SelfEnsemble,
)
from robustkit.defenses._trunk import passed, widened
from robustkit.defenses.multi_resolution import OnDraws
from robustkit.errors import BadInput, ShapeMismatch
from robustkit.evaluation import adaptive, draws
from robustkit.models import Normalize, Normalized
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.training import SGD, AdamW, Batch, OneCycle, Trainer
from robustkit.training.losses import PGDTraining
from tests.evaluation.victims import digits, threat

STACK = MultiResolutionStack(resolutions=(8, 4), jitter=1, low_noise=0.05, high_noise=0.05)
STILL = MultiResolutionStack(
    resolutions=(8, 4), jitter=0, contrast=(), colour=(1, 1), low_noise=0, high_noise=0
)
SHAPE = (1, 8, 8)


def coloured(n: int = 5, side: int = 32) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def streams(n: int, seed: int = 0) -> Streams:
    return Streams.of(seed=seed, ids=torch.arange(n))


def one_by_one(stack: MultiResolutionStack, images: Tensor, own: Streams) -> Tensor:
    """The notebook's way: image by image, version by version, with torchvision's contrast."""
    count = len(stack.resolutions)
    colour = own.fork("colour").integers(100, (count,)) / 99 * 0.5 + 0.5
    shifts = own.fork("jitter").integers(7, (2, count)) - 3
    stacked = []
    for place, resolution in enumerate(stack.resolutions):
        views = []
        for number, image in enumerate(images):
            factor = float(colour[number, place])
            view = torchvision.transforms.functional.adjust_contrast(image, factor)
            by = (int(shifts[number, 0, place]), int(shifts[number, 1, place]))
            view = torch.roll(view, shifts=by, dims=(-2, -1))
            views.append(factor * view + view.mean(0, keepdim=True) * (1 - factor))
        small = F.interpolate(torch.stack(views), size=(resolution, resolution), mode="bicubic")
        small = small + 0.2 * own.fork("low noise").uniform(tuple(small.shape[1:]), draw=place)
        large = F.interpolate(small, size=(32, 32), mode="bicubic")
        large = large + 0.2 * own.fork("high noise").uniform(tuple(large.shape[1:]), draw=place)
        stacked.append(torch.clip(large, 0, 1))
    return torch.cat(stacked, dim=1)


# --- the stack ------------------------------------------------------------------------------------


def test_the_notebook_s_stack_is_what_its_loop_gives() -> None:
    stack, own = MultiResolutionStack.notebook(), streams(5)
    found = stack(coloured(), own)
    assert found.shape == (5, 12, 32, 32)
    torch.testing.assert_close(found, one_by_one(stack, coloured(), own), atol=2e-6, rtol=0)


def test_the_notebook_s_faults_are_told_apart() -> None:
    grey = torch.full((64, 3, 32, 32), 0.5)
    ours, theirs = MultiResolutionStack(), MultiResolutionStack.notebook()
    # Noise from 0 to 0.2, twice: 0.1 brighter each time.
    assert float(theirs(grey, streams(64)).mean()) == pytest.approx(0.7, abs=0.02)
    assert float(ours(grey, streams(64)).mean()) == pytest.approx(0.5, abs=0.02)
    # One draw for contrast and colour, so that contrast never rises.
    still = dataclasses.replace(theirs, jitter=0, low_noise=0, high_noise=0, resolutions=(32,))
    loud = dataclasses.replace(ours, jitter=0, low_noise=0, high_noise=0, resolutions=(32,))
    picture = 0.3 + 0.4 * coloured(64).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    spread = picture.std((1, 2, 3))
    assert bool((still(picture, streams(64)).std((1, 2, 3)) <= spread + 1e-5).all())
    assert bool((loud(picture, streams(64)).std((1, 2, 3)) > spread + 1e-3).any())


def test_an_image_s_versions_do_not_depend_on_its_neighbours() -> None:
    stack, images = MultiResolutionStack(), coloured(6)
    whole = stack(images, streams(6))
    part = stack(images[[4, 1]], streams(6).take([4, 1]))
    assert torch.equal(part, whole[[4, 1]])
    assert torch.equal(stack(images, streams(6)), whole)
    assert not torch.equal(stack(images, streams(6, seed=1)), whole)
    assert not torch.equal(stack(images, streams(6).on_lanes(1)), whole)


def test_what_nothing_changes_stays_and_low_resolutions_lose_detail() -> None:
    images = coloured(3, side=8)
    found = STILL(images)
    assert not STILL.random
    assert torch.equal(found[:, :3], images)
    small = F.interpolate(images, size=(4, 4), mode="bicubic")
    expected = F.interpolate(small, size=(8, 8), mode="bicubic").clamp(0, 1)
    assert torch.equal(found[:, 3:], expected)


def test_stacks_and_self_ensembles_stay_on_their_device(device: torch.device) -> None:
    images, own = digits(4).inputs(torch.arange(4)), streams(4)
    there = Streams(own.key, own.ids.to(device), own.lanes.to(device))
    found = STACK(images.to(device), there)
    assert found.device == images.to(device).device
    torch.testing.assert_close(found.cpu(), STACK(images, own))
    network = CNN(channels=1, width=4)
    ensemble = MultiResolution(stack=STACK).assembled(network.to(device), shape=SHAPE).eval()
    votes = ensemble.votes(images.to(device), streams=there)
    assert votes.device == found.device
    assert ensemble(images.to(device)).device == found.device


def test_gradients_reach_the_images() -> None:
    images = coloured(2, side=16).requires_grad_()
    stack = MultiResolutionStack(resolutions=(16, 8))
    (slope,) = torch.autograd.grad(stack(images, streams(2)).sum(), images)
    assert bool(slope.isfinite().all())
    assert bool((slope != 0).any((1, 2, 3)).all())


def test_images_that_are_grey_not_square_or_brought_to_another_side() -> None:
    grey = torch.rand(2, 1, 12, 8, generator=torch.Generator().manual_seed(0))
    stack = MultiResolutionStack(resolutions=(12, 6), jitter=2)
    assert stack(grey, streams(2)).shape == (2, 2, 12, 8)
    assert dataclasses.replace(stack, side=24)(grey, streams(2)).shape == (2, 2, 24, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolutions": ()}, "resolutions"),
        ({"resolutions": (8, 0)}, "at least 1 pixel"),
        ({"side": 0}, "side is 0"),
        ({"jitter": -1}, "jitter"),
        ({"levels": 1}, "0, 2 or more levels"),
        ({"contrast": (0.5,)}, "contrast"),
        ({"contrast": (2.0, 1.0)}, "contrast"),
        ({"colour": ()}, "colour"),
        ({"colour": (0.5, 1.5)}, "at most 1"),
        ({"low_noise": -0.1}, "0 or more"),
        ({"high_noise": float("nan")}, "0 or more"),
        ({"noise": "gaussian"}, "normal or uniform"),
    ],
)
def test_a_stack_that_means_nothing(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        MultiResolutionStack(**change)


def test_questions_that_a_stack_cannot_answer() -> None:
    with pytest.raises(BadInput, match="version of 32 px, and the images are 8 px high"):
        MultiResolutionStack()(coloured(2, side=8), streams(2))
    with pytest.raises(BadInput, match="give one stream per image"):
        STACK(coloured(2, side=8))
    with pytest.raises(ShapeMismatch, match="3 streams came for 2 images"):
        STACK(coloured(2, side=8), streams(3))
    with pytest.raises(ShapeMismatch, match="not \\(3, 8, 8\\)"):
        STACK(coloured(1, side=8)[0], streams(3))


# --- the network ----------------------------------------------------------------------------------


def test_a_spread_stem_says_of_equal_images_what_the_network_said() -> None:
    network = CNN(channels=3, width=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)).eval()
    wide = widened(network, 3, stem="spread", seed=0).eval()
    images = coloured(4, side=8)
    torch.testing.assert_close(wide(images.repeat(1, 3, 1, 1)), network(images))
    fresh = widened(network, 3, stem="fresh", seed=0).eval()
    assert not torch.allclose(fresh(images.repeat(1, 3, 1, 1)), network(images))
    assert network.get_submodule("conv1").get_parameter("weight").shape[1] == 3
    again = widened(network, 3, stem="fresh", seed=0)
    other = widened(network, 3, stem="fresh", seed=1)
    assert models.fingerprint(again) == models.fingerprint(fresh) != models.fingerprint(other)


def test_a_fresh_stem_is_torch_s_own() -> None:
    wide = widened(CNN(channels=1, width=8), 4, stem="fresh", seed=0)
    weight = wide.get_submodule("conv1").get_parameter("weight")
    assert weight.shape == (8, 4, 3, 3)
    assert float(weight.detach().abs().max()) <= 1 / 36**0.5


def test_networks_that_cannot_see_stacks() -> None:
    with pytest.raises(BadInput, match="no network with a convolution inside"):
        widened(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), 2, stem="fresh", seed=0)
    with pytest.raises(BadInput, match="works in 2 groups"):
        widened(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)), 2, stem="fresh", seed=0)


def test_torchvision_s_networks_get_heads_too() -> None:
    network = Normalized(
        Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        torchvision.models.squeezenet1_1(weights=None, num_classes=7),
    )
    made = MultiResolution(
        stack=MultiResolutionStack(resolutions=(16, 8)),
        layers=("model.features.5", "model.features.12"),
        upsample=48,
    ).assembled(network, shape=(3, 16, 16))
    assert made.eval()(coloured(2, side=16)).shape == (2, 7)
    assert made.votes(coloured(2, side=16), streams=streams(2)).shape == (2, 3, 7)


@pytest.mark.parametrize("spec", ["torchvision:resnet18@none", "timm:resnet10t@none", "wrn-16-1"])
def test_networks_of_all_kinds_get_heads_where_nobody_names_layers(spec: str) -> None:
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    network = models.load(spec, classes=6, channels=3)
    stack = MultiResolutionStack(resolutions=(16, 8))
    ensemble = MultiResolution(stack=stack, upsample=32).assembled(network, shape=(3, 16, 16))
    assert 2 <= len(ensemble.layers) <= 4
    assert ensemble.eval()(coloured(2, side=16)).shape == (2, 6)


def made(**changes: Any) -> SelfEnsemble:  # noqa: ANN401
    """An untrained self-ensemble of digits."""
    options: dict[str, Any] = {"stack": STACK, **changes}
    return MultiResolution(**options).assembled(CNN(channels=1, width=4), shape=SHAPE).eval()


def test_heads_read_what_the_network_computes_on_the_way() -> None:
    ensemble = made(stack=STILL, layers=("activation3", "pool"), aggregation=MeanLogits())
    images = digits(3).inputs(torch.arange(3))
    logits, caught = passed(ensemble.trunk.network, ensemble.layers, STILL(images))
    assert [tuple(one.shape) for one in caught] == [(3, 8, 4, 4), (3, 8, 1, 1)]
    heads = [head(one) for head, one in zip(ensemble.heads, caught, strict=True)]
    expected = torch.stack([*heads, logits], dim=1)
    assert not ensemble.stochastic
    assert torch.equal(ensemble.votes(images), expected)
    assert torch.equal(ensemble(images), expected.mean(1))
    # No hook is left behind.
    assert all(not module._forward_hooks for module in ensemble.modules())


def test_layers_are_found_where_maps_change_shape() -> None:
    assert made().layers == ("activation2", "activation3", "activation4", "pool")
    resnet = models.load("resnet-8", channels=1)
    found = MultiResolution(stack=STACK).assembled(resnet, shape=SHAPE)
    assert found.layers[-1] == "pool"
    assert "layer2" in str(found.layers)


def test_flattened_heads_take_more_weights() -> None:
    sizes = [
        sum(p.numel() for p in made(pooled=pooled).heads.parameters()) for pooled in (True, False)
    ]
    assert sizes[1] > 4 * sizes[0]


def test_the_second_pass_has_draws_of_its_own() -> None:
    images, own = digits(4).inputs(torch.arange(4)), streams(4)
    twice, once = made(), made(second_pass=False)
    assert torch.equal(
        twice.votes(images, streams=own)[:, :-1], once.votes(images, streams=own)[:, :-1]
    )
    assert not torch.equal(
        twice.votes(images, streams=own)[:, -1], once.votes(images, streams=own)[:, -1]
    )


def test_stand_ins_are_the_same_members_on_the_same_draws() -> None:
    ensemble, images, own = made(), digits(4).inputs(torch.arange(4)), streams(4)
    named: dict[str, Any] = dict(ensemble.surrogates())
    heads = [f"head-{layer}" for layer in ensemble.layers]
    assert list(named) == ["mean", "median", *heads, "backbone"]
    assert all(one.stochastic for one in named.values())
    votes = ensemble.votes(images, streams=own)
    assert torch.equal(named["mean"].answer(images, streams=own).logits, votes.mean(1))
    assert torch.equal(named["backbone"].answer(images, streams=own).logits, votes[:, -1])
    assert torch.equal(named[heads[1]].answer(images, streams=own).logits, votes[:, 1])
    assert made(aggregation=MeanLogits()).surrogates() == {}


def test_without_streams_a_question_is_refused_or_always_drawn_alike() -> None:
    ensemble, images = made(), digits(4).inputs(torch.arange(4))
    with pytest.raises(BadInput, match="give one stream per image"):
        ensemble.answer(images)
    assert torch.equal(ensemble(images), ensemble(images))


def test_the_network_stays_in_eval_mode() -> None:
    ensemble = made().train()
    assert ensemble.heads[0].training
    assert not any(module.training for module in ensemble.trunk.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("nowhere",)}, "no layer 'nowhere'"),
        ({"layers": ("pool", "pool")}, "named twice"),
        ({"stack": MultiResolutionStack()}, "images are 8 px high"),
        ({"aggregation": CrossMax(rank=6)}, "give 2 to 5"),
        ({"head_epochs": 0}, "at least 1"),
        ({"stem": "old"}, "fresh or spread"),
        ({"upsample": 0}, "0 px high"),
    ],
)
def test_self_ensembles_that_mean_nothing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        made(**changes)


# --- training, saving, judging --------------------------------------------------------------------


@functools.cache
def learnt(n: int = 600) -> SelfEnsemble:
    """A self-ensemble of digits, trained; do not change it."""
    train = data.load("digits", split="train", n=n)
    defense = MultiResolution(stack=STACK, layers=("activation3", "pool"), head_epochs=3)
    network = CNN(channels=1, width=8)
    before = models.fingerprint(network)
    trainer = Trainer(
        epochs=6, batch_size=50, optimizer=AdamW(lr=0.02, weight_decay=0.0), schedule=OneCycle()
    )
    ensemble = defense.protect(
        [network], train, threat(), trainer=trainer, streams=Streams.of(seed=0, ids=train.ids)
    )
    assert models.fingerprint(network) == before
    assert not ensemble.training
    return ensemble


def test_network_and_heads_learn() -> None:
    votes = learnt().votes(digits(100).inputs(torch.arange(100)), streams=streams(100))
    right = (votes.argmax(2) == digits(100).labels[:, None]).float().mean(0)
    assert bool((right > 0.4).all()), right


def test_a_saved_self_ensemble_comes_back_bit_for_bit(tmp_path: Path) -> None:
    rule = CrossMax(rank=2, break_ties=False)
    defense = MultiResolution(stack=STACK, layers=("conv2", "pool"), aggregation=rule, pooled=False)
    saved = defense.assembled(models.load("cnn", channels=1), shape=SHAPE, seed=3).eval()
    backbone = models.recipe("cnn", {"classes": 10, "channels": 1})
    arguments = defense.arguments(backbone, saved, shape=SHAPE)
    models.save(saved, tmp_path, spec="defenses:multi-resolution", arguments=arguments)
    back = models.load(str(tmp_path))
    images, own = digits(20).inputs(torch.arange(20)), streams(20)
    assert isinstance(back, SelfEnsemble)
    assert torch.equal(back.votes(images, streams=own), saved.votes(images, streams=own))
    assert torch.equal(back(images), saved(images))
    assert (back.aggregation, back.layers) == (rule, saved.layers)
    assert back.stochastic
    made: dict[str, Any] = {"kind": "defenses", "entry": "multi-resolution", "arguments": arguments}
    wrong: dict[str, Any] = {"rule": {"entry": "rift", "options": {}}, "shape": [8, 8], "own": 3}
    for key, value in wrong.items():
        with pytest.raises(BadInput):
            models.rebuild({**made, "arguments": {**arguments, key: value}})


def test_the_heads_learn_while_the_network_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    fit = Trainer.fit

    def watched(self: Trainer, model: nn.Module, *rest: Any, **named: Any) -> Any:  # noqa: ANN401
        trunk = getattr(getattr(model, "ensemble", None), "trunk", model)
        before = models.fingerprint(trunk)
        result = fit(self, model, *rest, **named)
        seen.append((before, models.fingerprint(trunk)))
        return result

    monkeypatch.setattr(Trainer, "fit", watched)
    learnt(n=100)
    (first, after_network), (before_heads, after_heads) = seen
    assert first != after_network == before_heads == after_heads


def test_light_training_attacks_every_batch_within_the_set() -> None:
    light = PGDTraining(threat=threat(), steps=1, step_size=1.0, start="clean")
    images = digits(10)
    ensemble = made(second_pass=False)
    batch = Batch(
        inputs=images.inputs(torch.arange(10)),
        labels=images.labels,
        ids=images.ids,
        epoch=0,
        step=0,
        streams=streams(10),
    )
    seen: list[Tensor] = []
    ensemble.trunk.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    clean = OnDraws()(ensemble.trunk, batch)
    attacked = OnDraws(light=light)(ensemble.trunk, batch)
    assert attacked > clean
    moved = (seen[-1] - batch.inputs).abs().amax()
    assert 0 < float(moved) <= 0.2 + 1e-6


def test_an_evaluation_looks_through_heads_and_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (adaptive, draws):
        monkeypatch.setattr(module, "RUNGS", (2, 3, 4))
    report = evaluate(
        learnt(), digits(8), threat(), attacks=[PGD(steps=3, loss="margin")], batch_size=8
    )
    ids = {flag.id for flag in report.flags}
    assert "F1" in ids
    assert {row.through for row in report.attacks} >= {
        "direct",
        "eot",
        "bpda",
        "warm",
        "surrogate:mean",
        "surrogate:head-pool",
        "surrogate:backbone",
    }
    assert report.draws is not None
    assert report.environment is not None
    assert report.violations == 0


def test_published_training_is_the_authors() -> None:
    trainer = MultiResolution.published()
    assert (trainer.epochs, trainer.batch_size) == (6, 128)
    assert trainer.optimizer.lr == 3.3e-5
    assert not isinstance(trainer.optimizer, SGD)
