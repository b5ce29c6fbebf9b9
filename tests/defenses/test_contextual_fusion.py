"""Fused features: what is learnt and what is not, prices, stand-ins, saving, bad input."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import data, evaluate, models
from robustkit.attacks import PGD
from robustkit.defenses import ContextualFusion, Fused
from robustkit.defenses.contextual_fusion import Branch, Features
from robustkit.errors import BadInput, CorruptFile, ShapeMismatch
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.threat_models import NO_NUMBER
from robustkit.training import SGD, AdamW, Hide, OneCycle, Trainer
from tests.defenses.members import trained
from tests.defenses.test_ensembles import Cautious
from tests.evaluation.victims import digits, network, threat


def images(n: int = 8) -> Tensor:
    return digits(n).inputs(torch.arange(n))


@functools.cache
def parts() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Networks of which one has seen no centres, and the other nothing else."""
    found = []
    for part in ("centre", "surround"):
        model = network(seed=len(part))
        Trainer(
            epochs=4,
            batch_size=64,
            optimizer=SGD(lr=0.1),
            schedule=OneCycle(),
            augmentation=[Hide(part=part)],
        ).fit(model, data.load("digits", split="train"))
        found.append(model.state_dict())
    return found[0], found[1]


def branches() -> list[nn.Module]:
    made: list[nn.Module] = []
    for state in parts():
        model = network()
        model.load_state_dict(state)
        made.append(model.eval())
    return made


def learning(**changes: Any) -> Trainer:  # noqa: ANN401
    options: dict[str, Any] = {"epochs": 4, "batch_size": 64, **changes}
    return Trainer(optimizer=AdamW(lr=3e-2, weight_decay=0.0), schedule=OneCycle(), **options)


def protect(models: list[nn.Module], train: Any = None, **options: Any) -> Fused:  # noqa: ANN401
    train = train or data.load("digits", split="train", n=600)
    own = Streams.of(seed=0, ids=train.ids)
    return ContextualFusion(**options).protect(
        models, train, threat(), trainer=learning(), streams=own
    )


@functools.cache
def learnt() -> Fused:
    """A fused model of digits; do not change it."""
    return protect(branches())


def accuracy(model: nn.Module, n: int = 300) -> float:
    return float((model(images(n)).argmax(1) == digits(n).labels).float().mean())


def test_features_are_what_the_last_linear_layer_reads() -> None:
    model = trained(0)
    features = Features(model)(images())
    assert features.shape == (8, 16)
    linear = model.get_submodule("linear")
    assert torch.equal(linear(features), model(images()))
    assert not linear._forward_pre_hooks


def test_the_fused_head_knows_more_than_either_branch() -> None:
    fused = learnt()
    assert not fused.training
    assert not fused.stochastic
    alone = [accuracy(branch) for branch in fused.surrogates().values()]
    assert min(alone) > 0.3
    assert accuracy(fused) > max(alone) + 0.02
    assert torch.equal(fused(images()), fused.answer(images()).logits)
    assert torch.equal(fused(images()), fused(images()))


def test_it_is_one_linear_head_on_features_side_by_side() -> None:
    fused = learnt()
    context, object_ = branches()
    read = torch.cat([Features(context)(images()), Features(object_)(images())], dim=1)
    means = torch.cat([norm.running_mean for norm in fused.norms])  # type: ignore[misc]
    spread = torch.cat([norm.running_var for norm in fused.norms])  # type: ignore[misc]
    normal = (read - means) / (spread + 1e-5).sqrt()
    expected = normal @ fused.fusion.weight.T + fused.fusion.bias
    torch.testing.assert_close(fused(images()), expected)
    own = [branch(images()) for branch in fused.surrogates().values()]
    torch.testing.assert_close(fused.every_head(images()), torch.stack([fused(images()), *own], 1))


def test_extractors_stand_still_while_the_heads_learn() -> None:
    given = branches()
    before = [models.fingerprint(one) for one in given]
    fused = protect(given)
    assert [models.fingerprint(one) for one in given] == before
    assert not any(module.training for module in fused.train().branches.modules())
    assert fused.norms[0].training
    new = Fused(given, classes=10, shape=(1, 8, 8))
    assert not torch.equal(new.fusion.weight, fused.fusion.weight)
    assert all(one.requires_grad for one in given[0].parameters())


def test_a_price_moves_the_decision_to_the_other_branch() -> None:
    """The published use: of a known adversary's branch, the weights are made small."""

    def lengths(*penalties: float) -> list[float]:
        fused = protect(branches(), penalties=penalties)
        return [
            float(part.norm())
            for part in torch.split(fused.fusion.weight.detach(), fused.sizes, dim=1)
        ]

    free, priced, both = lengths(0, 0), lengths(0, 0.1), lengths(0.1, 0.1)
    assert priced[1] < 0.5 * free[1]
    assert priced[0] > 0.8 * free[0]
    assert both[0] < 0.5 * free[0]


def test_what_weights_cost() -> None:
    fused = Fused(branches(), classes=10, shape=(1, 8, 8))
    left, right = torch.split(fused.fusion.weight, fused.sizes, dim=1)
    own = [head.get_parameter("weight") for head in fused.alone]
    expected = 2 * (left**2).sum() + 2 * (own[0] ** 2).sum()
    expected = expected + 3 * (right**2).sum() + 3 * (own[1] ** 2).sum()
    torch.testing.assert_close(fused.price((2, 3)), expected)


