"""What is published is judged as it was written; a manifest leads back to it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from robustkit import data as datasets
from robustkit.attacks.base import Learner, Poisoned, PoisoningAttack
from robustkit.data import LabelledImages, computed
from robustkit.data.computing import as_bytes
from robustkit.errors import BadInput, CorruptFile, MissingFile, Violation
from robustkit.randomness import Streams
from robustkit.threat_models import Budget, ThreatModel, load
from robustkit.training import Trainer
from robustkit.unlearnable import ConvolutionUnlearnable, Key, Manifest, Release
from robustkit.unlearnable.keys import streams
from robustkit.unlearnable.releasing import source_of

KEY = Key(bytes(range(32)))


def release(
    method: PoisoningAttack, *, share: float = 1.0, clean: LabelledImages | None = None
) -> Release:
    whole = datasets.load("digits", split="train")
    used = whole.stratified(60) if clean is None else clean
    return Release(
        name="cuda",
        method=method,
        threat=dataclasses.replace(load("unlearnable"), budget=Budget(poison_rate=share)),
        key=KEY,
        seed=0,
        source=source_of("digits", whole, used, size=32),
        clean=used,
        training={"trainer": {"epochs": 3}, "runtime": {"device": "cpu"}},
    )


def publish(made: Release, folder: Path) -> Manifest:
    return made.publish(folder, test=None, trainer=Trainer(), device="cpu")


CUDA = ConvolutionUnlearnable(key=KEY)
Do = Callable[[LabelledImages, Streams], Poisoned]


@dataclasses.dataclass(frozen=True)
class Cheat(PoisoningAttack):
    """Does as it is told, whatever the threat model says."""

    norms: ClassVar[frozenset[str]] = frozenset({"convolution"})
    do: Do

    def run(
        self, data: LabelledImages, threat: ThreatModel, *, trainer: Learner, streams: Streams
    ) -> Poisoned:
        return self.do(data, streams)


def told(data: LabelledImages, change: Callable[[Tensor], Tensor], changed: Tensor) -> Poisoned:
    pixels = computed(data, lambda stored, rows: change(as_bytes(stored)), spec="cheat")
    return Poisoned(data=pixels, changed=changed)


def everyone(data: LabelledImages) -> Tensor:
    return torch.ones(len(data), dtype=torch.bool)


def inverted(data: LabelledImages, streams: Streams) -> Poisoned:
    return told(data, lambda pixels: 255 - pixels, everyone(data))


def secretly(data: LabelledImages, streams: Streams) -> Poisoned:
    return told(data, lambda pixels: pixels // 2, ~everyone(data))


def greedily(data: LabelledImages, streams: Streams) -> Poisoned:
    return told(data, lambda pixels: pixels, everyone(data))


def relabelling(data: LabelledImages, streams: Streams) -> Poisoned:
    pixels = data.stored(slice(None))
    wrong = LabelledImages.from_tensors(pixels, (data.labels + 1) % 10, split="train")
    return Poisoned(data=wrong, changed=everyone(data))


def shortening(data: LabelledImages, streams: Streams) -> Poisoned:
    return Poisoned(data=data.first(59), changed=everyone(data))


@pytest.mark.parametrize(
    ("do", "share", "said"),
    [
        (inverted, 1.0, "left the set Convolutions.* with 60 images"),
        (secretly, 1.0, "changed images that it calls unchanged"),
        (greedily, 0.5, "changed 60 images, 30 are allowed"),
        (relabelling, 1.0, "changed labels"),
        (shortening, 1.0, "changed the number"),
    ],
)
def test_a_method_that_cheats_publishes_nothing(
    tmp_path: Path, do: Do, share: float, said: str
) -> None:
    with pytest.raises(Violation, match=said):
        publish(release(Cheat(do), share=share), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_keeps_to_the_rules_is_published_under_the_same_judge(tmp_path: Path) -> None:
    publish(release(Cheat(lambda data, _: told(data, as_bytes, ~everyone(data)))), tmp_path / "a")
    assert publish(release(CUDA, share=0.5), tmp_path / "b").changed == 30


def test_the_manifest_leads_back_to_method_threat_and_originals(tmp_path: Path) -> None:
    made = release(CUDA, share=0.5)
    written = publish(made, tmp_path / "out")
    found = Manifest.read(tmp_path / "out")
    assert found == written
    assert found.threat_model() == made.threat
    assert found.again(KEY) == CUDA
    originals = found.originals()
    assert originals.sha256 == made.clean.sha256
    published = datasets.load(str(tmp_path / "out"), split="train")
    again = found.again(KEY).run(
        originals,
        found.threat_model(),
        trainer=Trainer(),
        streams=streams(KEY, found.seed, originals.ids),
    )
    assert torch.equal(again.data.stored(slice(None)), published.stored(slice(None)))
    assert int(again.changed.sum()) == found.changed == 30
    assert found.distortion.n == 30
    # Nothing of the training is kept for a method that trains nothing.
    assert found.training == {}


def test_the_manifest_holds_no_secret_and_not_who_was_changed(tmp_path: Path) -> None:
    publish(release(CUDA, share=0.5), tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert bytes(range(32)) not in path.read_bytes()
        assert bytes(range(32)).hex().encode() not in path.read_bytes()
    table = json.loads((tmp_path / "out" / "unlearnable.json").read_text())
    assert not [value for value in table.values() if isinstance(value, list)]


def test_another_key_is_told(tmp_path: Path) -> None:
    publish(release(CUDA), tmp_path / "out")
    found = Manifest.read(tmp_path / "out")
    for key in (None, Key(bytes(32))):
        with pytest.raises(BadInput, match=f"made with the key {KEY.fingerprint}"):
            found.again(key)


def test_options_that_words_cannot_say_are_not_guessed(tmp_path: Path) -> None:
    publish(release(CUDA), tmp_path / "out")
    found = Manifest.read(tmp_path / "out")
    other = dataclasses.replace(found, options={**found.options, "p_b": [0.1]})
    with pytest.raises(BadInput, match="not all numbers and words"):
        other.again(KEY)


def test_originals_that_are_others_by_now_are_told(tmp_path: Path) -> None:
    publish(release(CUDA), tmp_path / "out")
    found = Manifest.read(tmp_path / "out")
    with pytest.raises(BadInput, match="other images"):
        dataclasses.replace(found, seed=1).originals()


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no readable JSON"), ("{}", "missing"), ('{"kind": "data"}', "kind"), ("[]", "object")],
)
def test_a_damaged_manifest_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "unlearnable.json").write_text(text)
    with pytest.raises(CorruptFile, match=said):
        Manifest.read(tmp_path)


def test_a_folder_without_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="unlearnable data"):
        Manifest.read(tmp_path)


def test_a_class_without_images_is_refused() -> None:
    clean = datasets.load("digits", split="train")
    with pytest.raises(BadInput, match="no images of 2 of its 10 classes: 3, 7"):
        release(CUDA, clean=clean.take((clean.labels != 3) & (clean.labels != 7)))


def test_a_damaged_set_is_not_taken_for_done(tmp_path: Path) -> None:
    made = release(CUDA)
    assert made.already(tmp_path / "out") is None
    (tmp_path / "out").mkdir()
    assert made.already(tmp_path / "out") is None
    written = publish(made, tmp_path / "out")
    assert made.already(tmp_path / "out") == written
    (path,) = (tmp_path / "out").glob("train-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="does not hold what"):
        made.already(tmp_path / "out")
