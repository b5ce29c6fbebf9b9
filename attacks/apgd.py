"""Auto-PGD: projected gradient descent that chooses its own step sizes."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from robustkit.attacks._aims import lead, most_likely_wrong, nearest_wrong
from robustkit.attacks._balls import columns, project, sparse_step
from robustkit.attacks._checkpoints import (
    Run,
    first_density,
    first_stretch,
    halve,
    hopeless,
    thin_out,
)
from robustkit.attacks.losses import LOSSES, AttackLoss, margin
from robustkit.attacks.rows import Rows
from robustkit.attacks.steps import even_shift, reach, steepest
from robustkit.attacks.stepwise import Stepwise
from robustkit.errors import BadInput
from robustkit.threat_models import Gradients, PerturbationSet

Ranking = Literal["likely", "nearest"]

# Share of the new step in a move; the rest repeats the move before.
_NEW = 0.75
# In l1, the share of the steps that is spent in each of the two wide balls.
_WIDE = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class APGD(Stepwise[Run]):
    """Auto-PGD in linf, l2 and l1, untargeted or by way of the most likely wrong classes.

    The step starts at two times the radius (l1: one) and is made shorter for each example by
    itself, at checkpoints at which its loss has not risen often enough or not at all; the search
    then goes on from the best point so far. In l1, steps move only the values with the largest
    gradients, as many as the best point calls for.

    An example leaves at its first success. With `targets` of k, the attempts aim in turn at the k
    wrong classes that the model finds most likely on the clean image, which takes one pass more;
    the goal stays any wrong class. Where the goal itself names a class, every attempt aims at that.

    Attributes:
        steps: Steps per attempt. Each takes one gradient; an attempt that another one follows takes
            one more, to see where its last step led, and so does each wide ball.
        loss: `cross-entropy`, `margin` or `dlr`.
        targets: How many wrong classes to aim at; 0 raises the loss of the right class instead.
        ranking: Which classes those are: the most `likely` ones on the clean image, which takes one
            pass more, or the `nearest` ones if the model is linear around it, which takes one
            forward pass and up to nine backward passes and needs fewer targets.
        restarts: Attempts per aim, each with a fresh start.
        random_start: Start at a random point of the ball instead of the clean image.
        rho: The share of steps that must raise the loss for the step to keep its length.
        wide_start: In l1, spend 30 % of the steps in a ball of three times the radius and as many
            in one of two times, each stage starting from the best point of the one before. Takes
            more passes; on a model that was trained for another norm it finds what starts in the
            set do not.
        shift_start: Start the first attempt at each aim where all values are raised alike as far as
            the ball lets them, the second where they are lowered, later ones as `random_start`
            says. A model that averages noise away sees a random point as the clean image; these lie
            in other basins, which matters where gradients are masked.
        give_up: The share of the steps after each of which an attempt ends that cannot reach the
            goal in the steps it has left, if its margin goes on to rise as in the last share; 0
            lets every attempt make all its steps.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Croce, Hein: Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks. ICML 2020. l1: Croce, Hein: Mind the box: l1-APGD for sparse
        adversarial attacks on image classifiers. ICML 2021.

    Differs from the reference:
        Success is tested at every point on the logits that give its gradient, and ends the search;
        the reference makes all its steps. The first checkpoint compares the first step with the
        start, as the paper does; the code compares it with a loss of 0. Targets are ranked once, on
        the clean image; all of them are tried before one is tried again. The margin is a loss of
        its own; the difference of logits ratio falls back to it where the model has too few
        classes. In l1, values at the end of their range are not stepped on, so that all of a step
        counts, and wide balls are an option. Targets can be ranked by how near they are. Random
        starts are uniform in the ball (l1: normal noise projected onto it). Shifted starts and
        giving up are ours, and off unless asked for.

    Example:
        >>> APGD(loss="dlr", targets=3).attempts
        3
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    steps: int = 100
    loss: AttackLoss = "cross-entropy"
    targets: int = 0
    ranking: Ranking = "likely"
    restarts: int = 1
    random_start: bool = True
    rho: float = 0.75
    wide_start: bool = False
    shift_start: bool = False
    give_up: float = 0.0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(
                f"APGD takes {self.steps} steps and {self.restarts} restarts; both must be at "
                f"least 1."
            )
        if self.targets < 0:
            raise BadInput(f"APGD aims at {self.targets} classes; give 0 or more.")
        if self.ranking not in get_args(Ranking):
            known = ", ".join(get_args(Ranking))
            raise BadInput(f"The ranking {self.ranking!r} is unknown. Use one of: {known}.")
        if not 0 <= self.rho <= 1:
            raise BadInput(f"APGD's rho is {self.rho}; it must lie in [0, 1].")
        if self.loss not in LOSSES:
            raise BadInput(f"The loss {self.loss!r} is unknown. Use one of: {', '.join(LOSSES)}.")
        if not 0 <= self.give_up <= 1:
            raise BadInput(f"APGD's give_up is {self.give_up}; it must lie in [0, 1].")

    @property
    def attempts(self) -> int:
        """Restarts times targets."""
        return self.restarts * max(self.targets, 1)

    def prepare(self, view: Gradients, rows: Rows) -> Rows:
        """Look for the nearest classes, if they are to be aimed at and are not known yet."""
        if self.ranking == "likely" or not self._aims(rows) or rows.aims is not None:
            return rows
        return dataclasses.replace(rows, aims=nearest_wrong(view, rows))

    def begin(self, rows: Rows) -> Run:
        """Start at the clean image or at a random point of the first ball."""
        ranking = torch.full_like(rows.index, -1)[:, None].expand(-1, self.targets)
        if self.ranking == "nearest" and rows.aims is not None:
            # Where there are fewer wrong classes than targets, they come round again.
            turns = torch.arange(self.targets, device=rows.index.device) % rows.aims.shape[1]
            ranking = rows.aims[:, turns]
        return self._begin(rows, ranking)

    def again(self, state: Run) -> Run:
        """The next attempt, which knows the ranking of the classes."""
        return self._begin(state.rows.next_attempt(), state.ranking)

    def _begin(self, rows: Rows, ranking: Tensor) -> Run:
        point = rows.begin_at(self._start(rows))
        none = torch.zeros_like(rows.index)
        zero = torch.zeros_like(none, dtype=point.dtype)
        return Run(
            rows=rows,
            ranking=ranking,
            stage=none,
            point=point,
            previous=point,
            best=point,
            best_gradient=torch.zeros_like(point),
            best_loss=zero,
            loss=zero,
            step=none,
            since=none,
            rises=none,
            stretch=none,
            reached_loss=zero,
            shortened=torch.ones_like(none, dtype=torch.bool),
            length=zero.double(),
            density=zero,
            support=none,
            outset=zero,
            lead=zero,
            lead_before=zero,
        )

    def _start(self, rows: Rows) -> Tensor:
        point = self._random(rows) if self.random_start else rows.clean
        if not self.shift_start:
            return point
        turn = columns(rows.attempt // max(self.targets, 1), point)
        shift = even_shift(rows.allowed, rows.clean) * torch.where(turn == 0, 1.0, -1.0)
        shifted = rows.allowed.project(rows.clean, rows.clean + shift)
        return torch.where(turn < 2, shifted, point)

    def _random(self, rows: Rows) -> Tensor:
        streams = rows.streams.fork("start")
        if rows.allowed.norm != "l1":
            return rows.allowed.sample(rows.clean, streams=streams)
        spread = min(rows.allowed.high - rows.allowed.low, max(rows.allowed.radius, 1.0))
        noise = spread * streams.normal(tuple(rows.clean.shape[1:]))
        radius = self._radius(torch.zeros_like(rows.index), rows.clean, rows.allowed)
        return project(rows.clean, rows.clean + noise, radius, rows.allowed)

    def propose(self, state: Run) -> Tensor:
        """The current point; the clean image while the ranking of the classes is not known."""
        if not self._aims(state.rows):
            return state.point
        return torch.where(
            columns(self._ignorant(state), state.point), state.rows.clean, state.point
        )

    def _ignorant(self, state: Run) -> Tensor:
        """(N,) bool: rows that need the model's answer to the clean image first."""
        if not self._aims(state.rows):
            return torch.zeros_like(state.shortened)
        return state.ranking[:, 0] < 0

    def _aims(self, rows: Rows) -> bool:
        """Whether it chooses classes to aim at."""
        return self.targets > 0 and rows.objective.targets is None

    def gain(self, state: Run, logits: Tensor) -> Tensor:
        """The chosen loss, of the right class or of the one aimed at."""
        objective = state.rows.objective
        if not self._aims(state.rows):
            return LOSSES[self.loss](logits, objective)
        ranking = self._ranking(state, logits.detach())
        turn = (state.rows.attempt % self.targets)[:, None]
        return lead(self.loss, logits, objective.labels, ranking.gather(1, turn)[:, 0])

    def _ranking(self, state: Run, logits: Tensor) -> Tensor:
        seen = most_likely_wrong(logits, state.rows.objective.labels, self.targets)
        return torch.where(state.ranking < 0, seen, state.ranking)

    def wins(self, state: Run, reached: Tensor) -> Tensor:
        """Points of a wide ball count only if they lie in the set."""
        strays = self.strays(state)
        return reached if strays is None else reached & ~strays

    def strays(self, state: Run) -> Tensor | None:
        """Points of a wide ball that do not lie in the set."""
        allowed = state.rows.allowed
        if self._stages(allowed) == 1:
            return None
        return ~allowed.contains(state.rows.clean, self.propose(state))

    def result(self, state: Run) -> Tensor:
        """The current point, pulled into the set."""
        return state.rows.allowed.project(state.rows.clean, self.propose(state))

    def update(self, state: Run, logits: Tensor, gradient: Tensor) -> Tensor:
        """Note the best point, shorten the step at a checkpoint, move on."""
        start, learns, ends = state.point, self._learns(state), self._hopeless(state, logits)
        loss = self.gain(state, logits).nan_to_num(nan=-torch.inf)
        if self._aims(state.rows):
            state.ranking = self._ranking(state, logits)
        self._note(state, loss, gradient)
        gradient = self._checked(state, gradient)
        self._move(state, gradient)
        state.step = state.step + 1
        if learns is not None:
            state.point = torch.where(columns(learns, start), start, state.point)
            state.step = torch.where(learns, 0, state.step)
        return self._next_stage(state) | ends

    def _hopeless(self, state: Run, logits: Tensor) -> Tensor:
        """(N,) bool: attempts to be given up."""
        last = state.stage == self._stages(state.rows.allowed) - 1
        if not self.give_up:
            return torch.zeros_like(last)
        stretch = max(2, round(self.give_up * self.steps))
        margins = margin(logits, state.rows.objective).to(state.lead.dtype)
        return last & hopeless(state, margins, self._planned(state), stretch=stretch)

    def _learns(self, state: Run) -> Tensor | None:
        """(N,) bool: rows that were shown the clean image to rank the classes, but start elsewhere.

        Their counters stay at 0, and what is noted of them is forgotten at their start.
        """
        elsewhere = self.random_start or self.shift_start or state.rows.start is not None
        return self._ignorant(state) if self._aims(state.rows) and elsewhere else None

    def _note(self, state: Run, loss: Tensor, gradient: Tensor) -> None:
        """Take in the loss at the current point; the first of a stage makes everything new."""
        fresh = state.step == 0
        rose = loss > state.loss
        state.rises = torch.where(fresh, 0, state.rises + rose.to(state.rises.dtype))
        state.since = torch.where(fresh, 0, state.since + 1)
        better = fresh | (loss > state.best_loss)
        state.best = torch.where(columns(better, gradient), state.point, state.best)
        state.best_gradient = torch.where(columns(better, gradient), gradient, state.best_gradient)
        state.best_loss = torch.where(better, loss, state.best_loss)
        state.loss = loss
        state.reached_loss = torch.where(fresh, loss, state.reached_loss)
        state.shortened = state.shortened | fresh
        self._set_up(state, fresh)

    def _set_up(self, state: Run, fresh: Tensor) -> None:
        """The step's first length and sparsity, and the first checkpoint."""
        allowed = state.rows.allowed
        state.length = torch.where(fresh, self._longest(state), state.length)
        first = first_stretch(self._planned(state), allowed.norm)
        state.stretch = torch.where(fresh, first, state.stretch)
        if allowed.norm == "l1":
            first_density(state, fresh, known=self._stages(allowed) > 1)

    def _checked(self, state: Run, gradient: Tensor) -> Tensor:
        """Shorten steps at checkpoints; the gradient at the point from which the search goes on."""
        due = (state.since == state.stretch) & (state.step > 0)
        if state.rows.allowed.norm == "l1":
            back = thin_out(state, due, self._longest(state))
        else:
            back = halve(state, due, steps=self.steps, rho=self.rho)
        state.since = torch.where(due, 0, state.since)
        state.rises = torch.where(due, 0, state.rises)
        state.point = torch.where(columns(back, gradient), state.best, state.point)
        return torch.where(columns(back, gradient), state.best_gradient, gradient)

    def _move(self, state: Run, gradient: Tensor) -> None:
        """One step and a share of the last one, projected."""
        allowed, clean, here = state.rows.allowed, state.rows.clean, state.point
        radius = self._radius(state.stage, clean, allowed)
        length = columns(state.length, here).to(here.dtype)
        if allowed.norm == "l1":
            step = sparse_step(gradient, here, state.density, allowed).mul_(length)
            point = project(clean, step.add_(here), radius, allowed)
        else:
            step = steepest(gradient, here, allowed, sparsity=1.0).mul_(length)
            ahead = project(clean, step.add_(here), radius, allowed)
            new = columns(torch.where(state.step > 0, _NEW, 1.0), here).to(here.dtype)
            repeated = (here - state.previous).mul_(1 - new)
            mixed = ahead.sub_(here).mul_(new).add_(here).add_(repeated)
            point = project(clean, mixed, radius, allowed)
        state.previous, state.point = here, point

    def _next_stage(self, state: Run) -> Tensor:
        """Let rows whose wide ball is done begin in the next one; the rows that are finished."""
        last = state.stage == self._stages(state.rows.allowed) - 1
        planned = self._planned(state)
        another = (state.rows.attempt + 1 < self.attempts).to(planned.dtype)
        over = ~last & (state.step > planned)
        state.stage = torch.where(over, state.stage + 1, state.stage)
        state.step = torch.where(over, 0, state.step)
        if self._stages(state.rows.allowed) > 1:
            radius = self._radius(state.stage, state.rows.clean, state.rows.allowed)
            pulled = project(state.rows.clean, state.best, radius, state.rows.allowed)
            state.point = torch.where(columns(over, pulled), pulled, state.point)
        return last & (state.step >= planned + another)

    def _stages(self, allowed: PerturbationSet) -> int:
        """How many balls an attempt goes through; their radii count down to one."""
        return 3 if self.wide_start and allowed.norm == "l1" and int(_WIDE * self.steps) else 1

    def _planned(self, state: Run) -> Tensor:
        """(N,) int64: the steps of each row's stage."""
        stages = self._stages(state.rows.allowed)
        wide = int(_WIDE * self.steps)
        narrow = self.steps - (stages - 1) * wide
        return torch.where(state.stage == stages - 1, narrow, wide)

    def _radius(self, stage: Tensor, clean: Tensor, allowed: PerturbationSet) -> Tensor:
        """(N,) float64: the radius of each row's ball."""
        return (self._stages(allowed) - stage).double() * reach(allowed, clean)

    def _longest(self, state: Run) -> Tensor:
        """(N,) float64: the length of the first step."""
        radius = self._radius(state.stage, state.rows.clean, state.rows.allowed)
        return radius if state.rows.allowed.norm == "l1" else 2 * radius
