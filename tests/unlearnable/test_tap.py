"""TAP: the model that made the images sees the next class in them."""

import pytest

from robustkit import data as sources
from robustkit.errors import BadInput
from robustkit.threat_models import LpBall
from robustkit.training import SGD
from robustkit.unlearnable import TAP
from tests.unlearnable.small import (
    NARROW,
    SMALL,
    Watched,
    accuracy,
    images,
    quick,
    streams,
    threat,
)

FAR = threat("linf", perturbation=LpBall(norm="linf", radius=0.35))


def test_images_show_the_model_the_next_class() -> None:
    data = sources.load("digits", split="train", n=300)
    trainer = Watched(epochs=6, batch_size=32, optimizer=SGD(lr=0.1), seed=1)
    attack = TAP(architecture=NARROW, steps=20, step_size=0.1, augmentation=())
    found = attack.run(data, FAR, trainer=trainer, streams=streams(data))
    model, published = trainer.__dict__["model"], found.data.inputs(slice(None))
    assert accuracy(model, data.inputs(slice(None)), data.labels) > 0.95
    assert accuracy(model, published, (data.labels + 1) % 10) > 0.9
    assert accuracy(model, published, data.labels) < 0.1


def test_one_class_has_no_next() -> None:
    data = images(6, classes=1)
    with pytest.raises(BadInput, match="data of 2 or more"):
        TAP(architecture=SMALL).run(data, FAR, trainer=quick(), streams=streams(data))


def test_values_that_mean_nothing_are_refused() -> None:
    for options in ({"steps": 0}, {"step_size": 0.0}):
        with pytest.raises(BadInput, match="TAP takes"):
            TAP(**options)
