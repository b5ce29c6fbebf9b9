"""Filtered images: the perturbation set of data that was convolved before its release."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models.perturbation import in_range

# Of the largest eigenvalue of the normal equations: what lies below it changes no byte.
_RANK = 1e-12
# Bytes of shifted images that are held at once.
_WORKSPACE = 32 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Convolutions:
    """Every image that one small filter makes of the clean one, up to the rounding of bytes.

    The filter has `kernel` x `kernel` taps of any size and sign, the same for all channels; pixels
    outside the image are nought. A filter that is scaled is a filter, so that images which were
    brightened afterwards belong to the set too.

    How far an image lies from the set is what its best filter leaves unexplained: the least squares
    of each image, root mean square over its values. Rounding to bytes, up or down, leaves at most
    one level, and leaves no more to the best filter than to the one that was used; so nothing that
    was only filtered and rounded is ever refused.

    Attributes:
        kernel: Rows and columns of the filter; odd.
        low: Smallest allowed value.
        high: Largest allowed value.

    Raises:
        BadInput: An even or too small kernel, or a range without the nought of the padding.

    Example:
        >>> blurs = Convolutions(kernel=3)
        >>> clean = torch.rand(4, 3, 8, 8)
        >>> bool(blurs.contains(clean, F.avg_pool2d(clean, 3, 1, 1)).all())
        True
        >>> bool(blurs.contains(clean, clean.flip(3)).any())
        False
    """

    kernel: int
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise BadInput(
                f"The kernel is {self.kernel}. It must be an odd number, 1 or larger: a filter "
                "has a centre, and the image keeps its size."
            )
        if not self.low <= 0 <= self.high or not self.low < self.high:
            raise BadInput(
                f"The value range [{self.low}, {self.high}] must hold 0, with which images are "
                "padded, and more."
            )

    @property
    def norm(self) -> str:
        """`convolution`."""
        return "convolution"

    @property
    def radius(self) -> float:
        """One level of a byte."""
        return (self.high - self.low) / 255

    def distance(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(N,) float64: root mean square of what the best filter does not explain."""
        distance = clean.new_empty(len(clean), dtype=torch.float64)
        for rows in self._parts(clean):
            rest = changed[rows].double() - self._fitted(clean[rows], changed[rows])
            distance[rows] = rest.square().flatten(1).mean(1).sqrt()
        # NaN and infinity are infinitely far.
        return distance.nan_to_num(torch.inf, torch.inf, torch.inf)

    def contains(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(N,) bool: in range, and explained by one filter up to a level of a byte."""
        near: Tensor = self.distance(clean, changed) <= self.radius
        return self.in_box(changed) & near

    def in_box(self, changed: Tensor) -> Tensor:
        """(N,) bool: every value finite and in [low, high]."""
        return in_range(changed, self.low, self.high)

    def project(self, clean: Tensor, changed: Tensor) -> Tensor:
        """Like `clean`: the best filter's image, pulled towards the clean one until in range.

        Every point between two filtered images is a filtered image.
        """
        fitted = torch.cat(
            [self._fitted(clean[rows], changed[rows]) for rows in self._parts(clean)]
        )
        origin = clean.double()
        change = fitted - origin
        end = torch.where(change > 0, self.high, self.low)
        room = torch.where(change == 0, torch.inf, (end - origin) / change)
        share = room.flatten(1).amin(1).clamp(0, 1).reshape(-1, 1, 1, 1)
        return (origin + share * change).clamp(self.low, self.high).to(clean.dtype)

    def sample(self, clean: Tensor, *, streams: Streams) -> Tensor:
        """Like `clean`: filtered with uniform taps that add up to one."""
        taps = streams.uniform((self.kernel**2,)).double() + 1e-9
        taps = taps / taps.sum(1, keepdim=True)
        parts = [
            (self._shifted(clean[rows]) @ taps[rows, :, None])[..., 0]
            for rows in self._parts(clean)
        ]
        drawn = torch.cat(parts).reshape(clean.shape)
        return drawn.clamp(self.low, self.high).to(clean.dtype)

    def _fitted(self, clean: Tensor, changed: Tensor) -> Tensor:
        """Like `clean`, float64: what the filter of least squares makes of each image."""
        shifted = self._shifted(clean)
        wanted = changed.double().nan_to_num(0, 0, 0).flatten(1)[..., None]
        normal: Tensor = torch.linalg.pinv(shifted.mT @ shifted, rtol=_RANK, hermitian=True)
        taps = normal @ (shifted.mT @ wanted)
        return (shifted @ taps).reshape(clean.shape)

    def _shifted(self, clean: Tensor) -> Tensor:
        """(N, C * H * W, kernel**2) float64: the image under every tap."""
        half = self.kernel // 2
        height, width = clean.shape[2:]
        padded = F.pad(clean.double(), (half, half, half, half))
        views = [
            padded[:, :, top : top + height, left : left + width].flatten(1)
            for top, left in product(range(self.kernel), repeat=2)
        ]
        return torch.stack(views, dim=2)

    def _parts(self, clean: Tensor) -> Iterator[slice]:
        size = 8 * clean.shape[1:].numel() * self.kernel**2
        step = max(1, _WORKSPACE // max(size, 1))
        # No rows are one empty part.
        for start in range(0, max(len(clean), 1), step):
            yield slice(start, start + step)