def test_nothing_hides_a_gradient() -> None:
    given = images().requires_grad_()
    fused = learnt()
    for model in (fused, *fused.surrogates().values()):
        (slope,) = torch.autograd.grad(model(given).logsumexp(1).sum(), given)
        assert bool((slope != 0).flatten(1).any(1).all())


def test_an_evaluation_attacks_the_branches_and_finds_no_mask() -> None:
    report = evaluate(
        learnt(), digits(40), threat(), attacks=[PGD(steps=10, loss="margin")], batch_size=40
    )
    assert {row.through for row in report.attacks} == {
        "direct",
        "bpda",
        "warm",
        "surrogate:context",
        "surrogate:object",
    }
    assert not {"F2", "F3", "F5"} & {flag.id for flag in report.flags}
    assert report.accuracies.surrogate is not None
    # Whoever attacks one branch alone takes it for more robust than it is.
    assert report.accuracies.direct.value <= report.accuracies.surrogate.value
    assert report.violations == 0


def test_members_may_know_other_classes() -> None:
    fused = protect([network(classes=3, seed=1), trained(0)])
    assert fused(images()).shape == (8, 10)
    assert accuracy(fused) > 0.6


def test_members_that_cannot_be_fused() -> None:
    first, second = trained(0), trained(1)
    with pytest.raises(BadInput, match="two members, context and object; 1 were given"):
        protect([first])
    with pytest.raises(BadInput, match="3 were given"):
        protect([first, second, trained(2)])
    with pytest.raises(BadInput, match="Members 1 and 2 have the same weights"):
        protect([first, trained(0)])
    for odd in (nn.Sequential(nn.Flatten()), Cautious()):
        with pytest.raises(BadInput, match="end with a linear layer"):
            protect([first, odd])
    with torch.no_grad():
        second.get_submodule("linear").get_parameter("bias")[4] = torch.nan
    with pytest.raises(BadInput, match="Member 2 answers NaN"):
        protect([first, second])
    with pytest.raises(BadInput, match="Member 2 cannot take images of 1 x 8 x 8"):
        protect([first, CNN(channels=3, width=8)])
    colour = data.LabelledImages.from_tensors(torch.rand(8, 3, 8, 8), digits(8).labels)
    with pytest.raises(BadInput, match="Member 1 cannot take images of 3 x 8 x 8"):
        protect([first, trained(2)], colour)
    for penalties in ((0.1,), (0.1, -0.1), (0.1, float("nan"))):
        with pytest.raises(BadInput, match="two numbers from 0"):
            ContextualFusion(penalties=penalties)


def test_images_of_another_size_than_those_of_training() -> None:
    flat = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
    fused = Fused([flat, trained(0)], classes=10, shape=(1, 8, 8)).eval()
    assert fused(images()).shape == (8, 10)
    with pytest.raises((ShapeMismatch, RuntimeError)):
        fused(torch.zeros(2, 1, 12, 12))
    wide = nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(16), nn.Flatten(), nn.Linear(16, 10))
    assert Fused([wide, trained(0)], classes=10, shape=(1, 8, 8)).eval()(
        torch.zeros(2, 1, 12, 12)
    ).shape == (2, 10)


def test_an_answer_of_nan_names_no_class() -> None:
    given = branches()
    fused = Fused(given, classes=10, shape=(1, 8, 8)).eval()
    with torch.no_grad():
        given[0].get_submodule("conv1").get_parameter("weight")[0] = torch.nan
    assert fused.answer(images(3)).labels.tolist() == [NO_NUMBER] * 3


def test_a_saved_fusion_comes_back_bit_for_bit(tmp_path: Path) -> None:
    members = [models.load("cnn", channels=1, classes=7), models.load("resnet-8", channels=1)]
    saved = Fused(members, classes=10, shape=(1, 8, 8), seed=3)
    saved.train()
    saved.every_head(images(40))
    saved.eval()
    recipes = [
        models.recipe("cnn", {"classes": 7, "channels": 1}),
        models.recipe("resnet-8", {"classes": 10, "channels": 1}),
    ]
    defense = ContextualFusion(penalties=(0.0, 0.5))
    arguments = defense.arguments(recipes, classes=10, shape=(1, 8, 8))
    models.save(saved, tmp_path, spec="defenses:contextual-fusion", arguments=arguments)
    back = models.load(str(tmp_path))
    assert isinstance(back, Fused)
    assert torch.equal(back(images(20)), saved(images(20)))
    for one, other in zip(back.surrogates().values(), saved.surrogates().values(), strict=True):
        assert isinstance(one, Branch)
        assert torch.equal(one(images(20)), other(images(20)))
    made: dict[str, Any] = {"kind": "defenses", "entry": "contextual-fusion"}
    code = {"kind": "code", "entry": "os:system", "arguments": {}}
    wrong: dict[str, Any] = {
        "members": [recipes[0], code],
        "options": {"penalties": [1]},
        "shape": [8, 8],
        "classes": "x",
    }
    for key, value in wrong.items():
        with pytest.raises((BadInput, CorruptFile)):
            models.rebuild({**made, "arguments": {**arguments, key: value}})


def test_a_head_learns_on_its_device(device: torch.device) -> None:
    fused = Fused([one.to(device) for one in branches()], classes=10, shape=(1, 8, 8)).eval()
    assert fused(images().to(device)).device == images().to(device).device
