"""The pool in which foreign searches run, and what counts for them."""

import torch
from torch import Tensor, nn

from tests.benchmarks.foreign_decisions import Account, run_all
from tests.oracles import linear_problem


def wander(model: nn.Module, clean: Tensor, number: int) -> object:
    """Asks about noise, one image and then three, for ever."""
    while True:
        for count in (1, 3):
            noise = torch.randn(count, *clean.shape[1:])
            model(clean + 0.5 * noise)


def found(together: int) -> dict[int, tuple[int, list[tuple[int, float]]]]:
    problem = linear_problem(examples=5, interior=True)
    kept = {}

    def finished(number: int, account: Account, error: BaseException | None) -> None:
        assert error is None
        kept[number] = (account.spent, account.trace)

    run_all(
        wander,
        problem.model,
        problem.clean,
        problem.labels,
        budgets=(5, 18),
        numbers=[0, 2, 3, 4],
        seed=7,
        finished=finished,
        together=together,
    )
    return kept


def test_searches_do_together_what_they_do_alone() -> None:
    alone, together = found(1), found(3)
    assert sorted(alone) == [0, 2, 3, 4]
    assert alone == together
    assert {spent for spent, _ in alone.values()} == {18}
    assert any(len(trace) > 1 for _, trace in alone.values())


def test_points_count_as_clipped_if_they_win_there() -> None:
    clean = torch.full((1, 1, 1, 2), 0.5)
    account = Account(clean, 0, (2, 4))

    def judge(points: Tensor) -> Tensor:
        return (points.flatten(1)[:, 0] > 0.9).long()

    points = torch.tensor([[0.5, 3.0], [2.0, 0.5], [0.95, 0.5], [0.92, 0.5], [0.91, 0.5]])
    answers = torch.ones(5, dtype=torch.int64)
    account.charge(points.reshape(5, 1, 1, 2), answers, judge)
    # The first wins outside the range alone, and the budget does not pay for the last.
    assert account.spent == 4
    assert [(query, round(distance, 4)) for query, distance in account.trace] == [
        (2, 0.5),
        (3, 0.45),
        (4, 0.42),
    ]
    first, last = account.confirmed(judge)
    assert first is not None
    assert last is not None
    assert (round(first, 4), round(last, 4)) == (0.5, 0.42)
    assert account.confirmed(lambda points: torch.zeros(len(points))) == [None, None]


def test_a_search_that_fails_says_so() -> None:
    problem = linear_problem(examples=1)

    def breaks(model: nn.Module, clean: Tensor, number: int) -> object:
        model(clean)
        raise ValueError("no more")

    seen: list[tuple[int, str]] = []
    run_all(
        breaks,
        problem.model,
        problem.clean,
        problem.labels,
        budgets=(10,),
        numbers=[0],
        seed=0,
        finished=lambda _, account, error: seen.append((account.spent, str(error))),
    )
    assert seen == [(1, "no more")]
