"""REM: what it publishes leaves an adversarial training less to learn than other noise does."""

import pytest
import torch
from torch.nn import functional as F

from robustkit import data as sources
from robustkit.errors import BadInput
from robustkit.threat_models import LpBall
from robustkit.training import SGD
from robustkit.training.batch import Batch
from robustkit.training.losses import held
from robustkit.training.losses.inner import maximise
from robustkit.unlearnable import REM, UniformNoise
from robustkit.unlearnable.rem import RobustErrorMinimisation
from robustkit.unlearnable.surrogates import towards, views
from tests.unlearnable.small import NARROW, Small, Watched, images, quick, streams, threat

WIDE = threat("linf", perturbation=LpBall(norm="linf", radius=0.2))
ATTACK = REM(
    architecture=NARROW,
    steps=4,
    step_size=0.5,
    adversary_steps=2,
    adversary_step_size=0.7,
    draws=1,
    augmentation=(),
)


def test_an_adversary_finds_less_under_this_noise_than_under_any() -> None:
    data = sources.load("digits", split="train", n=200)
    trainer = Watched(epochs=6, batch_size=32, optimizer=SGD(lr=0.1), seed=1)
    found = ATTACK.run(data, WIDE, trainer=trainer, streams=streams(data))
    random = UniformNoise().run(data, WIDE, trainer=quick(), streams=streams(data))
    model = trainer.__dict__["model"]
    # An adversary that knows nothing of how the noise was made.
    ball = LpBall(norm="linf", radius=0.1)

    def left(inputs: torch.Tensor) -> float:
        with held(model):
            worst = maximise(
                model,
                inputs,
                lambda logits: F.cross_entropy(logits, data.labels, reduction="none"),
                ball,
                steps=10,
                step_size=0.25,
                start="uniform",
                streams=streams(data, seed=9),
            )
            with torch.no_grad():
                return float(F.cross_entropy(model(worst), data.labels))

    clean, under, other = (left(one.inputs(slice(None))) for one in (data, found.data, random.data))
    assert under < 0.5 * clean
    assert under < 0.5 * other


def test_noise_is_inside_the_set_and_does_not_touch_the_model() -> None:
    data = images(8)
    model = Small(classes=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = RobustErrorMinimisation(attack=REM(steps=2, adversary_steps=2), threat=WIDE)
    batch = Batch(
        inputs=data.inputs(slice(None)),
        labels=data.labels,
        ids=data.ids,
        epoch=0,
        step=0,
        streams=streams(data),
    )
    with held(model):
        covered = loss.covered(model, batch.inputs, batch.labels, batch.streams)
    assert bool(WIDE.allowed.contains(batch.inputs, covered).all())
    value = loss(model, batch)
    value.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "adversarial_accuracy" in batch.notes


def test_the_adversary_has_its_share_of_the_radius() -> None:
    loss = RobustErrorMinimisation(attack=REM(adversary=0.25), threat=WIDE)
    assert loss.adversary.threat.allowed.radius == pytest.approx(0.05)


def test_views_are_drawn_apart_and_can_be_differentiated() -> None:
    data = images(5, shape=(1, 12, 12))
    inputs = data.inputs(slice(None)).requires_grad_()
    seen = views(REM().augmentation, inputs, streams(data), draws=3)
    assert seen.shape == (15, 1, 12, 12)
    assert not torch.equal(seen[:5], seen[5:10])
    alone = views(REM().augmentation, inputs[1:2], streams(data).take([1]), draws=3)
    assert torch.equal(alone, seen[[1, 6, 11]])
    (gradient,) = torch.autograd.grad(towards(data.labels.repeat(3))(seen.flatten(1)).sum(), inputs)
    assert bool((gradient != 0).any())


def test_values_that_mean_nothing_are_refused() -> None:
    for options in ({"steps": 0}, {"draws": 0}, {"step_size": 0.0}, {"adversary": -1.0}):
        with pytest.raises(BadInput, match="REM takes"):
            REM(**options)
