"""What the adversary may change: perturbation sets.

A set answers four questions about a batch of clean and changed inputs, each row by itself. Inputs
are (N, C, H, W) float32. Distances are computed in float64, so that the verdict does not depend on
the order in which a device adds numbers.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models.projection import (
    lengths,
    project_l0,
    project_l1,
    project_l2,
    shifted,
)

Norm = Literal["linf", "l2", "l1", "l0"]
NORMS: tuple[Norm, ...] = get_args(Norm)

_EPS32 = torch.finfo(torch.float32).eps


@runtime_checkable
class PerturbationSet(Protocol):
    """The changed inputs that an adversary may choose from, given the clean ones."""

    @property
    def norm(self) -> str:
        """The name attacks are matched by: a norm, or the kind of change (`patch`)."""
        ...

    @property
    def radius(self) -> float:
        """How far a changed input may lie from the clean one, in the unit of `distance`."""
        ...

    @property
    def low(self) -> float:
        """The smallest allowed value."""
        ...

    @property
    def high(self) -> float:
        """The largest allowed value."""
        ...

    def distance(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(N,) float64: how far each row was changed; NaN or infinite rows are infinitely far."""
        ...

    def contains(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(N,) bool: whether each changed row is allowed, up to rounding."""
        ...

    def in_box(self, changed: Tensor) -> Tensor:
        """(N,) bool: whether all values of each row are finite and in the value range."""
        ...

    def project(self, clean: Tensor, changed: Tensor) -> Tensor:
        """Like `clean`: an allowed point near each changed row."""
        ...

    def sample(self, clean: Tensor, *, streams: Streams) -> Tensor:
        """Like `clean`: a random allowed point for each row."""
        ...


def in_range(changed: Tensor, low: float, high: float) -> Tensor:
    """(N,) bool: every value finite and in the range; outside by one bit is outside."""
    # NaN fails both comparisons; infinity passes one where the range itself is infinite.
    inside = (changed >= low) & (changed <= high) & changed.isfinite()
    return inside.flatten(1).all(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LpBall:
    """All images within `radius` of the clean one in an Lp norm, inside the value range.

    Attributes:
        norm: `linf`, `l2`, `l1`, or `l0` (changed pixels; a pixel counts once for all channels).
        radius: In units of the inputs ([0, 1] images: 8/255); pixels for `l0`. May be infinite.
        low: Smallest allowed value.
        high: Largest allowed value.

    Raises:
        BadInput: Unknown norm, negative or NaN radius, empty range.

    Example:
        >>> ball = LpBall(norm="linf", radius=8 / 255)
        >>> clean = torch.rand(4, 3, 32, 32)
        >>> bool(ball.contains(clean, ball.project(clean, torch.rand_like(clean))).all())
        True
    """

    norm: Norm
    radius: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.norm not in NORMS:
            raise BadInput(f"The norm {self.norm!r} is unknown. Use one of: {', '.join(NORMS)}.")
        if not self.radius >= 0:
            raise BadInput(f"The radius is {self.radius}. It must be a number, 0 or larger.")
        if not self.low < self.high:
            raise BadInput(f"The value range [{self.low}, {self.high}] is empty.")

    def distance(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(N,) float64 norm of the change (`l0`: number of changed pixels)."""
        change = changed.double() - clean.double()
        if self.norm == "l0":
            distance = (change != 0).any(1).flatten(1).sum(1).double()
            finite = change.isfinite().flatten(1).all(1)
        else:
            order = {"linf": torch.inf, "l2": 2, "l1": 1}[self.norm]
            distance = torch.linalg.vector_norm(change.flatten(1), order, dim=1)
            # No norm of a finite float32 image overflows.
            finite = distance.isfinite()
        return distance.where(finite, torch.inf)

    def slack(self, clean: Tensor) -> float:
        """How far outside the radius rounding may take images of this size."""
        size: int = clean.shape[1:].numel()
        return {"linf": 4 * _EPS32, "l0": 0.0}.get(self.norm, 4 * _EPS32 * math.sqrt(size))

    def contains(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(N,) bool: in range and within radius + 4 eps32 (linf), 4 eps32 sqrt(d) (l2, l1)."""
        near: Tensor = self.distance(clean, changed) <= self.radius + self.slack(clean)
        return self.in_box(changed) & near

    def in_box(self, changed: Tensor) -> Tensor:
        """(N,) bool: every value finite and in [low, high]."""
        return in_range(changed, self.low, self.high)

    def project(self, clean: Tensor, changed: Tensor) -> Tensor:
        """Like `clean`: the nearest allowed point.

        The Euclidean projection onto ball and range together for linf, l1 and l0. For l2 the point
        is pulled along the line to the clean image and then clamped, which never leaves the ball.
        """
        if self.norm == "linf":
            near = clean - self.radius, clean + self.radius
            return changed.clamp(self.low, self.high).clamp_(*near)
        if self.norm == "l2":
            change = project_l2(changed - clean, self.radius)
            return change.add_(clean).clamp_(self.low, self.high)
        if self.norm == "l0":
            inside = changed.clamp(self.low, self.high)
            return torch.where(project_l0(inside - clean, self.radius) != 0, inside, clean)
        room = (self.low - clean, self.high - clean)
        change = project_l1(changed - clean, self.radius, lowest=room[0], highest=room[1])
        return shifted(clean, change).clamp_(self.low, self.high)

    def sample(self, clean: Tensor, *, streams: Streams) -> Tensor:
        """Like `clean`: uniform in the ball (l0: on random pixels), then brought into range."""
        shape = tuple(clean.shape[1:])
        size = clean.shape[1:].numel()
        if self.norm == "linf":
            noise = streams.uniform(shape, -1.0, 1.0) * min(self.radius, self.high - self.low)
            return self.project(clean, clean + noise)
        if self.norm == "l0":
            order = streams.fork("pixels").permutation(size // shape[0]).reshape(-1, 1, *shape[1:])
            random = streams.uniform(shape, self.low, self.high)
            return torch.where(order + 1 <= self.radius, random, clean)
        scale = streams.fork("radius").uniform((1, 1, 1)) ** (1 / size)
        if self.norm == "l2":
            noise = streams.normal(shape)
            length = lengths(noise)
        else:
            noise = -torch.log1p(-streams.uniform(shape)) * streams.fork("signs").signs(shape)
            length = noise.abs().flatten(1).sum(1, dtype=torch.float64)
        widest = (self.high - self.low) * size
        factor = (min(self.radius, widest) / length.clamp_min(1e-30)).float()
        noise = noise * scale * factor.reshape(-1, 1, 1, 1)
        return self.project(clean, clean + noise)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """Any change inside one rectangle, anywhere in the image.

    Attributes:
        height: Rows of the rectangle, in pixels.
        width: Columns of the rectangle, in pixels.
        low: Smallest allowed value.
        high: Largest allowed value.
    """

    height: int
    width: int
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.height < 0 or self.width < 0:
            raise BadInput(
                f"The patch is {self.height} x {self.width} pixels; both must be 0 or larger."
            )
        if not self.low < self.high:
            raise BadInput(f"The value range [{self.low}, {self.high}] is empty.")

    @property
    def norm(self) -> str:
        """`patch`."""
        return "patch"

    @property
    def radius(self) -> float:
        """The rectangle's area in pixels."""
        return float(self.height * self.width)

    def distance(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(N,) float64: pixels in the smallest rectangle around all changes."""
        height, width = self._extent(clean, changed)
        area = (height * width).double()
        return area.where(changed.isfinite().flatten(1).all(1), torch.inf)

    def contains(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(N,) bool: all changes fit into the rectangle and the value range."""
        height, width = self._extent(clean, changed)
        return self.in_box(changed) & (height <= self.height) & (width <= self.width)

    def in_box(self, changed: Tensor) -> Tensor:
        """(N,) bool: every value finite and in [low, high]."""
        return in_range(changed, self.low, self.high)

    def project(self, clean: Tensor, changed: Tensor) -> Tensor:
        """Like `clean`: keeps the rectangle that holds most of the squared change."""
        inside = changed.clamp(self.low, self.high)
        height, width = self._fitted(clean)
        if not (height and width):
            return clean.clone()
        # In float64, or a window that misses a faint change would tie with one that holds it.
        energy = (inside - clean).double().square().sum(1, keepdim=True)
        window = F.avg_pool2d(energy, (height, width), stride=1)
        return torch.where(self._mask(clean, window.flatten(1).argmax(1)), inside, clean)

    def sample(self, clean: Tensor, *, streams: Streams) -> Tensor:
        """Like `clean`: uniform values in a rectangle at a random place."""
        height, width = self._fitted(clean)
        if not (height and width):
            return clean.clone()
        places = (clean.shape[2] - height + 1) * (clean.shape[3] - width + 1)
        place = streams.fork("place").integers(places)
        random = streams.uniform(tuple(clean.shape[1:]), self.low, self.high)
        return torch.where(self._mask(clean, place), random, clean)

    def _fitted(self, clean: Tensor) -> tuple[int, int]:
        return min(self.height, clean.shape[2]), min(self.width, clean.shape[3])

    def _mask(self, clean: Tensor, place: Tensor) -> Tensor:
        """(N, 1, H, W) bool: the rectangle whose upper left corner has the flat index `place`."""
        height, width = self._fitted(clean)
        columns = clean.shape[3] - width + 1
        top = (place // columns).reshape(-1, 1, 1, 1)
        left = (place % columns).reshape(-1, 1, 1, 1)
        y = torch.arange(clean.shape[2], device=clean.device).reshape(1, 1, -1, 1)
        x = torch.arange(clean.shape[3], device=clean.device).reshape(1, 1, 1, -1)
        return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)

    @staticmethod
    def _extent(clean: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) height and width of the smallest rectangle around the changed pixels."""
        touched = (changed != clean).any(1)
        sides = []
        for along in (touched.any(2), touched.any(1)):
            last = along.shape[1] - 1 - along.flip(1).int().argmax(1)
            sides.append(torch.where(along.any(1), last - along.int().argmax(1) + 1, 0))
        return sides[0], sides[1]
