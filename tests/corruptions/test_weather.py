"""Snow, frost, fog and brightness."""

import colorsys

import pytest
import torch

from robustkit.corruptions import SEVERITIES, corrupt
from robustkit.corruptions.parameters import LEVELS
from robustkit.corruptions.textures import frost_texture, plasma
from tests.corruptions.images import scenes, streams

EACH = pytest.mark.parametrize("severity", SEVERITIES)


@EACH
def test_brightness_raises_the_value_of_hsv(severity: int) -> None:
    images = torch.rand(1, 3, 8, 8)
    images[0, :, 0, 0] = 0
    found = corrupt(images, "brightness", severity, streams=streams(1))
    (added,) = LEVELS["cifar-c"]["brightness"][severity - 1]
    for y in range(8):
        for x in range(8):
            hue, saturation, value = colorsys.rgb_to_hsv(*images[0, :, y, x].tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1))
            assert found[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_brightness_of_grey_is_an_addition() -> None:
    images = scenes(1, 1, 8, 8)
    found = corrupt(images, "brightness", 3, streams=streams(1))
    torch.testing.assert_close(found, (images + 0.15).clamp(0, 1), atol=1e-6, rtol=0)


class TestPlasma:
    @pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 60), (1, 1), (5, 3)])
    def test_is_of_the_size_and_in_range(self, height: int, width: int) -> None:
        clouds = plasma(streams(3), height, width, 2.0)
        assert clouds.shape == (3, height, width)
        assert 0 <= float(clouds.min()) <= float(clouds.max()) <= 1

    def test_spans_the_range(self) -> None:
        clouds = plasma(streams(3), 64, 64, 2.0)
        assert clouds.amin((1, 2)).tolist() == [0, 0, 0]
        assert clouds.amax((1, 2)).tolist() == [1, 1, 1]

    def test_is_smoother_the_faster_its_detail_fades(self) -> None:
        steps = [
            float(plasma(streams(8), 64, 64, decay).diff(dim=1).abs().mean())
            for decay in (3.0, 2.0, 1.5, 1.1)
        ]
        assert steps == sorted(steps)

    def test_noise_shrinks_by_the_square_of_the_decay(self) -> None:
        """In the middles of squares, before the whole is scaled to its range."""
        clouds = plasma(streams(2000), 8, 8, 2.0).double()
        corners = clouds[:, ::4, ::4]
        below = corners.roll(-1, 1)
        means = (corners + below + corners.roll(-1, 2) + below.roll(-1, 2)) / 4
        large = (clouds[:, 2::4, 2::4] - means).abs().mean()
        corners = clouds[:, ::2, ::2]
        below = corners.roll(-1, 1)
        means = (corners + below + corners.roll(-1, 2) + below.roll(-1, 2)) / 4
        small = (clouds[:, 1::2, 1::2] - means).abs().mean()
        assert float(large / small) == pytest.approx(4, rel=0.1)

    def test_every_new_point_lies_among_its_four_neighbours(self) -> None:
        """At the finest scale the three kinds of points deviate from them equally much."""
        clouds = plasma(streams(2000), 8, 8, 1.5).double()
        corners, middles = clouds[:, ::2, ::2], clouds[:, 1::2, 1::2]
        below, right = corners.roll(-1, 1), corners.roll(-1, 2)
        expected = {
            (1, 1): corners + below + right + below.roll(-1, 2),
            (0, 1): corners + right + middles + middles.roll(1, 1),
            (1, 0): corners + below + middles + middles.roll(1, 2),
        }
        noise = [
            float((clouds[:, y::2, x::2] - total / 4).abs().mean())
            for (y, x), total in expected.items()
        ]
        assert max(noise) < 1.05 * min(noise)


@EACH
def test_fog_veils_and_keeps_the_brightest_value(severity: int) -> None:
    thickness, decay = LEVELS["cifar-c"]["fog"][severity - 1]
    images = scenes(2, 3, 32, 32)
    found = corrupt(images, "fog", severity, streams=streams(2))
    banks = plasma(streams(2).fork(f"fog {severity}"), 32, 32, decay)[:, None] * thickness
    brightest = images.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, (images + banks) * brightest / (brightest + thickness))
    assert bool((found <= brightest + 1e-6).all())


@EACH
def test_snow_falls_on_black_and_whitens_grey(severity: int) -> None:
    black = corrupt(torch.zeros(6, 3, 96, 96), "snow", severity, streams=streams(6))
    # Where no flake fell, white shines through with the weight that whitening has.
    weight = 1 - LEVELS["imagenet-c"]["snow"][severity - 1][-1]
    assert float(black.min()) == pytest.approx(0.5 * weight, abs=1e-5)
    assert float(black.max()) > 0.7
    assert torch.equal(black, black[:, :1].expand_as(black)), "flakes are white"
    torch.testing.assert_close(black, black.flip((2, 3)), msg="each flake falls twice")


def test_snow_falls_downwards() -> None:
    """Along the wind, which is nearer to the vertical, neighbours are more alike."""
    found = corrupt(torch.zeros(40, 1, 96, 96), "snow", 5, streams=streams(40))
    assert float(found.diff(dim=2).abs().mean()) < float(found.diff(dim=3).abs().mean())


class TestFrost:
    def test_is_the_weighted_sum_of_image_and_ice(self) -> None:
        images = scenes(2, 3, 32, 32)
        for severity in SEVERITIES:
            kept, ice = LEVELS["cifar-c"]["frost"][severity - 1]
            texture = frost_texture(streams(2).fork(f"frost {severity}"), 3, 32, 32)
            expected = (images * kept + texture * ice).clamp(0, 1)
            found = corrupt(images, "frost", severity, streams=streams(2))
            torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("side", [32, 224])
    def test_ice_is_half_bright_and_uneven(self, side: int) -> None:
        ice = frost_texture(streams(16), 3, side, side)
        assert 0 <= float(ice.min()) <= float(ice.max()) <= 1
        assert 0.35 < float(ice.mean()) < 0.6
        assert float(ice.std((1, 2, 3)).min()) > 0.1
        red, green, blue = ice.mean((0, 2, 3)).tolist()
        assert red < green < blue

    def test_other_numbers_of_channels_get_no_tint(self) -> None:
        ice = frost_texture(streams(2), 2, 16, 20)
        assert torch.equal(ice[:, 0], ice[:, 1])
