"""The loop that drives step-by-step attacks: who leaves when, who is charged, what is mixed."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustkit.attacks import FGSM, PGD, EvasionAttack, Stepwise
from robustkit.attacks.queued import Found
from robustkit.attacks.rows import Rows, join_rows, take_rows
from robustkit.errors import DoesNotFit, ShapeMismatch
from robustkit.passes import Passes
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    Gradients,
    LpBall,
    Meter,
    Objective,
    PerturbationSet,
    grant,
)
from tests.oracles import Constant, Counting, Network, linear_problem

BALL = LpBall(norm="linf", radius=1.0)
SHAPE = (1, 2, 2)


class Threshold(nn.Module):
    """Answers 1 where the mean of the input exceeds `at`, 0 elsewhere."""

    def __init__(self, at: float = 0.5) -> None:
        super().__init__()
        self.at = at
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        lead = inputs.flatten(1).mean(1, keepdim=True) - self.at
        return torch.cat([-lead, lead], dim=1)


@dataclass(slots=True)
class ClimbState:
    rows: Rows
    point: Tensor
    step: Tensor


@dataclass(frozen=True, kw_only=True)
class Climb(Stepwise[ClimbState]):
    """Raises every value by `rate` a step, whatever the gradient; keeps a diary."""

    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    rate: float = 0.125
    steps: int = 4
    tries: int = 1
    diary: list[tuple[list[int], list[int], list[int]]] = dataclasses.field(default_factory=list)

    @property
    def attempts(self) -> int:
        return self.tries

    def begin(self, rows: Rows) -> ClimbState:
        return ClimbState(rows, rows.clean, torch.zeros_like(rows.index))

    def propose(self, state: ClimbState) -> Tensor:
        return state.point

    def gain(self, state: ClimbState, logits: Tensor) -> Tensor:
        return logits[:, 1]

    def update(self, state: ClimbState, logits: Tensor, gradient: Tensor) -> Tensor:
        rows = state.rows
        self.diary.append((rows.index.tolist(), rows.attempt.tolist(), state.step.tolist()))
        state.point = rows.allowed.project(rows.clean, state.point + self.rate)
        state.step = state.step + 1
        return state.step >= self.steps


def starting_at(*means: float) -> Tensor:
    return torch.tensor(means).reshape(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()


@dataclass
class Run:
    """An attack on a thresholded mean, with the label 0 for everything."""

    attack: EvasionAttack[Gradients]
    clean: Tensor
    model: nn.Module = dataclasses.field(default_factory=Threshold)
    width: int | None = None
    queries: int | None = None
    allowed: PerturbationSet = BALL

    def __post_init__(self) -> None:
        n = len(self.clean)
        self.streams = Streams.of(seed=0, ids=torch.arange(n))
        self.meter = Meter(self.model, self.streams, width=self.width, queries=self.queries)
        self.view = grant(self.meter, Access.GRADIENT)
        self.objective = Objective(torch.zeros(n, dtype=torch.int64))

    def go(self) -> Tensor:
        assert isinstance(self.view, Gradients)
        return self.attack.run(
            self.view, self.clean, self.objective, self.allowed, streams=self.streams
        )


@pytest.mark.parametrize("width", [None, 1, 2, 3, 8])
def test_rows_leave_at_their_first_success(width: int | None) -> None:
    """A step is an eighth: starts at 1/2 - k/8 pass the threshold after k + 1 steps."""
    run = Run(Climb(steps=6), starting_at(0.0, 0.55, 0.375, 0.5, 0.25), width=width)
    changed = run.go()
    assert run.meter.ledger.forward.tolist() == [6, 1, 3, 2, 4]
    assert run.meter.ledger.backward.tolist() == [6, 1, 3, 2, 4]
    means = changed.flatten(1).mean(1).tolist()
    assert means == pytest.approx([0.625, 0.55, 0.625, 0.625, 0.625])


def test_what_fails_ends_at_its_last_point() -> None:
    run = Run(Climb(steps=3, rate=0.0625), starting_at(0.0, 0.25))
    changed = run.go()
    assert changed.flatten(1).mean(1).tolist() == pytest.approx([0.1875, 0.4375])
    assert run.meter.ledger.forward.tolist() == [3, 3]


@pytest.mark.parametrize("width", [None, 2, 5])
def test_another_attempt_follows_a_failure_and_only_a_failure(width: int | None) -> None:
    attack = Climb(steps=3, tries=3)
    run = Run(attack, starting_at(0.0, 0.375, 0.5), width=width)
    run.go()
    assert run.meter.ledger.forward.tolist() == [9, 3, 2]
    attempts = {
        (index, attempt)
        for indices, numbers, _ in attack.diary
        for index, attempt in zip(indices, numbers, strict=True)
        if index >= 0
    }
    assert attempts == {(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)}


def test_every_attempt_starts_at_its_first_step() -> None:
    attack = Climb(steps=3, tries=2)
    Run(attack, starting_at(0.0)).go()
    assert [(numbers, steps) for _, numbers, steps in attack.diary] == [
        ([0], [0]),
        ([0], [1]),
        ([0], [2]),
        ([1], [0]),
        ([1], [1]),
        ([1], [2]),
    ]


@pytest.mark.parametrize("width", [1, 3, 4])
def test_a_free_row_is_filled_from_the_queue(width: int) -> None:
    attack = Climb(steps=5)
    counting = Counting(Threshold())
    run = Run(attack, starting_at(0.0, 0.6, 0.6, 0.25, 0.375, 0.6, 0.0), counting, width=width)
    run.go()
    assert set(counting.widths) == {width}
    assert run.meter.ledger.passes.rows_run == counting.forward_rows
    assert run.meter.ledger.forward.tolist() == [5, 1, 1, 4, 3, 1, 5]
    # While the queue lasts, no row is padding.
    for indices, _, _ in attack.diary[:-5]:
        assert all(index >= 0 for index in indices)
    assert all(len(indices) == width for indices, _, _ in attack.diary)


def test_without_a_width_finished_rows_are_not_computed_again() -> None:
    counting = Counting(Threshold())
    run = Run(Climb(steps=5), starting_at(0.0, 0.6, 0.375), counting)
    run.go()
    assert counting.widths == [3, 2, 2, 1, 1]
    assert run.meter.ledger.passes == Passes(9, 9, 9)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(),
        PGD(steps=4),
        PGD(steps=3, restarts=3),
        PGD(steps=3, restarts=2, momentum=0.75, loss="dlr"),
    ],
    ids=["fgsm", "pgd", "restarts", "momentum"],
)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_company_changes_nothing_at_a_fixed_width(attack: PGD | FGSM, norm: str) -> None:
    model = Network()
    clean = torch.rand(11, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = model(clean).argmax(1)
    radius = {"linf": 0.03, "l2": 0.2, "l1": 1.0}[norm]
    allowed = LpBall(norm=norm, radius=radius)  # type: ignore[arg-type]

    def attacked(rows: list[int]) -> tuple[Tensor, Tensor]:
        streams = Streams.of(seed=0, ids=torch.tensor(rows))
        meter = Meter(model, streams, width=4)
        view = grant(meter, Access.GRADIENT)
        assert isinstance(view, Gradients)
        objective = Objective(labels[rows])
        changed = attack.run(view, clean[rows], objective, allowed, streams=streams)
        return changed, meter.ledger.forward

    together, spent = attacked(list(range(11)))
    order = [7, 2, 10, 0, 5, 1, 9, 3, 8, 6, 4]
    shuffled, spent_shuffled = attacked(order)
    assert torch.equal(shuffled, together[order])
    assert torch.equal(spent_shuffled, spent[order])
    for row in range(0, 11, 3):
        alone, spent_alone = attacked([row])
        assert torch.equal(alone, together[row : row + 1])
        assert torch.equal(spent_alone, spent[row : row + 1])
    # The examples leave at different times, or the queue would not have been mixed.
    if isinstance(attack, PGD):
        assert len(set(spent.tolist())) > 1


def test_attempts_draw_different_numbers() -> None:
    """With one value that decides, restarts help only if they start elsewhere."""
    starts: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            starts.append(inputs.detach().clone())
            return torch.cat([inputs.flatten(1).sum(1, keepdim=True) * 0 + 1] * 2, 1)

    run = Run(PGD(steps=1, restarts=4), starting_at(0.5), Spy())
    run.go()
    # Passes alternate between a start and a look at where the step led, but for the last.
    first = torch.cat(starts[0::2])
    assert len(first) == 4
    assert len({tuple(row) for row in first.flatten(1).tolist()}) == 4


def test_the_last_point_of_an_attempt_is_seen_before_the_next() -> None:
    """One step suffices from anywhere: the first attempt must not be thrown away."""
    problem = linear_problem(interior=True)
    allowed = LpBall(norm="linf", radius=0.2)
    streams = Streams.of(seed=0, ids=torch.arange(5))
    for attack in (PGD(steps=1, step_size=1.0, restarts=3, random_start=False), FGSM()):
        meter = Meter(problem.model, streams)
        view = grant(meter, Access.GRADIENT)
        assert isinstance(view, Gradients)
        changed = attack.run(
            view, problem.clean, Objective(problem.labels), allowed, streams=streams
        )
        assert bool((problem.model(changed).argmax(1) != problem.labels).all())
        expected = 2 if isinstance(attack, PGD) else 1
        assert meter.ledger.forward.tolist() == [expected] * 5


@pytest.mark.parametrize("width", [None, 2])
@pytest.mark.parametrize("queries", [1, 2, 5, 100])
def test_the_search_ends_at_the_budget(queries: int, width: int | None) -> None:
    run = Run(Climb(steps=5, tries=2), starting_at(0.0, 0.55, 0.25), width=width, queries=queries)
    changed = run.go()
    assert run.meter.ledger.forward.tolist() == [min(queries, needed) for needed in (10, 1, 4)]
    assert bool(BALL.contains(run.clean, changed).all())
    assert bool((changed[0] > run.clean[0]).all())


def test_who_has_nothing_left_at_the_start_is_left_alone() -> None:
    run = Run(Climb(steps=6), starting_at(0.0, 0.25), queries=3)
    run.view.labels(run.clean[:1].expand(3, *SHAPE), torch.tensor([0, 0, 0]))
    changed = run.go()
    assert run.meter.ledger.forward.tolist() == [3, 3]
    assert torch.equal(changed[0], run.clean[0])
    assert bool((changed[1] > run.clean[1]).all())


def test_padding_is_not_charged_and_found_by_nobody() -> None:
    run = Run(Climb(steps=4), starting_at(0.0, 0.25), width=8)
    changed = run.go()
    assert run.meter.ledger.forward.tolist() == [4, 4]
    assert run.meter.ledger.passes.rows_run == 32
    assert changed.shape == run.clean.shape


def rows(n: int, allowed: LpBall = BALL) -> Rows:
    return Rows.first(
        starting_at(*[0.0] * n),
        Objective(torch.zeros(n, dtype=torch.int64)),
        Streams.of(seed=0, ids=torch.arange(n)),
        torch.arange(n),
        allowed,
    )


def queue_of(everything: Rows, at_most: int) -> Callable[[int], Rows | None]:
    """A source that gives away at most so many rows at a time."""
    start = 0

    def source(room: int) -> Rows | None:
        nonlocal start
        begin, start = start, min(start + min(room, at_most), len(everything.index))
        return take_rows(everything, torch.arange(begin, start)) if start > begin else None

    return source


def test_the_search_takes_any_source_and_gives_every_example_back_once() -> None:
    streams = Streams.of(seed=0, ids=torch.arange(7))
    view = grant(Meter(Threshold(), streams), Access.GRADIENT)
    assert isinstance(view, Gradients)
    found = list(Climb(steps=3).search(view, queue_of(rows(7), at_most=2), width=4, pad=False))
    assert all(isinstance(part, Found) for part in found)
    assert sorted(torch.cat([part.index for part in found]).tolist()) == list(range(7))
    assert view.spent.tolist() == [3] * 7


def test_an_empty_source_asks_nothing() -> None:
    counting = Counting(Threshold())
    view = grant(Meter(counting, Streams.of(seed=0, ids=torch.arange(1))), Access.GRADIENT)
    assert isinstance(view, Gradients)
    assert list(Climb().search(view, lambda room: None, width=4, pad=True)) == []
    assert counting.calls == 0


def test_a_model_without_a_gradient_is_refused_with_a_reason() -> None:
    class Stairs(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            answer: Tensor = Threshold()(inputs.detach())
            return answer

    class Trainable(nn.Module):
        """Its answer has a graph, but none that leads to the input."""

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(self, inputs: Tensor) -> Tensor:
            answer: Tensor = Threshold()(inputs.detach())
            return answer + self.bias

    for model in (Stairs(), Trainable()):
        with pytest.raises(DoesNotFit, match="carries no gradient"):
            Run(PGD(), starting_at(0.0), model).go()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_gradients_that_are_no_numbers_do_not_spread(norm: str) -> None:
    """The square root has an infinite slope at 0, and 0 x infinity is NaN."""

    class Rooted(nn.Module):
        """Never wrong; the slope of the first value is no number, those of the others are."""

        def forward(self, inputs: Tensor) -> Tensor:
            flat = inputs.flatten(1)
            root = (flat[:, :1] * 0).sqrt() + flat.mean(1, keepdim=True)
            return torch.cat([torch.full_like(root, 9.0), root], 1)

    allowed = LpBall(norm=norm, radius=0.3)  # type: ignore[arg-type]
    for attack in (PGD(steps=3), PGD(steps=3, momentum=0.5), FGSM()):
        run = Run(attack, starting_at(0.5, 0.2), Rooted(), allowed=allowed)
        changed = run.go()
        assert bool(allowed.contains(run.clean, changed).all())
        assert bool((changed != run.clean).flatten(1).any(1).all())


def test_a_model_that_never_changes_its_mind_is_survived() -> None:
    run = Run(PGD(steps=3), starting_at(0.5, 0.2), Constant())
    assert bool(BALL.contains(run.clean, run.go()).all())
    assert run.meter.ledger.forward.tolist() == [3, 3]


def test_inputs_labels_and_streams_must_belong_together() -> None:
    run = Run(PGD(), starting_at(0.0, 0.5))
    assert isinstance(run.view, Gradients)
    cases = [
        (run.clean.double(), run.objective, run.streams),
        (run.clean.flatten(1), run.objective, run.streams),
        (run.clean, run.objective.take(slice(0, 1)), run.streams),
        (run.clean, run.objective, run.streams.take([0])),
    ]
    for inputs, objective, streams in cases:
        with pytest.raises(ShapeMismatch):
            run.attack.run(run.view, inputs, objective, BALL, streams=streams)


def test_rows_are_taken_and_joined_through_nested_dataclasses() -> None:
    state = Climb().begin(rows(4))
    some = take_rows(state, torch.tensor([3, 1]))
    assert some.rows.index.tolist() == [3, 1]
    assert some.rows.streams.ids.tolist() == [3, 1]
    assert some.rows.objective.targets is None
    assert some.rows.allowed is BALL
    joined = join_rows([some, take_rows(state, torch.tensor([0]))])
    assert joined.rows.index.tolist() == [3, 1, 0]
    assert joined.rows.streams.ids.tolist() == [3, 1, 0]
    assert joined.point.shape == (3, *SHAPE)
    assert state.rows.index.tolist() == [0, 1, 2, 3]
