"""CUDA under the contract of attacks on training data."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

from robustkit import data as datasets
from robustkit.attacks.base import Poisoned
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DoesNotFit
from robustkit.threat_models import Budget, Convolutions, ThreatModel, load
from robustkit.training import Trainer
from robustkit.unlearnable import ConvolutionUnlearnable, Key, build, class_filters, filtered
from robustkit.unlearnable.building import describe
from robustkit.unlearnable.filters import legacy_filters
from robustkit.unlearnable.keys import streams

KEY = Key(bytes(range(32)))
CUDA = ConvolutionUnlearnable(key=KEY)


def pictures(n: int = 60, *, classes: int = 5) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 8, 10), generator=generator, dtype=torch.uint8)
    return LabelledImages.from_tensors(pixels, torch.arange(n) % classes, split="train")


def under(kernel: int = 3, share: float = 1.0) -> ThreatModel:
    return dataclasses.replace(
        load("unlearnable"),
        perturbation=Convolutions(kernel=kernel),
        budget=Budget(poison_rate=share),
    )


def poison(
    method: ConvolutionUnlearnable, data: LabelledImages, threat: ThreatModel, seed: int = 0
) -> Poisoned:
    return method.run(data, threat, trainer=Trainer(), streams=streams(KEY, seed, data.ids))


@pytest.mark.parametrize("kernel", [3, 5])
def test_every_image_goes_through_the_filter_of_its_class(kernel: int) -> None:
    data = pictures()
    poisoned = poison(CUDA, data, under(kernel))
    expected = filtered(
        data.stored(slice(None)), data.labels, class_filters(KEY, 5, kernel, CUDA.p_b)
    )
    assert torch.equal(poisoned.data.stored(slice(None)), expected)
    assert bool(poisoned.changed.all())
    assert torch.equal(poisoned.data.labels, data.labels)
    assert torch.equal(poisoned.data.ids, data.ids)
    assert poisoned.data.class_names == data.class_names
    assert bool(
        Convolutions(kernel=kernel)
        .contains(data.inputs(slice(None)), poisoned.data.inputs(slice(None)))
        .all()
    )


def test_rows_are_the_same_in_any_order_and_company() -> None:
    poisoned = poison(CUDA, pictures(), under(share=0.4)).data
    whole = poisoned.stored(slice(None))
    assert torch.equal(poisoned.stored([41, 3, 17]), whole[[41, 3, 17]])
    assert torch.equal(poisoned.take([5, 4]).stored([1]), whole[[4]])


def test_a_share_is_exact_even_and_leaves_the_others_as_they_were() -> None:
    data = pictures()
    poisoned = poison(CUDA, data, under(share=0.4))
    assert poisoned.changed.view(-1, 5).sum(0).tolist() == [5, 5, 5, 5, 4] or int(
        poisoned.changed.sum()
    ) == round(0.4 * 60)
    before, after = data.stored(slice(None)), poisoned.data.stored(slice(None))
    differ = (before != after).flatten(1).any(1)
    assert torch.equal(differ, poisoned.changed)
    # The filters do not depend on who goes through them.
    whole = poison(CUDA, data, under()).data.stored(slice(None))
    assert torch.equal(after[poisoned.changed], whole[poisoned.changed])
    other = poison(CUDA, data, under(share=0.4), seed=1)
    assert not torch.equal(other.changed, poisoned.changed)


def test_floats_are_rounded_to_bytes_the_unchanged_ones_too() -> None:
    data = datasets.load("digits", split="train", n=50)
    assert data.stored([0]).dtype == torch.float32
    poisoned = poison(CUDA, data, under(share=0.5))
    stored = poisoned.data.stored(slice(None))
    assert stored.dtype == torch.uint8
    same = (data.inputs(slice(None)) * 255).round().to(torch.uint8)[~poisoned.changed]
    assert torch.equal(stored[~poisoned.changed], same)


def test_the_set_streams_to_disk_and_back(tmp_path: Path) -> None:
    poisoned = poison(CUDA, pictures(), under()).data
    datasets.save(poisoned, tmp_path)
    back = datasets.load(str(tmp_path), split="train")
    assert torch.equal(back.stored(slice(None)), poisoned.stored(slice(None)))
    assert back.sha256 == poisoned.sha256


def test_the_authors_script_is_replicated() -> None:
    data = pictures()
    poisoned = poison(ConvolutionUnlearnable(legacy_seed=7), data, under())
    expected = filtered(data.stored(slice(None)), data.labels, legacy_filters(7, 5, 3, 0.3))
    assert torch.equal(poisoned.data.stored(slice(None)), expected)


def test_nothing_that_is_printed_or_described_tells_key_or_filters() -> None:
    poisoned = poison(CUDA, pictures(), under())
    taps = str(int(class_filters(KEY, 5, 3, CUDA.p_b)[0, 0, 0]))
    for text in (repr(CUDA), repr(poisoned), repr(poisoned.data._pixels), str(describe(CUDA))):
        assert bytes(range(32)).hex() not in text
        assert taps not in text
    assert KEY.fingerprint in repr(CUDA)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(CUDA)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "one of the two"),
        ({"key": KEY, "legacy_seed": 0}, "one of the two"),
        ({"key": KEY, "p_b": 1.5}, r"\[0, 1\]"),
        ({"key": KEY, "rounding": "up"}, "floor, round"),
        ({"legacy_seed": 2**32}, "legacy seed"),
        ({"legacy_seed": -1}, "legacy seed"),
    ],
)
def test_values_that_mean_nothing_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ConvolutionUnlearnable(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("threat", "said"),
    [
        (load("linf"), "acts at training"),
        (load("unlearnable-linf"), "works in convolution, the threat allows linf"),
        (dataclasses.replace(load("unlearnable"), budget=Budget()), "no poison_rate"),
        (dataclasses.replace(load("unlearnable"), goal=load("linf").goal), "pursues availability"),
    ],
)
def test_a_threat_that_does_not_fit_is_refused(threat: ThreatModel, said: str) -> None:
    with pytest.raises(DoesNotFit, match=said):
        poison(CUDA, pictures(), threat)


def test_words_build_it_and_say_what_is_wrong() -> None:
    assert build("cuda", {"p_b": 0.1, "rounding": "round"}, key=KEY) == ConvolutionUnlearnable(
        key=KEY, p_b=0.1, rounding="round"
    )
    assert build("cuda", {"legacy_seed": 3}) == ConvolutionUnlearnable(legacy_seed=3)
    for table, said in (
        ({"p": 0.1}, "has no p. Allowed: p_b, rounding, legacy_seed"),
        ({"key": "00"}, "has no key"),
        ({"rounding": "up"}, "one of floor, round"),
        ({"p_b": "much"}, "must be a number"),
    ):
        with pytest.raises(BadInput, match=said):
            build("cuda", table, key=KEY)
