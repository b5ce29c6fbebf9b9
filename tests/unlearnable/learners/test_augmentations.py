"""What learners do to images, beside plain formulas and other libraries."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn, idctn
from scipy.ndimage import map_coordinates
from torch.nn import functional as F

from robustkit.randomness import Streams
from robustkit.training import Augmentation, CutMix
from robustkit.unlearnable.learners.coin import Scatter
from robustkit.unlearnable.learners.key_leak import Deconvolve
from robustkit.unlearnable.learners.projection import Bend, Project, Sometimes
from robustkit.unlearnable.learners.rsk_ff import LowPass, Sharpen
from robustkit.unlearnable.learners.squeezing import Compress, Grey
from robustkit.unlearnable.learners.ueraser import Clouds, Shuffle
from tests.accelerator import accelerator

LABELS = torch.arange(12) % 3


def images(channels: int = 3, height: int = 10, width: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (12, channels, height, width), generator=generator) / 255


def streams(epoch: int = 0) -> Streams:
    return Streams.of(seed=0, ids=torch.arange(12) + 5, purpose="test").fork(f"epoch {epoch}")


def changed(change: Augmentation, inputs: torch.Tensor) -> torch.Tensor:
    found, labels = change(inputs, LABELS, classes=3, streams=streams())
    assert torch.equal(labels, LABELS)
    return found


RANDOM: list[Augmentation] = [Sharpen(), Scatter(), Clouds(), Shuffle(), Bend()]
FIXED: list[Augmentation] = [LowPass(), Compress(quality=10), Grey()]


@pytest.mark.parametrize("change", [*RANDOM, *FIXED], ids=repr)
def test_each_image_by_itself(change: Augmentation) -> None:
    whole = changed(change, images())
    assert whole.shape == images().shape
    assert whole.dtype == torch.float32
    assert bool(((whole >= 0) & (whole <= 1)).all())
    assert not torch.equal(whole, images())
    rows = [7, 2]
    some, _ = change(images()[rows], LABELS[rows], classes=3, streams=streams().take(rows))
    assert torch.allclose(some, whole[rows], atol=1e-6)
    again, _ = change(images(), LABELS, classes=3, streams=streams(1))
    assert torch.equal(again, whole) == (change in FIXED)


def test_scattered_pixels_come_from_where_scipy_reads_them() -> None:
    moves = streams().uniform((2, 10, 8), -2.0, 2.0).numpy()
    y, x = np.mgrid[:10, :8]
    found = changed(Scatter(), images()).numpy()
    for image, offsets, result in zip(images().numpy(), moves, found, strict=True):
        for channel, seen in zip(image, result, strict=True):
            places = (y + offsets[0], x + offsets[1])
            expected = map_coordinates(channel, places, order=1, mode="grid-wrap")
            assert np.allclose(seen, expected, atol=1e-5)


def test_sharpening_is_a_convolution_without_padding() -> None:
    noise = 0.1 * streams().normal((5, 1, 1, 1))
    found = changed(Sharpen(), images())
    for row, image in enumerate(images()):
        centre = 2.5 + float(noise[row, 0])
        up, left, right, down = ((centre - 1) / 4 + float(noise[row, n]) for n in range(1, 5))
        kernel = torch.tensor([[0, -up, 0], [-left, centre, -right], [0, -down, 0]])
        expected = F.conv2d(image[:, None], kernel[None, None])[:, 0].clamp(0, 1)
        assert torch.allclose(found[row, :, 1:-1, 1:-1], expected, atol=1e-5)
    border = found.clone()
    border[:, :, 1:-1, 1:-1] = 0
    assert not bool(border.any())


def test_low_frequencies_are_those_of_scipys_cosine_transform() -> None:
    found = changed(LowPass(share=0.5), images()).numpy()[:, :, 1:-1, 1:-1]
    inner = images().numpy()[:, :, 1:-1, 1:-1]
    spectrum = dctn(inner, axes=(2, 3), norm="ortho")
    spectrum[:, :, 4:] = 0
    spectrum[:, :, :, 3:] = 0
    expected = idctn(spectrum, axes=(2, 3), norm="ortho").clip(0, 1)
    assert np.allclose(found, expected, atol=1e-5)


def test_jpeg_is_what_pillow_writes() -> None:
    found = changed(Compress(quality=10), images())
    for row in (0, 7):
        pixels = (images()[row] * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=10)
        expected = np.asarray(Image.open(file)).transpose(2, 0, 1) / 255
        assert np.allclose(found[row].numpy(), expected, atol=1e-6)


def test_grey_has_pillows_weights() -> None:
    found = changed(Grey(), images())
    assert torch.equal(found[:, 0], found[:, 2])
    pixels = (images()[3] * 255).round().byte().permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(pixels).convert("L")) / 255
    assert np.allclose(found[3, 0].numpy(), expected, atol=1 / 255)


def test_channels_change_places_in_half_of_the_images() -> None:
    ids = torch.arange(600)
    before = torch.stack([torch.full((2, 2), value) for value in (0.1, 0.5, 0.9)])
    after, _ = Shuffle()(
        before.expand(600, 3, 2, 2), ids, classes=2, streams=Streams.of(seed=0, ids=ids)
    )
    assert torch.equal(after.sort(1).values, before.expand(600, 3, 2, 2))
    same = float((after == before).flatten(1).all(1).float().mean())
    # One in six orders changes nothing.
    assert abs(same - (0.5 + 0.5 / 6)) < 0.07


def test_clouds_lie_on_some_images_only() -> None:
    ids = torch.arange(400)
    grey = torch.full((400, 1, 8, 8), 0.25)
    after, _ = Clouds()(grey, ids, classes=2, streams=Streams.of(seed=0, ids=ids))
    alike = float((after == 0.25).flatten(1).all(1).float().mean())
    # Clouds of contrast change a grey of one half only; this is darker.
    assert 0.15 < alike < 0.35


def test_bending_by_nothing_changes_nothing() -> None:
    found = changed(Bend(angle=0.0, scale=0.0, colour=0.0), images())
    assert torch.allclose(found, images(), atol=1e-5)


def test_bending_turns_and_scales_about_the_middle() -> None:
    """An image of one bright pixel in the middle keeps it there, whatever is done to it."""
    point = torch.zeros(12, 1, 9, 9)
    point[:, :, 4, 4] = 1
    found = changed(Bend(colour=0.0), point)
    assert bool((found.flatten(1).argmax(1) == 40).all())
    assert bool((found[:, 0, 4, 4] > 0.99).all())


def test_projected_images_have_nothing_left_in_those_directions() -> None:
    directions = torch.linalg.qr(torch.randn(240, 3, generator=torch.Generator().manual_seed(1))).Q
    found = changed(Project(directions=directions.T), images())
    assert float((found.flatten(1) @ directions).abs().max()) < 1e-5
    # And all else as before.
    removed = (images() - found).flatten(1)
    assert torch.allclose(removed @ directions @ directions.T, removed, atol=1e-5)


def test_sometimes_is_about_half_of_the_batches() -> None:
    mixed = []
    for seed in range(60):
        own = Streams.of(seed=seed, ids=torch.arange(12))
        _, labels = Sometimes(change=CutMix())(images(), LABELS, classes=3, streams=own)
        mixed.append(labels.ndim == 2)
    assert abs(sum(mixed) - 30) < 3 * math.sqrt(15)


@pytest.mark.parametrize(
    "change",
    [
        *RANDOM,
        *FIXED,
        Project(directions=torch.eye(2, 240)),
        Deconvolve(
            filters=torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(2)), noise=0.1
        ),
    ],
    ids=lambda change: type(change).__name__,
)
def test_nothing_travels_between_a_gpu_and_its_host(change: Augmentation) -> None:
    expected, _ = change(images(), LABELS, classes=3, streams=streams())
    with accelerator() as device:
        ids = (torch.arange(12) + 5).to(device)
        there = Streams.of(seed=0, ids=ids, purpose="test").fork("epoch 0")
        found, _ = change(images().to(device), LABELS.to(device), classes=3, streams=there)
        assert found.device == device
        back = found.cpu()
    assert torch.allclose(back, expected, atol=1e-6)
