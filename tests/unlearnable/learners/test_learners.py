"""Every registered learner trains; words make them; bad ones are told."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustkit import models, registry
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, UnknownName
from robustkit.models import CNN
from robustkit.threat_models import LpBall
from robustkit.training import SGD, Crop, Runtime, Trainer
from robustkit.training.losses import PGDTraining
from robustkit.unlearnable.learners import (
    BATTERY,
    Grayscale,
    L2Training,
    Learner,
    Lesson,
    LinfTraining,
    OrthogonalProjection,
    PretrainedFeatures,
    build,
)
from robustkit.unlearnable.learners.projection import linear_directions
from tests.training.tiny import differences, state


def coloured(n: int = 24, side: int = 12) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, side, side), generator=generator, dtype=torch.uint8)
    return LabelledImages.from_tensors(images, torch.arange(n) % 4, spec="coloured", split="train")


def lesson(data: LabelledImages, network: nn.Module) -> Lesson:
    return Lesson(
        data=data,
        originals=data,
        network=lambda: network,
        trainer=Trainer(
            epochs=1, batch_size=12, optimizer=SGD(lr=0.1), runtime=Runtime(device="cpu")
        ),
    )


def trained(learner: Learner, given: Lesson) -> nn.Module:
    network = learner.network(given)
    loss, parameters = learner.loss(), learner.parameters(network)
    result = learner.trainer(given).fit(network, given.data, loss, parameters=parameters)
    assert result.stopped_by == "epochs"
    return network


@pytest.mark.parametrize("name", [n for n in registry.entries("learners") if "features" not in n])
def test_every_learner_trains(name: str) -> None:
    network = CNN(classes=4, channels=3, width=4)
    before = state(network)
    learner = build(name)
    data = coloured()
    assert learner.why_not(data) is None
    assert trained(learner, lesson(data, network)) is network
    assert list(differences(before, state(network)))


def test_every_learner_names_where_it_comes_from() -> None:
    for name, entry in registry.entries("learners").items():
        text = "".join(kind.__doc__ or "" for kind in entry.load().__mro__)
        assert "Reference:" in text or name in ("erm", "crop-flip", "key-leak")


def test_the_battery_holds_every_learner() -> None:
    assert {name.partition(":")[0] for name in BATTERY} == set(registry.entries("learners"))
    assert len({repr(build(name)) for name in BATTERY}) == len(BATTERY)
    assert BATTERY[0] == "erm"


def test_words_set_the_main_hyper_parameter() -> None:
    assert build("adversarial-linf:4/255") == LinfTraining(eps=4 / 255)
    assert build("adversarial-l2") == L2Training(eps=0.5)
    assert build("jpeg:50").quality == 50  # type: ignore[attr-defined]
    assert build("rsk-ff:1/2").share == 0.5  # type: ignore[attr-defined]
    assert build("key-leak:9").side == 9  # type: ignore[attr-defined]
    assert build("pretrained-features:some/folder").model == "some/folder"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("erm:3", "Write erm"),
        ("jpeg:", "Write jpeg:QUALITY"),
        ("jpeg:0", "lies between 1 and 100"),
        ("jpeg:low", "must be a whole number"),
        ("adversarial-linf:8/0", "a number or a fraction"),
        ("adversarial-l2:0", "radius above 0"),
        ("coin:0", "give a number above 0"),
        ("rsk-ff:0", "lies in"),
        ("key-leak:4", "no middle"),
    ],
)
def test_bad_words_are_told(words: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        build(words)


def test_unknown_learners_offer_near_ones() -> None:
    with pytest.raises(UnknownName, match="No learner is called 'kone'"):
        build("kone")


@pytest.mark.parametrize(("learner", "norm"), [(LinfTraining(), "linf"), (L2Training(), "l2")])
def test_adversarial_training_attacks_as_published(learner: LinfTraining, norm: str) -> None:
    loss = learner.loss()
    assert isinstance(loss, PGDTraining)
    assert loss.threat.allowed == LpBall(norm=norm, radius=learner.eps)  # type: ignore[arg-type]
    assert (loss.steps, loss.step_size) == (10, 0.15)


def test_crops_grow_with_the_images() -> None:
    for side, padding in ((8, 1), (28, 4), (32, 4), (224, 28)):
        crop, _ = build("crop-flip").augmentation(lesson(coloured(4, side), nn.Identity()))
        assert crop == Crop(padding=padding)


def test_grey_images_have_no_colours_to_lose() -> None:
    grey = LabelledImages.from_tensors(torch.rand(4, 1, 6, 6), torch.arange(4))
    reason = Grayscale().why_not(grey)
    assert reason is not None
    assert "1 channel" in reason


class TestProjection:
    def test_takes_out_what_a_linear_model_reads(self) -> None:
        """Noise, and in it one pattern per class: nothing else tells the classes apart."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(200) % 4
        patterns = torch.randn(4, 1, 8, 8, generator=generator)
        noise = torch.randn(200, 1, 8, 8, generator=generator)
        images = (0.5 + 0.1 * noise + 0.1 * patterns[labels]).clamp(0, 1)
        data = LabelledImages.from_tensors(images, labels, spec="patterned", split="train")
        directions = linear_directions(lesson(data, nn.Identity()))
        assert torch.allclose(directions @ directions.T, torch.eye(4), atol=1e-5)
        centred = (patterns - patterns.mean(0)).flatten(1)
        left = centred - (centred @ directions.T) @ directions
        assert float(left.norm() / centred.norm()) < 0.6

    def test_a_linear_model_that_learnt_nothing_is_no_disaster(self) -> None:
        data = LabelledImages.from_tensors(torch.zeros(8, 1, 4, 4), torch.arange(8) % 2)
        project, *_ = OrthogonalProjection().augmentation(lesson(data, nn.Identity()))
        found, _ = project(torch.rand(2, 1, 4, 4), torch.arange(2), classes=2, streams=None)  # type: ignore[arg-type]
        assert bool(found.isfinite().all())


class TestPretrainedFeatures:
    def test_only_the_last_layer_learns(self, tmp_path: Path) -> None:
        made = {"classes": 7, "channels": 3}
        models.save(
            models.rebuild(models.recipe("cnn", made)), tmp_path, spec="cnn", arguments=made
        )
        learner = PretrainedFeatures(model=str(tmp_path))
        before = state(models.load(str(tmp_path)))
        network = trained(learner, lesson(coloured(), nn.Identity()))
        after = state(network)
        assert after["linear.weight"].shape == (4, 64)
        kept = {name: value for name, value in after.items() if not name.startswith("linear")}
        assert all(torch.equal(value, before[name]) for name, value in kept.items())

    def test_needs_a_trained_model(self) -> None:
        assert "DIR" in (PretrainedFeatures().why_not(coloured()) or "")
        with pytest.raises(BadInput, match="architecture without weights"):
            build("pretrained-features:cnn").network(lesson(coloured(), nn.Identity()))

    def test_needs_a_linear_layer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(models, "needs_weights", lambda spec: False)
        monkeypatch.setattr(models, "load", lambda spec: nn.Sequential(nn.Flatten()))
        with pytest.raises(BadInput, match="no linear layer"):
            PretrainedFeatures(model="x").network(lesson(coloured(), nn.Identity()))
