"""Corruptions by weather and light: snow, frost, fog, brightness."""

import torch
from torch import Tensor

from robustkit.corruptions.blur import smeared, zoomed
from robustkit.corruptions.textures import frost_texture, plasma
from robustkit.randomness import Streams

# How bright red, green and blue look (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)


def snow(
    images: Tensor,
    streams: Streams,
    mean: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> Tensor:
    """Flakes that fall in a random direction, on a whitened image.

    Args:
        images: (N, C, H, W).
        streams: One per image.
        mean: Of the normal noise that the flakes are made from.
        scale: Its standard deviation.
        zoom: How far the noise is enlarged.
        threshold: Noise below it is no flake.
        radius: Of the flakes' motion, in pixels.
        sigma: Of the flakes' motion, in pixels.
        kept: Share of the image that is not whitened.

    Differs from the reference:
        The flakes are not rounded to bytes. Images that do not have three channels are whitened by
        the mean of their channels.
    """
    height, width = images.shape[2:]
    noise = streams.fork("flakes").normal((1, height, width)) * scale + mean
    layer = zoomed(noise, zoom)
    layer = layer.where(layer >= threshold, torch.zeros_like(layer)).clamp(0, 1)
    flakes = smeared(layer, streams.fork("wind").uniform((), -135.0, -45.0), radius, sigma)
    white = images.maximum(_grey(images) * 1.5 + 0.5)
    return images * kept + white * (1 - kept) + flakes + flakes.flip((2, 3))


def _grey(images: Tensor) -> Tensor:
    channels = images.shape[1]
    weights = _GREY if channels == 3 else (1 / channels,) * channels
    grey = torch.zeros_like(images[:, :1])
    for channel, weight in enumerate(weights):
        grey = grey + images[:, channel : channel + 1] * weight
    return grey


def frost(images: Tensor, streams: Streams, kept: float, ice: float) -> Tensor:
    """Ice crystals, as on a window in front of the scene.

    Args:
        images: (N, C, H, W).
        streams: One per image.
        kept: Weight of the image.
        ice: Weight of the crystals.

    Differs from the reference:
        The published sets lay five photographs of ice over the images, which may not be passed on
        freely. Here each image gets crystals of its own, computed to cover about as much at the
        same weights; accuracies under frost are not comparable with published ones.
    """
    channels, height, width = images.shape[1:]
    return images * kept + frost_texture(streams, channels, height, width) * ice


def fog(images: Tensor, streams: Streams, thickness: float, decay: float) -> Tensor:
    """Banks of fog; the brightest place keeps its brightness.

    Args:
        images: (N, C, H, W).
        streams: One per image.
        thickness: How bright the fog is at its thickest.
        decay: How fast its detail fades from scale to scale.
    """
    height, width = images.shape[2:]
    banks = plasma(streams, height, width, decay)[:, None] * thickness
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + banks) * brightest / (brightest + thickness)


def brightness(images: Tensor, streams: Streams, added: float) -> Tensor:
    """More light: the value of each pixel's colour, as HSV has it, is raised.

    Args:
        images: (N, C, H, W); with any number of channels the largest is a pixel's value.
        streams: Not used.
        added: How much is added to the value, which ends at 1.
    """
    del streams
    value = images.amax(1, keepdim=True)
    raised = (value + added).clamp(0, 1)
    # Black has no hue: it becomes grey.
    return torch.where(value > 0, images * (raised / value.clamp_min(1e-12)), raised)
