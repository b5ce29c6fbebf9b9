"""Exact filtering: the same bytes as exact arithmetic, one image at a time, in any batch."""

import itertools
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.unlearnable import Key, class_filters, filtered
from robustkit.unlearnable import filters as module
from robustkit.unlearnable.filters import LARGEST, ONE, Rounding, legacy_filters

KEY = Key(bytes(range(32)))
# Of class 0, p_b 0.3, in units of 2**-24: a published set must stay what it is.
KNOWN = [[3515739, 3068440, 1343172], [4035679, 16777216, 4504119], [5029713, 1568769, 803716]]


def pixels(n: int, shape: tuple[int, int, int] = (3, 7, 9), *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)


def by_fractions(image: Tensor, taps: Tensor, rounding: Rounding) -> Tensor:
    """One image in exact arithmetic, as the paper says it, pixel by pixel."""
    channels, height, width = image.shape
    half = len(taps) // 2
    values, weights = image.tolist(), taps.tolist()
    sums = np.zeros(image.shape, dtype=object)
    for c, y, x in product(range(channels), range(height), range(width)):
        sums[c, y, x] = sum(
            weights[i][j] * values[c][y + i - half][x + j - half]
            for i, j in product(range(len(taps)), repeat=2)
            if 0 <= y + i - half < height and 0 <= x + j - half < width
        )
    largest = sums.max()
    if largest == 0:
        return image
    shift = Fraction(1, 2) if rounding == "round" else Fraction(0)
    levels = np.vectorize(lambda value: int((Fraction(255 * value, largest) + shift) // 1))(sums)
    return torch.from_numpy(levels.astype(np.uint8))


@pytest.mark.parametrize("rounding", ["floor", "round"])
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_the_bytes_are_those_of_exact_arithmetic(size: int, rounding: Rounding) -> None:
    filters = class_filters(KEY, 3, size, 0.3)
    images, labels = pixels(4, (2, 5, 6)), torch.tensor([2, 0, 1, 2])
    done = filtered(images, labels, filters, rounding=rounding)
    for image, label, changed in zip(images, labels, done, strict=True):
        assert torch.equal(changed, by_fractions(image, filters[label], rounding))


def test_flat_regions_are_whole_numbers_and_are_not_cut_off() -> None:
    """The case in which one last bit is a whole level: a flat 100 beside a flat 255 stays 100."""
    image = torch.full((1, 1, 9, 18), 100, dtype=torch.uint8)
    image[..., 9:] = 255
    for label in range(50):
        filters = class_filters(KEY, 50, 3, 0.3)[label : label + 1]
        done = filtered(image, torch.tensor([0]), filters)
        assert done[0, 0, 1:-1, 1:7].flatten().tolist() == [100] * 42
        assert int(done.max()) == 255


@given(seed=st.integers(0, 10**6), size=st.sampled_from((3, 5)), p_b=st.floats(0, 1))
@settings(max_examples=30)
def test_a_per_image_loop_and_any_batch_give_the_same_bytes(
    seed: int, size: int, p_b: float
) -> None:
    filters = class_filters(Key(seed.to_bytes(16, "big")), 4, size, p_b)
    images, labels = pixels(11, seed=seed), torch.arange(11) % 4
    whole = filtered(images, labels, filters)
    loop = [filtered(images[i : i + 1], labels[i : i + 1], filters) for i in range(11)]
    assert torch.equal(torch.cat(loop), whole)
    parts = [filtered(images[i : i + 3], labels[i : i + 3], filters) for i in range(0, 11, 3)]
    assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(filtered(images[order], labels[order], filters), whole[order])


def test_one_convolution_per_image_gives_the_same_bytes() -> None:
    """The published way, with torch's own convolution on whole numbers, which is exact too."""
    filters = class_filters(KEY, 10, 3, 0.3)
    images, labels = pixels(40, (3, 32, 32)), torch.arange(40) % 10
    done = filtered(images, labels, filters)
    for image, label, changed in zip(images, labels, done, strict=True):
        weights = filters[label].double().expand(3, 1, 3, 3)
        sums = F.conv2d(image[None].double(), weights, padding=1, groups=3)[0]
        assert torch.equal(changed, (255 * sums / sums.max()).floor().to(torch.uint8))


def test_float32_differs_where_quotients_are_nearly_whole_and_nowhere_else() -> None:
    filters = class_filters(KEY, 10, 3, 0.3)
    images, labels = pixels(40, (3, 32, 32)), torch.arange(40) % 10
    done = filtered(images, labels, filters)
    weights = (filters[labels].double() / ONE).float().repeat_interleave(3, 0)[:, None]
    rows = (images.float() / 255).reshape(1, -1, 32, 32)
    sums = F.conv2d(rows, weights, padding=1, groups=120).reshape(images.shape)
    levels = (255 * (sums / sums.amax((1, 2, 3), keepdim=True))).to(torch.uint8)
    differences = (levels.int() - done.int()).abs()
    assert int(differences.max()) <= 1
    assert float((differences > 0).float().mean()) < 1e-3


def test_workspaces_of_any_size_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = class_filters(KEY, 4, 3, 0.3)
    images, labels = pixels(9), torch.arange(9) % 4
    whole = filtered(images, labels, filters)
    for size in (1, 30_000, 10**9):
        monkeypatch.setattr(module, "_NEAR", size)
        assert torch.equal(filtered(images, labels, filters), whole)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bytes() -> None:
    filters = class_filters(KEY, 10, 3, 0.3)
    images, labels = pixels(5000, (3, 32, 32)), torch.arange(5000) % 10
    for rounding in ("floor", "round"):
        here = filtered(images, labels, filters, rounding=rounding)
        there = filtered(images, labels, filters.to("cuda"), rounding=rounding)
        assert torch.equal(here, there.cpu())
        resident = filtered(images.cuda(), labels, filters.to("cuda"), rounding=rounding)
        assert resident.device.type == "cuda"
        assert torch.equal(here, resident.cpu())


def test_black_images_stay_and_so_do_those_that_are_shifted_out_of_the_frame() -> None:
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    images[1, 0, 0, 0] = 9  # the only bright pixel; the tap below it looks at the row below
    down = torch.zeros(1, 3, 3, dtype=torch.int64)
    down[0, 2, 1] = ONE
    done = filtered(images, torch.zeros(2, dtype=torch.int64), down)
    assert torch.equal(done, images)


def test_it_is_a_correlation_with_one_filter_for_all_channels() -> None:
    image = torch.zeros(1, 2, 5, 5, dtype=torch.uint8)
    image[0, :, 2, 2] = torch.tensor([200, 100], dtype=torch.uint8)
    taps = torch.arange(9).reshape(1, 3, 3) * (ONE // 8)
    done = filtered(image, torch.tensor([0]), taps)
    # Correlation, not convolution: around a bright point the filter is seen turned by 180 degrees.
    turned = taps[0].flip(0, 1) * 255 // ONE
    assert torch.equal(done[0, 0, 1:4, 1:4].long(), turned)
    assert done[0, 1].long().tolist() == (done[0, 0].double() / 2).floor().long().tolist()


def test_the_largest_value_becomes_255() -> None:
    done = filtered(pixels(20) // 3, torch.arange(20) % 4, class_filters(KEY, 4, 3, 0.3))
    assert done.amax((1, 2, 3)).tolist() == [255] * 20


def test_floats_are_rounded_to_bytes_first() -> None:
    filters, labels = class_filters(KEY, 4, 3, 0.3), torch.arange(5) % 4
    images = pixels(5)
    floats = images.float() / 255 + 0.4 / 255 * (images < 255)
    assert torch.equal(filtered(floats, labels, filters), filtered(images, labels, filters))


def test_nothing_given_is_modified_and_no_image_is_fine() -> None:
    images, labels, filters = pixels(5), torch.arange(5) % 4, class_filters(KEY, 4, 3, 0.3)
    copies = images.clone(), filters.clone()
    filtered(images, labels, filters)
    assert torch.equal(images, copies[0])
    assert torch.equal(filters, copies[1])
    assert filtered(images[:0], labels[:0], filters).shape == (0, 3, 7, 9)


@pytest.mark.parametrize(("size", "p_b"), [(3, 0.3), (9, 0.06), (5, 1.0), (3, 0.0)])
def test_filters_are_what_the_paper_says(size: int, p_b: float) -> None:
    filters = class_filters(KEY, 400, size, p_b)
    flat = filters.flatten(1)
    assert filters.shape == (400, size, size)
    ones = (flat == ONE).sum(1)
    assert bool((ones >= 1).all())
    if p_b < 1:
        assert ones.tolist() == [1] * 400
    others = flat[flat != ONE].double() / ONE
    assert float(others.max()) < p_b or p_b == 0
    assert abs(float(others.mean()) - p_b / 2) < 0.01 * (p_b + 1e-9)
    # The tap that is 1 lies anywhere, not in the centre.
    places = (flat == ONE).int().argmax(1).bincount(minlength=size * size)
    assert bool((places > 0).all()) or size > 5
    assert int(places.max()) < 400 * 4 / size**2 + 10


def test_a_filter_depends_on_key_and_class_alone() -> None:
    filters = class_filters(KEY, 10, 3, 0.3)
    assert torch.equal(class_filters(KEY, 3, 3, 0.3), filters[:3])
    assert len({tuple(one.flatten().tolist()) for one in filters}) == 10
    assert not torch.equal(class_filters(Key(bytes(32)), 10, 3, 0.3), filters)
    assert filters[0].tolist() == KNOWN


def test_the_authors_seed_gives_the_authors_filters() -> None:
    """The known answer, to all digits that were given."""
    filters = legacy_filters(0, 10, 3, 0.3)[0].double() / ONE
    expected = [[0.16464, 0.21456, 1], [0.16346, 0.12710, 0.19377], [0.13128, 0.26753, 0.28910]]
    assert (filters - torch.tensor(expected).double()).abs().max() <= 0.5e-5 + 2**-24


@pytest.mark.parametrize(
    ("size", "p_b", "said"),
    [(2, 0.3, "odd"), (0, 0.3, "odd"), (65, 0.3, "at most 63"), (3, 1.1, "p_b"), (3, -0.1, "p_b")],
)
def test_filters_that_mean_nothing_are_refused(size: int, p_b: float, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        class_filters(KEY, 2, size, p_b)
    with pytest.raises(BadInput, match=said):
        legacy_filters(0, 2, size, p_b)


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(BadInput, match="floor, round"):
        filtered(pixels(1), torch.tensor([0]), class_filters(KEY, 1, 3, 0.3), rounding="up")  # type: ignore[arg-type]


def test_the_bound_on_the_size_keeps_sums_and_quotients_exact() -> None:
    """What the proof in the code needs, at the largest filter with the largest taps."""
    largest = LARGEST**2 * ONE * 255
    assert largest < 2**44  # a quotient misses a whole number by at least 1 / (2 * largest)
    assert 2 * 255 * largest + largest < 2**53  # every sum is a whole number in float64
    image = torch.full((1, 1, 63, 63), 255, dtype=torch.uint8)
    image[0, 0, 31, 31] = 254
    taps = torch.full((1, LARGEST, LARGEST), ONE)
    for rounding in ("floor", "round"):
        done = filtered(image, torch.tensor([0]), taps, rounding=rounding)
        total = 63 * 63 * 255 - 1
        for y, x in itertools.product((0, 31, 62), repeat=2):
            rows, columns = 63 - abs(y - 31), 63 - abs(x - 31)
            exact = Fraction(255 * (rows * columns * 255 - 1), total)
            shift = Fraction(1, 2) if rounding == "round" else 0
            assert int(done[0, 0, y, x]) == int((exact + shift) // 1)
