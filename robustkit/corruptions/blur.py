"""Corruptions by blur: of the lens, of frosted glass, of motion, of a zoom."""

import math

import numpy as np
import torch
from torch import Tensor

from robustkit.corruptions.exact import Matrix, along, folded, gaussian, read
from robustkit.randomness import Streams


def defocus_blur(images: Tensor, streams: Streams, radius: float, softness: float) -> Tensor:
    """The mean over a disk, as behind a lens out of focus.

    Args:
        images: (N, C, H, W).
        streams: Not used.
        radius: Of the disk, in pixels.
        softness: Standard deviation of the Gaussian that smooths the disk's edge.

    Differs from the reference:
        The smoothed disk is not cut off at the largest distance where the smoothing carries weight
        beyond it.
    """
    del streams
    kernel = _disk(radius, softness)
    reach = len(kernel) // 2
    height, width = images.shape[2:]
    rows = folded(torch.arange(-reach, height + reach, device=images.device), height, "mirror")
    columns = folded(torch.arange(-reach, width + reach, device=images.device), width, "mirror")
    wide = images[:, :, rows][:, :, :, columns]
    result = torch.zeros_like(images)
    # One tap after the other: a convolution's order of adding would depend on the batch.
    for y, x in zip(*np.nonzero(kernel), strict=True):
        result = result + wide[:, :, y : y + height, x : x + width] * float(kernel[y, x])
    return result


def _disk(radius: float, softness: float) -> Matrix:
    """A flat disk, smoothed by a Gaussian of 3 x 3 taps (5 x 5 where the radius exceeds 8)."""
    margin = 1 if radius <= 8 else 2
    reach = math.floor(radius) + margin
    offsets = np.arange(-reach, reach + 1)
    flat = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    taps = np.exp(-0.5 * (np.arange(-margin, margin + 1) / softness) ** 2)
    for axis in (0, 1):
        smoothed = [
            np.roll(flat, int(shift), axis) * weight
            for shift, weight in zip(range(-margin, margin + 1), taps / taps.sum(), strict=True)
        ]
        flat = sum(smoothed[1:], smoothed[0])
    kernel: Matrix = flat / flat.sum()
    return kernel


def glass_blur(
    images: Tensor, streams: Streams, sigma: float, distance: float, rounds: float
) -> Tensor:
    """Pixels moved about between two Gaussian blurs, as behind frosted glass.

    Args:
        images: (N, C, H, W).
        streams: One per image.
        sigma: Standard deviation of the blurs, in pixels.
        distance: How far pixels move, in pixels.
        rounds: How often they move.

    Differs from the reference:
        The paper speaks of shuffling. What made the published sets copies: from the last pixel to
        the first, each takes the value that a near one has at that time. So do we, with all images
        and pixels at once.
    """
    height, width = images.shape[2:]
    rows = gaussian(height, sigma, 4.0, "nearest")
    columns = gaussian(width, sigma, 4.0, "nearest")
    moved = along(images, rows, columns)
    for turn in range(int(rounds)):
        offsets = streams.integers(2 * int(distance), (2, height, width), draw=turn)
        moved = read(moved, _copied(offsets - int(distance), int(distance)))
    return along(moved, rows, columns)


def _copied(offsets: Tensor, distance: int) -> Tensor:
    """(N, H, W) flat places: where the value in each place comes from once all have copied.

    Args:
        offsets: (N, 2, H, W) int64: how far down and to the right each pixel's source lies.
        distance: Largest offset; pixels so near to the edge copy nothing.
    """
    n, _, height, width = offsets.shape
    y = torch.arange(height, device=offsets.device)[:, None]
    x = torch.arange(width, device=offsets.device)
    here = (y * width + x).expand(n, height, width)
    inside = (y > distance) & (y <= height - distance) & (x > distance) & (x <= width - distance)
    source = torch.where(inside, (y + offsets[:, 0]) * width + x + offsets[:, 1], here)
    # A source that comes later in the image has copied already: follow it. Any other still has its
    # own value, which the second half of the table stands for.
    size = height * width
    copied = inside.expand(n, -1, -1).flatten(1).gather(1, source.flatten(1))
    follow = (source > here).flatten(1) & copied
    own = torch.arange(size, 2 * size, device=offsets.device).expand(n, size)
    table = torch.cat([torch.where(follow, 0, size) + source.flatten(1), own], 1)
    # Each round doubles the length of the chains that have been followed.
    for _ in range(size.bit_length()):
        table = table.gather(1, table)
    return (table[:, :size] - size).reshape(n, height, width)


def motion_blur(images: Tensor, streams: Streams, radius: float, sigma: float) -> Tensor:
    """The mean along a line of random direction, as of a moving camera.

    Args:
        images: (N, C, H, W).
        streams: One per image.
        radius: Half the line's length, in pixels.
        sigma: Standard deviation of the weights along the line.
    """
    return smeared(images, streams.uniform((), -45.0, 45.0), radius, sigma)


def smeared(images: Tensor, angles: Tensor, radius: float, sigma: float) -> Tensor:
    """Each pixel becomes a weighted mean of those on a line that begins there.

    The weights fall like one half of a Gaussian; the line is followed from pixel to pixel, without
    interpolation, and the image goes on beyond its edge with its last pixels.

    Args:
        images: (N, C, H, W).
        angles: (N,) direction of the lines, in degrees from the horizontal.
        radius: Half the length of the lines, in pixels.
        sigma: Standard deviation of the weights, in pixels.
    """
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    turn = angles.double().deg2rad()[:, None, None]
    result = torch.zeros_like(images)
    for step, weight in zip(steps.tolist(), (weights / weights.sum()).tolist(), strict=True):
        down = (step * turn.sin() - 0.5).ceil().long()
        right = (step * turn.cos() - 0.5).ceil().long()
        lines = folded(y + down, height, "nearest")
        places = lines * width + folded(x + right, width, "nearest")
        result = result + read(images, places) * weight
    return result


def zoom_blur(images: Tensor, streams: Streams, end: float, step: float) -> Tensor:
    """The mean over the image and its enlargements, as of a camera that rushes towards it.

    Args:
        images: (N, C, H, W).
        streams: Not used.
        end: Where the factors of the enlargements end.
        step: From factor to factor, beginning at 1.
    """
    del streams
    # As published: whether the end is among the factors is decided by rounding.
    factors = np.arange(1, end, step).tolist()
    result = images
    for factor in factors:
        result = result + zoomed(images, factor)
    return result / (len(factors) + 1)


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The middle of images, enlarged to their size, linearly between pixels."""
    height, width = images.shape[2:]
    upper, lower, down = _enlarged(height, factor, images.device)
    left, right, across = _enlarged(width, factor, images.device)
    down = down[:, None]
    rows = images[:, :, upper] * (1 - down) + images[:, :, lower] * down
    return rows[..., left] * (1 - across) + rows[..., right] * across


def _enlarged(size: int, factor: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of an axis the two it lies between, and how near it is to the second.

    Args:
        size: Pixels along the axis.
        factor: At least 1; the middle `size / factor` pixels, rounded up, fill the axis.
        device: Where to put the tensors.
    """
    kept = math.ceil(size / factor)
    start = (size - kept) // 2
    length = max(round(kept * factor), size)
    places = np.arange(length) * (kept - 1) / max(length - 1, 1)
    places = start + places[(length - size) // 2 :][:size]
    first = np.floor(places)
    near = torch.from_numpy((places - first).astype(np.float32)).to(device)
    before = torch.from_numpy(first.astype(np.int64)).to(device)
    return before, (before + 1).clamp_max(size - 1), near
