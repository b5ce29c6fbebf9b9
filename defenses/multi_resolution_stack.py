"""Several blurred, shifted and noisy versions of one image, stacked as channels."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.errors import BadInput, ShapeMismatch
from robustkit.randomness import Streams

Range = tuple[float, ...]
# Weights of red, green and blue in a grey image (ITU-R BT.601, as torchvision has them).
_GREY = (0.2989, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class MultiResolutionStack:
    """Turns (N, C, H, W) images into (N, C R, S, S) stacks of R versions, each drawn by itself.

    For each resolution: the contrast is changed, the image shifted around its borders, mixed with
    its grey image, brought to that resolution, noise added, brought to the side of the stack, noise
    added, and values outside [0, 1] cut off. Both changes of size are bicubic.

    All draws come from the streams of the examples: the same streams give the same stack, bit for
    bit, and no global generator is touched.

    Attributes:
        resolutions: The heights of the versions in pixels, at most the images' own.
        side: Height of the stack; None keeps that of the images.
        jitter: Largest shift along each axis, in pixels.
        contrast: Lowest and highest factor; none takes the factor drawn for `colour`.
        colour: Lowest and highest share of the image in the mixture with its grey image.
        levels: So many equally spaced factors can be drawn, ends included; 0 draws any number.
        low_noise: Size of the noise at the low resolution.
        high_noise: Size of the noise at the side of the stack.
        noise: `normal`, with the size as standard deviation, or `uniform` from 0 to the size.

    Raises:
        BadInput: A value that means nothing.

    Reference:
        Fort, Lakshminarayanan: Ensemble everything everywhere: multi-scale aggregation for
        adversarial robustness. 2024.

    Differs from the reference:
        Noise is normal and has no mean, as the text says; the authors' notebook draws it uniformly
        from 0 upwards, which brightens every version twice. Contrast has a range of its own, which
        the notebook overwrites. `notebook` brings both back.

    Example:
        >>> stack = MultiResolutionStack(resolutions=(8, 4), jitter=1)
        >>> streams = Streams.of(seed=0, ids=torch.arange(2))
        >>> stack(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), streams).shape
        torch.Size([2, 6, 8, 8])
    """

    resolutions: tuple[int, ...] = (32, 16, 8, 4)
    side: int | None = None
    jitter: int = 3
    contrast: Range = (0.7, 1.5)
    colour: Range = (0.5, 1.0)
    levels: int = 0
    low_noise: float = 0.2
    high_noise: float = 0.2
    noise: Literal["normal", "uniform"] = "normal"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not self.resolutions or min(self.resolutions) < 1:
            raise BadInput(
                f"The stack's resolutions are {self.resolutions}; give one or more, each at least "
                "1 pixel."
            )
        if self.side is not None and self.side < 1:
            raise BadInput(f"The stack's side is {self.side}; give at least 1 pixel, or none.")
        if self.jitter < 0 or self.levels < 0 or self.levels == 1:
            raise BadInput(
                f"The stack's jitter is {self.jitter} and its levels are {self.levels}; give 0 or "
                "more pixels, and 0, 2 or more levels."
            )
        _check_range("contrast", self.contrast, most=float("inf"), optional=True)
        _check_range("colour", self.colour, most=1.0, optional=False)
        if not (0 <= self.low_noise < float("inf") and 0 <= self.high_noise < float("inf")):
            raise BadInput(
                f"The stack's noises are {self.low_noise} and {self.high_noise}; give 0 or more."
            )
        if self.noise not in ("normal", "uniform"):
            raise BadInput(f"The stack's noise is {self.noise!r}; use normal or uniform.")

    @staticmethod
    def notebook() -> "MultiResolutionStack":
        """As the authors' notebook does it for images of 32 px, faults included.

        One draw serves as contrast and as colour, so that contrast is never raised; noise lies in
        [0, 0.2], a mean shift of 0.1 at each resolution.
        """
        return MultiResolutionStack(contrast=(), levels=100, noise="uniform")

    @property
    def random(self) -> bool:
        """Whether two stacks of one image can differ."""
        ranges = any(low != high for low, high in (self.colour, self.contrast or self.colour))
        return bool(self.jitter or self.low_noise or self.high_noise or ranges)

    def __call__(self, inputs: Tensor, streams: Streams | None = None) -> Tensor:
        """The stacks.

        Args:
            inputs: (N, C, H, W) in [0, 1], N > 0.
            streams: One per row; may be None only where nothing is `random`.

        Raises:
            BadInput: A resolution above that of the images, or no streams.
            ShapeMismatch: No batch of images, or another number of streams.
        """
        streams = self._check(inputs, streams)
        views = self._coloured(self._shifted(self._contrasted(inputs, streams), streams), streams)
        height, width = inputs.shape[-2:]
        side = self.side or height
        stacked = []
        for place, (view, resolution) in enumerate(
            zip(views.unbind(1), self.resolutions, strict=True)
        ):
            small = _resized(view, _scaled(resolution, height, width))
            small = self._noisy(small, self.low_noise, streams.fork("low noise"), place)
            large = _resized(small, _scaled(side, height, width))
            large = self._noisy(large, self.high_noise, streams.fork("high noise"), place)
            stacked.append(large.clamp(0, 1))
        return torch.cat(stacked, dim=1)

    def _check(self, inputs: Tensor, streams: Streams | None) -> Streams:
        if inputs.ndim != 4:
            raise ShapeMismatch(f"Images have shape (N, C, H, W), not {tuple(inputs.shape)}.")
        if max(self.resolutions) > inputs.shape[2]:
            raise BadInput(
                f"The stack has a version of {max(self.resolutions)} px, and the images are "
                f"{inputs.shape[2]} px high. Give resolutions up to that."
            )
        if streams is None:
            if self.random:
                raise BadInput("The stack draws at random: give one stream per image.")
            streams = Streams.of(seed=0, ids=torch.arange(len(inputs), device=inputs.device))
        if len(streams) != len(inputs):
            raise ShapeMismatch(f"{len(streams)} streams came for {len(inputs)} images.")
        return streams

    def _contrasted(self, inputs: Tensor, streams: Streams) -> Tensor:
        """(N, R, C, H, W): images drawn towards their mean grey, or away from it."""
        factor = self._factors("contrast" if self.contrast else "colour", streams)
        weights = inputs.new_tensor(_GREY) if inputs.shape[1] == 3 else inputs.new_ones(1)
        weights = weights.expand(inputs.shape[1]) / (1 if inputs.shape[1] == 3 else inputs.shape[1])
        grey = torch.einsum("nchw,c->n", inputs, weights) / inputs[0, 0].numel()
        mean = grey.view(-1, 1, 1, 1, 1)
        return (factor * inputs[:, None] + (1 - factor) * mean).clamp(0, 1)

    def _shifted(self, views: Tensor, streams: Streams) -> Tensor:
        """The views, each rolled along both axes."""
        if not self.jitter:
            return views
        count = len(self.resolutions)
        shifts = streams.fork("jitter").integers(2 * self.jitter + 1, (2, count)) - self.jitter
        for axis, by in zip((3, 4), shifts.unbind(1), strict=True):
            size = views.shape[axis]
            places = (torch.arange(size, device=views.device) - by[..., None]) % size
            index = places.view(len(views), count, 1, *((size, 1) if axis == 3 else (1, size)))
            views = views.gather(axis, index.expand_as(views))
        return views

    def _coloured(self, views: Tensor, streams: Streams) -> Tensor:
        """The views mixed with their grey images."""
        share = self._factors("colour", streams)
        return share * views + (1 - share) * views.mean(2, keepdim=True)

    def _factors(self, what: Literal["contrast", "colour"], streams: Streams) -> Tensor:
        """(N, R, 1, 1, 1) one factor for each version of each image."""
        low, high = getattr(self, what)
        own, shape = streams.fork(what), (len(self.resolutions),)
        if self.levels:
            drawn = own.integers(self.levels, shape) / (self.levels - 1)
        else:
            drawn = own.uniform(shape)
        factors: Tensor = low + (high - low) * drawn
        return factors.view(*drawn.shape, 1, 1, 1)

    def _noisy(self, view: Tensor, size: float, streams: Streams, place: int) -> Tensor:
        if not size:
            return view
        shape = tuple(view.shape[1:])
        draw = streams.normal if self.noise == "normal" else streams.uniform
        return view + size * draw(shape, draw=place)


def _scaled(resolution: int, height: int, width: int) -> tuple[int, int]:
    """The size of a version; images that are not square keep their proportions."""
    return resolution, max(1, round(resolution * width / height))


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic")


def _check_range(what: str, given: Range, *, most: float, optional: bool) -> None:
    if optional and not given:
        return
    if len(given) != 2 or not 0 <= given[0] <= given[1] <= most:
        upper = "" if most == float("inf") else f", at most {most:g}"
        raise BadInput(
            f"The stack's {what} is {given}; give the lowest and the highest factor, from 0 "
            f"upwards{upper}."
        )
