"""Blurs, against scipy and against loops over pixels."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from robustkit.corruptions import SEVERITIES, corrupt
from robustkit.corruptions.blur import _copied, _disk, smeared
from robustkit.corruptions.parameters import LEVELS
from tests.corruptions.images import scenes, streams

EACH = pytest.mark.parametrize("severity", SEVERITIES)


@EACH
@pytest.mark.parametrize("side", [32, 96])
def test_defocus_blur_is_a_convolution_with_a_disk(severity: int, side: int) -> None:
    images = torch.rand(2, 2, side, side + 3)
    found = corrupt(images, "defocus-blur", severity, streams=streams(2))
    numbers = LEVELS["cifar-c" if side == 32 else "imagenet-c"]["defocus-blur"][severity - 1]
    kernel = _disk(*numbers)
    expected = ndimage.correlate(images.double().numpy(), kernel[None, None], mode="mirror")
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_the_disk_is_round_and_soft_at_its_edge() -> None:
    kernel = _disk(4, 0.5)
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(kernel, kernel.T)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1])
    middle = len(kernel) // 2
    assert kernel[middle, middle] == pytest.approx(1 / 49, rel=1e-6)
    assert 0 < kernel[middle, middle + 5] < kernel[middle, middle + 4] < kernel[middle, middle]
    # A radius below one pixel leaves the Gaussian alone.
    line = np.exp(-0.5 * (np.arange(-1, 2) / 0.4) ** 2)
    line /= line.sum()
    np.testing.assert_allclose(_disk(0.3, 0.4), np.outer(line, line))


@pytest.mark.parametrize("distance", [1, 2, 4])
@pytest.mark.parametrize("shape", [(12, 15), (11, 11), (3, 3), (2, 9)])
def test_glass_copies_as_a_loop_over_pixels_does(distance: int, shape: tuple[int, int]) -> None:
    height, width = shape
    offsets = streams(3).integers(2 * distance, (2, *shape)) - distance
    found = _copied(offsets, distance)
    for image in range(3):
        values = np.arange(height * width).reshape(shape)
        for y in range(height - distance, distance, -1):
            for x in range(width - distance, distance, -1):
                down, right = offsets[image, :, y, x].tolist()
                values[y, x] = values[y + down, x + right]
        np.testing.assert_array_equal(found[image].numpy(), values)


def test_glass_moves_pixels_no_further_than_they_may() -> None:
    """A copied value may have been copied before, but most come from next door."""
    images = torch.zeros(8, 1, 96, 96)
    images[:, :, :, 48:] = 1
    changed = corrupt(images, "glass-blur", 1, streams=streams(8))
    assert float(changed[..., :30].max()) == 0
    assert float(changed[..., 66:].min()) == 1
    assert float(changed[..., 47:49].std(2).mean()) > 0.05


@pytest.mark.parametrize("angle", [0.0, 30.0, -45.0, -90.0, -135.0])
def test_motion_is_a_mean_along_a_line(angle: float) -> None:
    images = torch.rand(1, 1, 13, 10)
    found = smeared(images, torch.tensor([angle]), 3, 1.5)[0, 0]
    weights = [math.exp(-0.5 * (step / 1.5) ** 2) for step in range(7)]
    picture = images[0, 0].numpy()
    turn = np.float64(np.deg2rad(angle))
    for y in range(13):
        for x in range(10):
            total = 0.0
            for step, weight in enumerate(weights):
                line = min(max(y + math.ceil(step * np.sin(turn) - 0.5), 0), 12)
                column = min(max(x + math.ceil(step * np.cos(turn) - 0.5), 0), 9)
                total += weight * picture[line, column]
            assert float(found[y, x]) == pytest.approx(total / sum(weights), abs=1e-5)


@EACH
@pytest.mark.parametrize("side", [32, 96])
def test_zoom_blur_is_the_mean_of_enlargements(severity: int, side: int) -> None:
    images = scenes(1, 1, side, side)
    found = corrupt(images, "zoom-blur", severity, streams=streams(1))[0, 0]
    end, step = LEVELS["cifar-c" if side == 32 else "imagenet-c"]["zoom-blur"][severity - 1]
    picture = images[0, 0].double().numpy()
    layers = [picture]
    for factor in np.arange(1, end, step):
        kept = math.ceil(side / factor)
        start = (side - kept) // 2
        large = ndimage.zoom(picture[start : start + kept, start : start + kept], factor, order=1)
        trim = (len(large) - side) // 2
        layers.append(large[trim : trim + side, trim : trim + side])
    np.testing.assert_allclose(found.numpy(), np.mean(layers, axis=0), atol=1e-5)
