"""The audit of a small published set: plain training fails on it, another learner does not."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import nn

from robustkit import threat_models
from robustkit.data import LabelledImages, load
from robustkit.errors import BadInput
from robustkit.evaluation import Origin, evaluate_unlearnable
from robustkit.evaluation.unlearnable import TRAINER, battery
from robustkit.evaluation.unlearnable_material import aligned
from robustkit.models import CNN
from robustkit.randomness import Streams
from robustkit.report import Report, UnlearnableReport, schema
from robustkit.threat_models import Convolutions
from robustkit.training import Runtime, Trainer
from robustkit.unlearnable import ConvolutionUnlearnable, Key
from robustkit.unlearnable.learners import BATTERY as BATTERY_OF_ALL
from robustkit.unlearnable.learners import KeyLeak, Learner, build

# Plain training learns the filters; whoever knows one original per class undoes them.
BATTERY = ("erm", "key-leak")
QUICK = dataclasses.replace(TRAINER, epochs=4, runtime=Runtime(device="cpu"))
Sets = tuple[LabelledImages, LabelledImages, LabelledImages]


def network(seed: int) -> nn.Module:
    return CNN(classes=10, channels=1, width=8, seed=seed)


def publish(images: LabelledImages) -> LabelledImages:
    method = ConvolutionUnlearnable(key=Key(bytes(range(32))))
    streams = Streams.of(seed=0, ids=images.ids)
    threat = threat_models.load("unlearnable")
    return method.run(images, threat, trainer=Trainer(), streams=streams).data


@pytest.fixture(scope="module")
def sets() -> Sets:
    clean = load("digits", split="train")
    return publish(clean), clean, load("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "out"


@pytest.fixture(scope="module")
def report(sets: Sets, folder: Path) -> UnlearnableReport:
    """One audit for all that look at it."""
    return evaluate_unlearnable(
        *sets,
        model=network,
        learners=BATTERY,
        origin=Origin(method="cuda", options={"p_b": 0.3}, publish=publish),
        trainer=QUICK,
        shares=(0.8,),
        out=folder,
    )


def small(*, classes: int = 4, n: int = 24, **changes: torch.Tensor) -> LabelledImages:
    """Random images that cost nothing."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    given = {"inputs": images, "labels": torch.arange(n) % classes, **changes}
    names = [str(number) for number in range(classes)]
    return LabelledImages.from_tensors(
        given["inputs"], given["labels"], spec="small", class_names=names
    )


class TestVerdict:
    def test_is_that_of_the_learner_that_undoes_the_change(self, report: UnlearnableReport) -> None:
        rows = {row.name: row for row in report.learners}
        assert list(rows) == list(BATTERY)
        assert rows["erm"].last.value < 0.6
        assert rows["erm"].reference.value > 0.8
        assert rows["key-leak"].last.value > rows["erm"].last.value + 0.15
        assert report.best.learner == "key-leak"
        assert report.verdict.metric == "best_learner_accuracy"
        assert report.verdict.worse == "higher"
        assert report.verdict.value == rows["key-leak"].best.value
        assert report.verdict.value > rows["erm"].best.value + 0.1

    def test_is_about_images_that_took_no_part_in_the_choice(
        self, report: UnlearnableReport
    ) -> None:
        assert (report.data.n, report.best.n, report.verdict.n) == (360, 180, 180)
        right = round(report.verdict.value * 180)
        assert report.verdict.value == right / 180
        # The figure by which it was chosen is another one, and no verdict.
        assert report.best.chosen != report.verdict.value

    def test_stands_beside_the_same_learner_on_the_originals(
        self, report: UnlearnableReport
    ) -> None:
        lost = report.best.reference.value - report.verdict.value
        assert report.best.lost.value == pytest.approx(lost)
        assert report.best.lost.low > 0

    def test_what_is_recovered_is_a_share_above_chance(self, report: UnlearnableReport) -> None:
        for row in report.learners:
            assert row.recovered is not None
            share = (row.last.value - 0.1) / (row.reference.value - 0.1)
            assert row.recovered.value == pytest.approx(share)
            assert row.recovered.low < share < row.recovered.high


class TestControls:
    def test_plain_training_learns_the_filters(self, report: UnlearnableReport) -> None:
        (erm,) = (row for row in report.learners if row.name == "erm")
        assert erm.same_key is not None
        assert erm.permuted_key is not None
        assert erm.same_key.low > erm.last.high
        assert erm.same_key.low > erm.permuted_key.high

    def test_one_filter_for_all_costs_less_than_one_for_each(
        self, report: UnlearnableReport
    ) -> None:
        values = {control.name: control.value for control in report.controls}
        (erm,) = (row for row in report.learners if row.name == "erm")
        universal = values["one change for all classes"]
        assert universal is not None
        assert erm.last.value + 0.1 < universal
        assert universal < erm.reference.value

    def test_a_fifth_of_clean_images_ends_the_protection(self, report: UnlearnableReport) -> None:
        (part,) = report.partial
        (erm,) = (row for row in report.learners if row.name == "erm")
        assert part.mixed.low > erm.last.high

    def test_flags(self, report: UnlearnableReport) -> None:
        assert {flag.id for flag in report.flags} == {
            *("few-examples", "one-seed", "leaked-originals")
        }

    def test_distortion(self, report: UnlearnableReport) -> None:
        assert report.publication.changed == 1
        assert report.distortion.psnr is not None
        assert 5 < report.distortion.psnr.mean < 20


