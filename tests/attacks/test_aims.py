"""Which wrong classes are worth aiming at."""

import pytest
import torch
from torch import Tensor, nn

from robustkit.attacks import APGD
from robustkit.attacks._aims import nearest_wrong
from robustkit.attacks.rows import Rows
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import Budget, LpBall, Objective, ThreatModel


class Linear(nn.Module):
    """Four classes of two values; the last one is likely, but far away: its slope is flat."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.tensor([[0.0, 0.0], [-4.0, 4.0], [-1.0, -1.0], [0.02, 0.0]])
        )
        self.bias = nn.Parameter(torch.tensor([2.0, 0.0, 1.0, 1.9]))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.flatten(1) - 0.5) @ self.weight.T + self.bias


def rows(threat: ThreatModel, count: int) -> Rows:
    streams = Streams.of(seed=0, ids=torch.arange(count))
    clean = torch.full((count, 1, 1, 2), 0.5)
    objective = Objective(torch.zeros(count, dtype=torch.int64))
    return Rows.first(clean, objective, streams, torch.arange(count), threat.allowed)


def view(threat: ThreatModel, count: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return threat.view(Linear().eval(), Streams.of(seed=0, ids=torch.arange(count)))


@pytest.mark.parametrize(
    ("norm", "expected"),
    # Lags 2, 1 and .1; slopes of the differences by dual norm: 8, 5.66, 4; 2, 1.41, 1; .02.
    [("linf", [1, 2, 3]), ("l2", [1, 2, 3]), ("l1", [1, 2, 3])],
)
def test_classes_are_ranked_by_the_distance_to_their_boundary(
    norm: str, expected: list[int]
) -> None:
    threat = ThreatModel(name=norm, perturbation=LpBall(norm=norm, radius=1.0))  # type: ignore[arg-type]
    seen = view(threat, 2)
    found = nearest_wrong(seen, rows(threat, 2))
    slopes = Linear().weight[1:].abs()
    order = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    lag = Linear().bias[0] - Linear().bias[1:]
    distance = lag / torch.linalg.vector_norm(slopes, order, dim=1)
    assert found.tolist() == [(distance.argsort() + 1).tolist()] * 2
    assert found[0].tolist() != [3, 2, 1], "the likeliest class must not be the nearest here"
    assert sorted(found[0].tolist()) == sorted(expected)
    assert seen.spent.tolist() == [1, 1]


def test_who_cannot_pay_is_not_asked_about() -> None:
    threat = ThreatModel(
        name="poor", perturbation=LpBall(norm="linf", radius=1.0), budget=Budget(queries=1)
    )
    seen = view(threat, 3)
    assert set(nearest_wrong(seen, rows(threat, 3)).flatten().tolist()) == {-1}
    assert seen.spent.tolist() == [0, 0, 0]


def test_a_search_at_the_nearest_class_needs_one_target() -> None:
    threat = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.26))
    wanted = Objective(torch.zeros(2, dtype=torch.int64))
    clean = torch.full((2, 1, 1, 2), 0.5)
    streams = Streams.of(seed=0, ids=torch.arange(2))
    broken = {}
    for ranking in ("nearest", "likely"):
        attack = APGD(loss="margin", targets=1, ranking=ranking, steps=10, random_start=False)
        points = attack.run(view(threat, 2), clean, wanted, threat.allowed, streams=streams)
        broken[ranking] = (Linear()(points).argmax(1) != 0).tolist()
    assert broken == {"nearest": [True, True], "likely": [False, False]}


def test_an_unknown_ranking_is_refused() -> None:
    with pytest.raises(BadInput, match="likely, nearest"):
        APGD(ranking="random")  # type: ignore[arg-type]
