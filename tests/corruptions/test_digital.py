"""Contrast, elastic deformation, pixels and JPEG, against numpy, scipy and Pillow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from robustkit.corruptions import SEVERITIES, corrupt
from robustkit.corruptions.digital import elastic_transform
from robustkit.corruptions.parameters import LEVELS
from tests.corruptions.images import scenes, streams

EACH = pytest.mark.parametrize("severity", SEVERITIES)
SIDES = pytest.mark.parametrize("side", [32, 96])


def level(name: str, side: int, severity: int) -> tuple[float, ...]:
    return LEVELS["cifar-c" if side == 32 else "imagenet-c"][name][severity - 1]


@EACH
@SIDES
def test_contrast_draws_each_channel_to_its_mean(severity: int, side: int) -> None:
    images = torch.rand(2, 3, side, side)
    found = corrupt(images, "contrast", severity, streams=streams(2))
    (factor,) = level("contrast", side, severity)
    pixels = images.double().numpy()
    means = pixels.mean((2, 3), keepdims=True)
    np.testing.assert_allclose(found.numpy(), (pixels - means) * factor + means, atol=1e-6)


@EACH
@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 40), (224, 224), (224, 320)])
def test_pixels_are_those_of_pillow(severity: int, height: int, width: int) -> None:
    images = (torch.rand(1, 3, height, width) * 255).round() / 255
    found = corrupt(images, "pixelate", severity, streams=streams(1))[0]
    (factor,) = level("pixelate", 32 if height < 60 else 96, severity)
    small = int(width * factor), int(height * factor)
    for channel in range(3):
        picture = Image.fromarray(images[0, channel].numpy())
        expected = picture.resize(small, Image.Resampling.BOX).resize(
            (width, height), Image.Resampling.BOX
        )
        np.testing.assert_allclose(found[channel].numpy(), np.asarray(expected), atol=1e-5)


@EACH
@SIDES
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(severity: int, side: int, channels: int) -> None:
    images = scenes(2, channels, side, side + 7)
    found = corrupt(images, "jpeg-compression", severity, streams=streams(2))
    (quality,) = level("jpeg-compression", side, severity)
    for image, result in zip(images, found, strict=True):
        stored = (image * 255).round().to(torch.uint8)
        pixels = stored.permute(1, 2, 0).numpy() if channels == 3 else stored[0].numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=int(quality))
        decoded = np.asarray(Image.open(file)).reshape(side, side + 7, channels)
        # Two builds of the same coder may round differently.
        apart = np.abs(result.permute(1, 2, 0).numpy() * 255 - decoded)
        assert apart.max() <= 2
        assert apart.mean() < 0.1


def test_jpeg_of_other_channels_codes_each_alone() -> None:
    images = scenes(1, 4, 16, 16)
    found = corrupt(images, "jpeg-compression", 3, streams=streams(1))
    alone = corrupt(images[:, 2:3], "jpeg-compression", 3, streams=streams(1))
    assert torch.equal(found[:, 2:3], alone)


class TestElastic:
    def test_the_affine_part_sends_three_points_where_it_should(self) -> None:
        """A smooth ramp tells where each pixel came from."""
        y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
        ramps = (torch.stack([y, x])[None] / 96).expand(3, -1, -1, -1)
        found = elastic_transform(ramps, streams(3), 0.0, 0.0, 9.0) * 96
        moves = streams(3).fork("affine").uniform((3, 2), -9.0, 9.0)
        points = torch.tensor([[80.0, 80.0], [80.0, 16.0], [16.0, 16.0]])
        for image in range(3):
            for (column, line), (right, down) in zip(points, moves[image], strict=True):
                there = (line + down).reshape(1, 1).numpy(), (column + right).reshape(1, 1).numpy()
                for channel, expected in ((0, line), (1, column)):
                    picture = found[image, channel].numpy()
                    value = ndimage.map_coordinates(picture, np.stack(there)[:, 0], order=1)
                    assert float(value[0]) == pytest.approx(float(expected), abs=0.01)

    def test_the_smooth_part_is_that_of_scipy(self) -> None:
        images = scenes(1, 1, 40, 30)
        found = elastic_transform(images, streams(1), 30.0, 3.0, 0.0)[0, 0]
        noise = streams(1).fork("elastic").uniform((2, 40, 30), -1.0, 1.0)[0].double().numpy()
        down, right = (
            ndimage.gaussian_filter(part, 3.0, mode="reflect", truncate=3) * 30 for part in noise
        )
        y, x = np.meshgrid(np.arange(40), np.arange(30), indexing="ij")
        picture = images[0, 0].double().numpy()
        expected = ndimage.map_coordinates(picture, (y + down, x + right), order=1, mode="reflect")
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
        assert np.abs(found.numpy() - picture).max() > 0.05