class TestReport:
    def test_is_written_and_fits_the_schema(self, report: UnlearnableReport, folder: Path) -> None:
        text = (folder / "report.json").read_text()
        assert Report.from_json(text) == report
        jsonschema.validate(json.loads(text), schema())
        assert (folder / "report.html").exists()
        assert len(list((folder / "trainings").iterdir())) == 2 * 2 + 1 + 2

    def test_no_key_is_in_anything_that_was_written(
        self, report: UnlearnableReport, folder: Path
    ) -> None:
        secret = bytes(range(32)).hex()
        for path in folder.rglob("*"):
            assert path.is_dir() or secret not in path.read_text()

    def test_the_folder_is_not_written_over(
        self, report: UnlearnableReport, folder: Path, sets: Sets
    ) -> None:
        def again(**changes: object) -> UnlearnableReport:
            given = {
                "model": network,
                "learners": BATTERY,
                "origin": Origin(method="cuda", options={"p_b": 0.3}, publish=publish),
                "trainer": QUICK,
                "shares": (0.8,),
                "out": folder,
                **changes,
            }
            return evaluate_unlearnable(*sets, **given)  # type: ignore[arg-type]

        with pytest.raises(BadInput, match="Add --resume"):
            again()
        with pytest.raises(BadInput, match="differs in learners"):
            again(learners=("erm",), resume=True)
        # Everything is there already: not a step is made.
        assert again(resume=True).learners == report.learners


class TestFlags:
    @pytest.fixture
    def trained_little(self) -> UnlearnableReport:
        images = small()
        return evaluate_unlearnable(
            *(images, images, small(n=40)),
            model=lambda seed: CNN(classes=4, channels=1, width=2, seed=seed),
            learners=("erm",),
            origin=Origin(options={"legacy_seed": 0}),
            trainer=dataclasses.replace(QUICK, epochs=1),
        )

    def test_what_nobody_learns_says_nothing(self, trained_little: UnlearnableReport) -> None:
        flags = {flag.id: flag.severity for flag in trained_little.flags}
        assert flags["reference-failed"] == "void"

    def test_clean_data_that_is_called_published(self, trained_little: UnlearnableReport) -> None:
        flags = {flag.id for flag in trained_little.flags}
        assert {"nothing-lost", "partly-published", "no-key", "guessable-key"} <= flags
        assert trained_little.publication.changed == 0
        assert trained_little.distortion.psnr is None


class TestBadInput:
    def audit(self, *sets: LabelledImages, **changes: object) -> None:
        made = {"model": network, "learners": ("erm",), "trainer": QUICK, **changes}
        evaluate_unlearnable(*sets, **made)  # type: ignore[arg-type]

    def test_originals_must_be_those(self) -> None:
        images = small()
        with pytest.raises(BadInput, match="12 of 24 published images are not in"):
            self.audit(images, images.first(12), images)
        changed = images.labels.clone()
        changed[:8] = (changed[:8] + 1) % 4
        with pytest.raises(BadInput, match="8 of 24 published images have another label"):
            self.audit(small(labels=changed), images, images)
        with pytest.raises(BadInput, match="Give those that they were made from"):
            self.audit(small(inputs=torch.zeros(24, 1, 6, 6)), images, images)
        with pytest.raises(BadInput, match="4 classes, the test images"):
            self.audit(images, images, small(classes=5))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"seeds": 0}, "at least 1"),
            ({"seed": -1}, "a seed in"),
            ({"shares": (0.5, 0.0)}, "above 0 and up to 100"),
            ({"shares": (1.5,)}, "150 %"),
            ({"learners": ("grayscale",)}, "cannot be tried: the images have no colours"),
            ({"learners": ("kone",)}, "No learner is called"),
            ({"model": "builtin:cifar10-resnet18"}, "begin anew"),
            ({"model": "kone"}, "kone"),
        ],
    )
    def test_settings_that_mean_nothing(self, changes: dict[str, object], said: str) -> None:
        images = small()
        with pytest.raises(BadInput, match=said):
            self.audit(images, images, images, **changes)

    def test_one_test_image_cannot_be_halved(self) -> None:
        images = small()
        with pytest.raises(BadInput, match="at least 2 test images"):
            self.audit(images, images, images.first(1))


def test_images_are_aligned_by_their_ids() -> None:
    images = small()
    other = images.take([5, 0, 9])
    assert torch.equal(aligned(images, other).ids, other.ids)
    assert torch.equal(aligned(images, other).stored(slice(None)), other.stored(slice(None)))


def test_the_battery_knows_the_size_of_the_filters() -> None:
    assert battery(None) == battery(threat_models.load("unlearnable")) == list(BATTERY_OF_ALL)
    threat = threat_models.load("unlearnable")
    large = dataclasses.replace(threat, perturbation=Convolutions(kernel=9))
    assert "key-leak:9" in battery(large)
    assert "key-leak" not in battery(large)


def test_a_battery_without_plain_training_gets_it() -> None:
    """Everything is compared with it; learners may also be given as they are."""
    images = small()
    learners: dict[str, Learner] = {"leak": KeyLeak(), "jpeg": build("jpeg")}
    report = evaluate_unlearnable(
        *(images, images, small(n=30)),
        model=lambda seed: CNN(classes=4, channels=1, width=2, seed=seed),
        learners=learners,
        trainer=dataclasses.replace(QUICK, epochs=1),
    )
    assert [row.name for row in report.learners] == ["erm", "leak", "jpeg"]
    assert report.model.spec == "CNN"
