"""The judge: what was not allowed scores nothing, whatever the model says about it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import LpBall, Objective, Patch, ThreatModel, Verdict, load
from robustkit.threat_models.model import Budget
from tests.oracles import (
    LabelSets,
    NaNs,
    Noisy,
    Problem,
    Rejecting,
    linear_problem,
)

PROBLEM = linear_problem(examples=4)


def threat(norm: str = "linf", radius: float = 0.2, queries: int | None = None) -> ThreatModel:
    return ThreatModel(
        name="t",
        perturbation=LpBall(norm=norm, radius=radius),  # type: ignore[arg-type]
        budget=Budget(queries=queries),
    )


def winning(problem: Problem, length: float = 0.2) -> Tensor:
    """The best linf change of each input, which every example of the problem falls to."""
    signs = (problem.model.weight[0] - problem.model.weight[1]).sign()
    direction = torch.where(problem.labels[:, None] == 0, -signs, signs)
    return (problem.clean + length * direction.reshape(problem.clean.shape)).clamp(0, 1)


def judged(
    adversary: ThreatModel,
    changed: Tensor,
    problem: Problem = PROBLEM,
    spent: int = 1,
) -> Verdict:
    queries = torch.full((len(problem.clean),), spent)
    return adversary.judge(
        problem.model, problem.clean, changed, Objective(problem.labels), queries
    )


def test_an_honest_success_scores(device: torch.device) -> None:
    problem = linear_problem(examples=4).to(device)
    changed = winning(problem)
    verdict = judged(threat(), changed, problem)
    assert verdict.achieved.tolist() == [True] * 4
    assert verdict.allowed.tolist() == [True] * 4
    assert verdict.labels.tolist() == (1 - problem.labels).tolist()
    assert verdict.distance.dtype == torch.float64
    assert bool((verdict.distance <= 0.2 + 1e-6).all())
    assert verdict.queries.tolist() == [1] * 4


def test_doing_nothing_scores_nothing() -> None:
    verdict = judged(threat(), PROBLEM.clean.clone())
    assert verdict.achieved.tolist() == [False] * 4
    assert verdict.allowed.tolist() == [True] * 4
    assert verdict.distance.tolist() == [0.0] * 4


def spoiled(changed: Tensor, value: float) -> Tensor:
    changed = changed.clone()
    changed[:, 0, 0, 0] = value
    return changed


CHEATS: dict[str, Callable[[Tensor], Tensor]] = {
    "ten per cent too far": lambda _: winning(PROBLEM, 0.22),
    "a hair too far": lambda _: winning(PROBLEM, 0.20001),
    "NaN": lambda changed: spoiled(changed, torch.nan),
    "only NaN": lambda changed: torch.full_like(changed, torch.nan),
    "infinity": lambda changed: spoiled(changed, torch.inf),
    "above the range": lambda changed: spoiled(changed, 1.0000001),
    "below the range": lambda changed: spoiled(changed, -1e-9),
    "another image": lambda changed: changed.flip(0).roll(1, 3),
    "too few rows": lambda changed: changed[:2],
    "too many rows": lambda changed: torch.cat([changed, changed]),
    "no rows": lambda changed: changed[:0],
    "flattened": lambda changed: changed.flatten(1),
    "transposed": lambda changed: changed.transpose(2, 3),
    "one channel": lambda changed: changed[:, :1],
    "broadcast": lambda changed: changed[:1],
    "double": lambda changed: changed.double(),
    "half": lambda changed: changed.half(),
    "bytes": lambda changed: (changed * 255).to(torch.uint8),
    "bool": lambda changed: changed > 0.5,
    "complex": lambda changed: changed.to(torch.complex64),
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheating_scores_nothing(name: str) -> None:
    verdict = judged(threat(), CHEATS[name](winning(PROBLEM)))
    assert verdict.achieved.tolist() == [False] * 4
    assert verdict.allowed.tolist() == [False] * 4
    assert verdict.distance.shape == (4,)


def test_one_cheat_does_not_spoil_the_others() -> None:
    changed = winning(PROBLEM)
    changed[1, 0, 0, 0] = torch.nan
    changed[2] = winning(PROBLEM, 0.3)[2]
    verdict = judged(threat(), changed)
    assert verdict.achieved.tolist() == [True, False, False, True]
    assert verdict.distance[1] == torch.inf


def test_spending_too_much_scores_nothing() -> None:
    changed = winning(PROBLEM)
    assert judged(threat(queries=5), changed, spent=5).achieved.tolist() == [True] * 4
    over = judged(threat(queries=5), changed, spent=6)
    assert over.achieved.tolist() == [False] * 4
    assert over.reached.tolist() == [True] * 4


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_radius_of_every_norm_binds(norm: str) -> None:
    changed = winning(PROBLEM)
    reference = LpBall(norm=norm, radius=1.0)  # type: ignore[arg-type]
    largest = float(reference.distance(PROBLEM.clean, changed).max())
    assert bool(judged(threat(norm, largest), changed).achieved.all())
    assert not bool(judged(threat(norm, largest * 0.99 - 1e-4), changed).achieved.all())


def test_rejected_answers_are_no_wins() -> None:
    changed = winning(PROBLEM)
    adversary = threat()
    verdict = adversary.judge(
        Rejecting(PROBLEM.model, torch.inf),
        PROBLEM.clean,
        changed,
        Objective(PROBLEM.labels),
        torch.ones(4, dtype=torch.int64),
    )
    assert verdict.achieved.tolist() == [False] * 4
    assert verdict.labels.tolist() == [-1] * 4


def test_label_sets_are_won_when_the_right_label_has_left() -> None:
    queries = torch.ones(4, dtype=torch.int64)
    arguments = (PROBLEM.clean, winning(PROBLEM), Objective(PROBLEM.labels), queries)
    small = threat().judge(LabelSets(PROBLEM.model, 0.0), *arguments)
    everything = threat().judge(LabelSets(PROBLEM.model, 1e9), *arguments)
    assert small.achieved.tolist() == [True] * 4
    assert everything.achieved.tolist() == [False] * 4


def test_an_answer_of_nan_is_wrong_but_no_target() -> None:
    model = NaNs(PROBLEM.model)
    queries = torch.ones(4, dtype=torch.int64)
    untargeted = threat().judge(
        model, PROBLEM.clean, PROBLEM.clean, Objective(PROBLEM.labels), queries
    )
    assert untargeted.achieved.tolist() == [True] * 4
    for target in (0, 1):
        wanted = Objective(PROBLEM.labels, torch.full((4,), target))
        targeted = threat().judge(model, PROBLEM.clean, PROBLEM.clean, wanted, queries)
        assert targeted.achieved.tolist() == [False] * 4


def test_random_models_are_judged_with_the_streams_given() -> None:
    model = Noisy(PROBLEM.model)
    streams = Streams.of(seed=0, ids=torch.arange(4)).fork("score")
    queries = torch.ones(4, dtype=torch.int64)
    for _ in range(2):
        threat().judge(
            model,
            PROBLEM.clean,
            winning(PROBLEM),
            Objective(PROBLEM.labels),
            queries,
            streams=streams,
        )
    assert torch.equal(model.drawn[0], model.drawn[1])


def test_judging_leaves_no_trace() -> None:
    changed = winning(PROBLEM).requires_grad_()
    before = changed.detach().clone()
    verdict = judged(threat(), changed)
    assert not verdict.distance.requires_grad
    assert torch.equal(changed.detach(), before)
    assert changed.grad is None


def test_a_threat_without_a_set_judges_no_inputs() -> None:
    nothing = ThreatModel(name="nothing")
    with pytest.raises(BadInput, match="'nothing' changes no inputs"):
        judged(nothing, winning(PROBLEM))
    with pytest.raises(BadInput, match="no Lp ball"):
        nothing.with_radius(0.1)


def test_only_balls_have_a_radius_to_set() -> None:
    adversary = load("l2").with_radius(3.0)
    assert adversary.allowed == LpBall(norm="l2", radius=3.0)
    assert adversary.name == "l2"
    assert load("l2").allowed == LpBall(norm="l2", radius=0.5)
    with pytest.raises(BadInput, match="no Lp ball"):
        ThreatModel(name="p", perturbation=Patch(height=2, width=2)).with_radius(0.1)
    with pytest.raises(BadInput, match="0 or larger"):
        load("l2").with_radius(-1.0)
