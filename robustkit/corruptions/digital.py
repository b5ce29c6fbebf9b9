"""Corruptions by processing: contrast, elastic deformation, coarse pixels, JPEG."""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustkit.corruptions.exact import along, boxes, gaussian, mean, sampled
from robustkit.randomness import Streams


def contrast(images: Tensor, streams: Streams, factor: float) -> Tensor:
    """Less contrast: each channel drawn together around its mean.

    Args:
        images: (N, C, H, W).
        streams: Not used.
        factor: What remains of the contrast.
    """
    del streams
    middle = mean(images)
    return (images - middle) * factor + middle


def elastic_transform(
    images: Tensor, streams: Streams, strength: float, sigma: float, affine: float
) -> Tensor:
    """Two deformations, one after the other: an affine one, and a smooth random one.

    Args:
        images: (N, C, H, W).
        streams: One per image.
        strength: Factor of the smooth displacements, in pixels.
        sigma: How smooth they are: standard deviation of a Gaussian blur, in pixels.
        affine: How far each of three points around the middle may move, in pixels.

    Reference:
        Simard, Steinkraus, Platt: Best practices for convolutional neural networks applied to
        visual document analysis. ICDAR 2003.
    """
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device, dtype=torch.float32)[:, None]
    x = torch.arange(width, device=images.device, dtype=torch.float32)
    images = _affine(images, streams.fork("affine").uniform((3, 2), -affine, affine), y, x)
    noise = streams.fork("elastic").uniform((2, height, width), -1.0, 1.0)
    rows = gaussian(height, sigma, 3.0, "symmetric")
    columns = gaussian(width, sigma, 3.0, "symmetric")
    moves = along(noise, rows, columns) * strength
    return sampled(images, y + moves[:, 0], x + moves[:, 1], "symmetric")


def _affine(images: Tensor, moves: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Map three points, a third of the shorter side from the middle, to where they move.

    Args:
        images: (N, C, H, W).
        moves: (N, 3, 2) in pixels, right and down, of the points at the lower right, the upper
            right and the upper left.
        y: (H, 1) every row's number.
        x: (W,) every column's number.
    """
    height, width = images.shape[2:]
    reach = min(height, width) // 3
    if not reach:
        return images
    lower, upper, far = moves[:, 0], moves[:, 1], moves[:, 2]
    # The linear part sends (1, 0) and (0, 1) to these columns.
    right = (upper - far) / (2 * reach) + torch.tensor([1.0, 0.0], device=images.device)
    down = (lower - upper) / (2 * reach) + torch.tensor([0.0, 1.0], device=images.device)
    determinant = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]
    shift = (lower + far) / 2
    # Backwards: for each pixel of the result, where it comes from.
    dy = y - (height // 2) - shift[:, 1, None, None]
    dx = x - (width // 2) - shift[:, 0, None, None]
    scale = determinant[:, None, None]
    source_x = (down[:, 1, None, None] * dx - down[:, 0, None, None] * dy) / scale
    source_y = (right[:, 0, None, None] * dy - right[:, 1, None, None] * dx) / scale
    return sampled(images, source_y + height // 2, source_x + width // 2, "mirror")


def pixelate(images: Tensor, streams: Streams, factor: float) -> Tensor:
    """Fewer pixels, then as many as before.

    Args:
        images: (N, C, H, W).
        streams: Not used.
        factor: What remains of each side.

    Differs from the reference:
        Nothing is rounded to bytes between the two steps. Of two places between which a pixel lies
        exactly in the middle it counts to the first; Pillow, which made the published sets, lets
        rounding decide.
    """
    del streams
    height, width = images.shape[2:]
    small = max(1, int(height * factor)), max(1, int(width * factor))
    fewer = along(images, boxes(height, small[0]), boxes(width, small[1]))
    return along(fewer, boxes(small[0], height), boxes(small[1], width))


def jpeg_compression(images: Tensor, streams: Streams, quality: float) -> Tensor:
    """Coded as JPEG and decoded.

    Args:
        images: (N, C, H, W); three channels are one colour image, any other number as many grey
            ones.
        streams: Not used.
        quality: As coders count it, 1 to 100.
    """
    del streams
    colour = images.shape[1] == 3
    pictures = images.permute(0, 2, 3, 1) if colour else images.flatten(0, 1)
    # On the CPU whatever the device: a coder for GPUs would give other bits.
    stored = (pictures.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
    coded = torch.from_numpy(np.stack([_coded(picture, int(quality)) for picture in stored]))
    decoded = coded.permute(0, 3, 1, 2) if colour else coded.reshape(images.shape)
    return decoded.to(images.device, images.dtype) / 255


def _coded(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """(H, W, 3) or (H, W) pixels after JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))
