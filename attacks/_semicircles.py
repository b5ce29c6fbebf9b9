"""What CGBA and CGBA-H share: all but the way back to the boundary."""

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Steps, columns
from robustkit.attacks._dct import dimensions
from robustkit.attacks._grains import Grain, grains, noise_of
from robustkit.attacks._hunts import LabelAttack, check_at_least, check_positive
from robustkit.attacks._normals import Noise, look_around, share
from robustkit.attacks._patches import put_back
from robustkit.attacks._starts import find_starts
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models.projection import lengths

# What a kind of step that is not used gains in credit per round: the others may have run dry.
_CREDIT = 1.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Semicircles(LabelAttack):
    """Alternates between estimating the boundary's normal and moving along it; see `CGBA`."""

    norms: ClassVar[frozenset[str]] = frozenset({"l2"})

    queries: int = 5000
    noise: int = 30
    reduction: float | None = None
    common: float | None = None
    step: float = 0.02
    tolerance: float = 1.0
    tries: int = 50
    candidates: int = 30
    patches: int = 4

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        check_at_least(1, queries=self.queries, noise=self.noise, tries=self.tries)
        check_at_least(0, candidates=self.candidates, patches=self.patches)
        check_positive(step=self.step, tolerance=self.tolerance)
        if self.reduction is not None:
            check_at_least(1, reduction=self.reduction)
        if self.common is not None and not 0 <= self.common <= 1:
            raise BadInput(f"common is {self.common}; it must lie between 0 and 1, or be none.")

    def grains(self, hunt: Hunt) -> tuple[Grain, ...]:
        """The kinds of random steps that may be chosen from."""
        return grains(self.reduction, self.common, channels=hunt.clean.shape[1])

    def search(self, hunt: Hunt) -> Steps[None]:
        """Alternate between looking around and moving along the boundary."""
        yield from find_starts(hunt, tries=self.tries, better=self.candidates)
        if hunt.objective.starts is not None:
            yield from put_back(hunt, side=self.patches)
        rows = hunt.started()
        yield from hunt.towards(rows, self.gap(hunt, rows))
        drawn = torch.zeros_like(hunt.left)
        # What each kind of step gained at its last use; one that was not used yet is used first.
        rate = hunt.distance.new_full((len(hunt.clean), len(self.grains(hunt))), math.inf)
        for iteration in itertools.count(1):
            rows = hunt.started()
            counts = share(hunt.left[rows], int(self.noise * math.sqrt(iteration)))
            rows, counts = rows[counts > 0], counts[counts > 0]
            if not len(rows):
                break
            kinds = rate[rows].argmax(1)
            before, left = hunt.distance[rows], hunt.left[rows]
            scale, noise = self.step * before, self._across(hunt, rows, kinds)
            slope = yield from look_around(hunt, rows, counts, drawn, scale=scale, noise=noise)
            yield from self.advance(hunt, rows, slope)
            rate[rows] *= _CREDIT
            gain = torch.log(before / hunt.distance[rows])
            rate[rows, kinds] = gain / (left - hunt.left[rows])

    @abstractmethod
    def advance(self, hunt: Hunt, rows: Tensor, slope: Tensor) -> Steps[None]:
        """Move the points of `rows` along the boundary, given the estimated way out of the class.

        Args:
            hunt: The account.
            rows: (M,) victims.
            slope: (M, C, H, W) float64 directions of any length.
        """

    def gap(self, hunt: Hunt, rows: Tensor) -> Tensor:
        """(M,) how near to the boundary a search must come, as a length.

        A random step of length s in d dimensions leads s / sqrt(d) towards the boundary.
        """
        shape = tuple(hunt.clean.shape[1:])
        finest = max(dimensions(shape, grain.reduction) for grain in self.grains(hunt))
        return self.tolerance * self.step / math.sqrt(finest) * hunt.distance[rows]

    def _across(self, hunt: Hunt, rows: Tensor, kinds: Tensor) -> Noise:
        """Random directions of the chosen kinds, across the lines to the points of `rows`.

        A step along the line to the clean input tells nothing about the boundary's normal across
        it, and drowns what the rest of the step would tell.
        """
        choice, shape = self.grains(hunt), tuple(hunt.clean.shape[1:])
        line = hunt.point[rows] - hunt.clean[rows]
        unit = line / columns(hunt.distance[rows]).to(line.dtype)

        def noise(places: Tensor, streams: Streams, draw: Tensor) -> Tensor:
            made = noise_of(choice, kinds[places], streams, shape, draw=draw, width=hunt.width)
            forth = unit[places]
            along = (made * forth).flatten(1).sum(1, dtype=torch.float64)
            return made.addcmul_(columns(along).to(made.dtype), forth, value=-1)

        return noise


class Arc:
    """The semicircles over the lines from clean inputs to boundary points.

    The point at angle a from the line lies at r cos(a) from the clean input, r being the line's
    length, in the plane of the line and a given direction. Angles are numbers; nothing is
    normalised twice and no arc cosine is taken.

    Attributes:
        radius: (M,) float64, r.
        angle: (M,) float64 in [0, pi], between the line and the given direction.
        flat: (M,) bool: the direction is that of the line, and there is no plane.
    """

    def __init__(self, hunt: Hunt, rows: Tensor, slope: Tensor) -> None:
        """Args: the account, (M,) victims, and (M, C, H, W) float64 directions."""
        self._clean = hunt.clean[rows]
        self._line = hunt.point[rows] - self._clean
        self._boxed = hunt.boxed
        line = self._line.double()
        self.radius = lengths(line).clamp_min(1e-300)
        unit = line / columns(self.radius)
        along = (slope * unit).flatten(1).sum(1)
        across = slope - columns(along) * unit
        aside = lengths(across)
        self.angle = torch.atan2(aside, along)
        self.flat = ~(aside > 1e-12 * lengths(slope))
        side = across * columns(self.radius / aside.clamp_min(1e-300))
        self._side = side.to(self._clean.dtype)

    def __call__(self, places: Tensor, angle: Tensor) -> Tensor:
        """Points at (K,) float64 angles from the lines of (K,) places."""
        cosine, sine = angle.cos(), angle.sin()
        forth = columns(cosine * cosine).to(self._line.dtype) * self._line[places]
        aside = columns(cosine * sine).to(self._line.dtype) * self._side[places]
        return self._boxed(self._clean[places] + forth + aside)
