"""CGBA and CGBA-H: searching a decision boundary along semicircles."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Steps, columns
from robustkit.attacks._semicircles import Arc, Semicircles

# Probes at most on one semicircle.
_PROBES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class CGBA(Semicircles):
    """Curvature-aware geometric black-box attack: labels only, l2, best for untargeted goals.

    From a point on the decision boundary the boundary's normal is estimated from the labels of
    random steps. In the plane of that normal and the clean input the boundary is then followed
    along the semicircle over the line from the clean input to the point, all of which is nearer
    than the point; where the boundary cuts the semicircle lies the next point.

    Attributes:
        queries: Queries per example where the threat model sets no budget. A budget is spent whole,
            but for a last query that could decide nothing.
        noise: Random steps in the first round; round i takes sqrt(i) times as many.
        reduction: Random steps use only the lowest 1 / `reduction` of the frequencies along each
            axis. None: 4, 2 or 1, chosen anew in every round for every image by what each last
            gained.
        common: Share of a random step's variance that all channels have in common, from 0, where
            each channel changes by itself, to 1, where steps are grey. None: 0.75, or for the
            finest steps 0, chosen likewise.
        step: Length of a random step, relative to the distance.
        tolerance: How near to the boundary a search comes, in units of what a random step leads
            towards it.
        tries: Random images tried as a start before an example is given up.
        candidates: Further directions looked at for a nearer start, for one query each.
        patches: Where the adversary owns images: patches along each side of a start that are put
            back one by one, for one query each; 0 leaves it whole.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Reza, Rahmati, Wu, Dai: CGBA: curvature-aware geometric black-box attack. ICCV 2023.

    Differs from the reference:
        All images are searched together, each with its own account. Every point that is asked about
        lies in the value range, and the result is one of them that was answered as wanted; the
        reference clips its last point and does not ask again. The angle on the semicircle is a
        number that is bisected between the last probe that held and the first that did not; the
        reference takes arc cosines of rounded products and starts again at angle zero. Distances,
        steps and tolerances are relative to the distance, in the units of the inputs; there they
        are fixed, in normalised units. Random steps go across the line to the clean input, where
        the reference lets them go along it too: a step along the line hides what the rest would
        tell. Channels mostly change together: networks follow brightness more than colour, and a
        direction is found the sooner the fewer there are to look through. Answers are weighed
        against their average. Frequencies and colours are chosen per image and round.
        Starts are of growing noise of several grains, limited in number, and compared by one query
        each; of an image that the adversary owns only the patches that it needs are kept. The last
        round is cut so that the budget is spent. Success is by the data's label.

    Example:
        >>> CGBA(reduction=2).queries
        5000
    """

    def advance(self, hunt: Hunt, rows: Tensor, slope: Tensor) -> Steps[None]:
        """Follow the semicircles outwards until the boundary, then bisect; see `Semicircles`."""
        arc = Arc(hunt, rows, slope)
        good = torch.zeros_like(arc.radius)
        bad = torch.full_like(arc.radius, math.pi / 2)
        busy = ~arc.flat
        for probe in range(1, _PROBES + 1):
            places = (busy & (hunt.left[rows] > 0)).nonzero()[:, 0]
            if not len(places):
                break
            angle = torch.full_like(good[places], math.pi / 2 * (1 - 0.5**probe))
            won = yield from hunt.try_out(arc(places, angle), rows[places])
            good[places] = torch.where(won, angle, good[places])
            bad[places] = torch.where(won, bad[places], angle)
            busy[places] = won
        curved = (~arc.flat).nonzero()[:, 0]
        yield from hunt.bisect(
            rows[curved],
            lambda places, angle: arc(curved[places], angle),
            good=good[curved],
            bad=bad[curved],
            gap=(self.gap(hunt, rows) / arc.radius)[curved],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CGBAH(Semicircles):
    """CGBA-H: the CGBA for boundaries of high curvature, best for targeted goals.

    As `CGBA`, but the semicircle is searched from half-way between the estimated normal and the
    line, back towards the boundary point, until the objective is reached; the boundary is then met
    on the straight line from there to the clean input.

    Attributes:
        queries: As for `CGBA`, like all others.
        noise: Random steps in the first round.
        reduction: By what the frequencies of random steps are divided; None chooses.
        common: What channels change together; None chooses.
        step: Length of a random step, relative to the distance.
        tolerance: How near to the boundary a search comes.
        tries: Random images tried as a start where the adversary owns none.
        candidates: Further directions looked at for a nearer start.
        patches: Patches along each side of a start that are put back one by one.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Reza, Rahmati, Wu, Dai: CGBA: curvature-aware geometric black-box attack. ICCV 2023.

    Differs from the reference:
        As `CGBA` does. A targeted search starts from the adversary's images of the target class:
        the nearest of several, each compared with the best so far for one query, of which only the
        patches that it needs are kept; the reference takes one image at random, and all of it.
        Where no probe holds the point stays where it is.

    Example:
        >>> CGBAH(reduction=4, common=1).reduction
        4
    """

    def advance(self, hunt: Hunt, rows: Tensor, slope: Tensor) -> Steps[None]:
        """Retreat along the semicircles until the objective is reached; see `Semicircles`."""
        arc = Arc(hunt, rows, slope)
        gap = self.gap(hunt, rows)
        ends = hunt.point[rows].clone()
        busy, found = ~arc.flat, torch.zeros_like(arc.flat)
        for probe in range(1, _PROBES + 1):
            places = (busy & (hunt.left[rows] > 0)).nonzero()[:, 0]
            if not len(places):
                break
            points = arc(places, arc.angle[places] * 0.5**probe)
            won = yield from hunt.try_out(points, rows[places])
            ends[places] = torch.where(columns(won), points, ends[places])
            busy[places], found[places] = ~won, won
        places = found.nonzero()[:, 0]
        yield from hunt.towards(rows[places], gap[places], ends=ends[places])
