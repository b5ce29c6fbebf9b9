"""One pair of an original and what was published of it gives the filter away."""

import pytest
import torch
from torch.nn import functional as F

from robustkit.data import LabelledImages, load
from robustkit.errors import BadInput
from robustkit.training import SGD, Runtime, Trainer
from robustkit.unlearnable import Key, class_filters, filtered
from robustkit.unlearnable.filters import ONE
from robustkit.unlearnable.learners import ERM, KeyLeak, Lesson
from robustkit.unlearnable.learners.key_leak import Deconvolve, deconvolved, recovered_filter

FILTERS = class_filters(Key(bytes(range(16))), 10, 3, 0.3)


def lesson(clean: LabelledImages, published: LabelledImages) -> Lesson:
    trainer = Trainer(epochs=1, optimizer=SGD(lr=0.1), runtime=Runtime(device="cpu"))
    return Lesson(data=published, originals=clean, network=lambda: None, trainer=trainer)  # type: ignore[arg-type, return-value]


def digits() -> tuple[LabelledImages, LabelledImages]:
    clean = load("digits", split="train").first(200)
    stored = filtered(clean.stored(slice(None)), clean.labels, FILTERS)
    published = LabelledImages.from_tensors(stored, clean.labels, spec="published")
    return clean, published


def photographs() -> torch.Tensor:
    return load("samples:cifar10").inputs(slice(0, 4))


def test_taps_are_recovered_from_one_pair() -> None:
    labels = torch.arange(4)
    for image, published, taps in zip(
        photographs(), filtered(photographs(), labels, FILTERS), FILTERS, strict=False
    ):
        found = recovered_filter(image, published.float() / 255, 3)
        assert float((found - taps / ONE).abs().max()) < 0.02


def test_a_larger_window_finds_the_same_filter_in_its_middle() -> None:
    published = filtered(photographs(), torch.arange(4), FILTERS)[0].float() / 255
    found = recovered_filter(photographs()[0], published, 5)
    expected = F.pad(FILTERS[0] / ONE, (1, 1, 1, 1))
    assert float((found - expected).abs().max()) < 0.05


def test_black_and_flat_images_determine_nothing_and_harm_nobody() -> None:
    black = recovered_filter(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8), 3)
    assert torch.equal(black, F.pad(torch.ones(1, 1), (1, 1, 1, 1)))
    flat = recovered_filter(torch.full((1, 8, 8), 0.5), torch.full((1, 8, 8), 0.25), 3)
    assert bool(flat.isfinite().all())


def test_a_filter_is_undone_where_no_noise_is_assumed() -> None:
    """In float64 and with a well-posed filter the original comes back, up to its brightness."""
    images = photographs().double()
    taps = torch.tensor([[0.0, 0.1, 0.0], [0.1, 1.0, 0.2], [0.0, 0.05, 0.0]]).double()
    # Room around, so that nothing is cut off.
    wide = F.pad(images, (3, 3, 3, 3))
    blurred = F.conv2d(wide, taps.expand(3, 1, 3, 3), padding=1, groups=3)
    found = deconvolved(blurred, taps.expand(4, 3, 3), 1e-12)
    expected = wide / wide.amax((1, 2, 3), keepdim=True)
    assert float((found - expected).abs().max()) < 1e-6


def test_the_learner_undoes_the_filter_of_every_class() -> None:
    clean, published = digits()
    (undo,) = KeyLeak().augmentation(lesson(clean, published))
    assert isinstance(undo, Deconvolve)
    found, _ = undo(published.inputs(slice(None)), published.labels, classes=10, streams=None)  # type: ignore[arg-type]
    original = clean.inputs(slice(None))
    original = original / original.amax((1, 2, 3), keepdim=True)
    before = float((published.inputs(slice(None)) - original).square().mean())
    after = float((found - original).square().mean())
    assert after < before / 2


def test_on_clean_data_it_finds_nothing_to_undo() -> None:
    clean, _ = digits()
    (undo,) = KeyLeak().augmentation(lesson(clean, clean))
    assert isinstance(undo, Deconvolve)
    identity = F.pad(torch.ones(1, 1), (1, 1, 1, 1))
    assert float((undo.filters - identity).abs().max()) < 1e-3


@pytest.mark.parametrize("side", [0, 2, -1])
def test_sides_without_a_middle_are_refused(side: int) -> None:
    with pytest.raises(BadInput, match="have no middle"):
        KeyLeak(side=side)


def test_plain_training_changes_nothing() -> None:
    assert ERM().augmentation(lesson(*digits())) == ()
