"""Square breaks what it should, by scores alone, and pays for every query."""

from typing import Any, Literal

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from robustkit.attacks import EvasionAttack, Square
from robustkit.attacks._windows import Bumps, Stripes, bump_of
from robustkit.attacks.losses import AttackLoss
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import Access, LpBall, Meter, Objective, Scores, grant
from robustkit.threat_models.perturbation import Norm
from tests.attacks.conftest import Victims
from tests.oracles import Constant, Counting, Network, check_against_optimum, linear_problem

NORMS: tuple[Norm, ...] = ("linf", "l2")
norms = pytest.mark.parametrize("norm", NORMS)
RADII: dict[Norm, float] = {"linf": 0.06, "l2": 0.4}


# Random search gets near an optimum in l2 only after very many queries.
SLACK: dict[Norm, float] = {"linf": 1.25, "l2": 2.0}


@norms
@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 3)])
def test_success_near_the_optimum(norm: Norm, shape: tuple[int, int, int]) -> None:
    attack: EvasionAttack[Any] = Square(queries=300)
    check_against_optimum(attack, linear_problem(shape, examples=1), norm, slack=SLACK[norm])


@norms
@pytest.mark.parametrize("loss", ["margin", "cross-entropy"])
def test_a_class_named_by_the_goal_is_reached(norm: Norm, loss: AttackLoss) -> None:
    problem = linear_problem(classes=4, examples=1)
    attack: EvasionAttack[Any] = Square(queries=300, loss=loss)
    check_against_optimum(attack, problem, norm, slack=SLACK[norm], targeted=True)


def attacked(
    attack: Square,
    model: nn.Module,
    clean: Tensor,
    labels: Tensor,
    ball: LpBall,
    *,
    ids: list[int] | None = None,
    width: int | None = None,
    queries: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What the attack returns, and what each example has paid."""
    numbers = torch.arange(len(clean)) if ids is None else torch.tensor(ids)
    streams = Streams.of(seed=0, ids=numbers)
    view = grant(Meter(model, streams, width=width, queries=queries), Access.SCORE)
    assert isinstance(view, Scores)
    changed = attack.run(view, clean, Objective(labels), ball, streams=streams)
    return changed, view.spent


@norms
def test_it_breaks_as_many_as_the_reference(norm: Norm, digits: Victims) -> None:
    victims = digits.first(24)
    radius = {"linf": 0.15, "l2": 0.9}[norm]
    ball = LpBall(norm=norm, radius=radius)
    changed, _ = attacked(Square(queries=700), victims.model, victims.inputs, victims.labels, ball)
    theirs = SquareAttack(
        victims.model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=radius, n_queries=700, seed=0
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        points = theirs.perturb(victims.inputs.clone(), victims.labels.clone())
        ours = int((victims.model(changed).argmax(1) != victims.labels).sum())
        reference = int((victims.model(points).argmax(1) != victims.labels).sum())
    assert 0 < ours < 24
    assert ours >= reference - 2


@norms
def test_company_changes_nothing_at_a_fixed_width(norm: Norm) -> None:
    model = Network()
    clean = torch.rand(11, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = model(clean).argmax(1)
    ball = LpBall(norm=norm, radius=RADII[norm])
    attack = Square(queries=25)

    def some(rows: list[int]) -> tuple[Tensor, Tensor]:
        return attacked(attack, model, clean[rows], labels[rows], ball, ids=rows, width=4)

    together, spent = some(list(range(11)))
    assert len(set(spent.tolist())) > 1
    order = [7, 2, 10, 0, 5, 1, 9, 3, 8, 6, 4]
    shuffled, spent_shuffled = some(order)
    assert torch.equal(shuffled, together[order])
    assert torch.equal(spent_shuffled, spent[order])
    for row in range(0, 11, 3):
        assert torch.equal(some([row])[0], together[row : row + 1])


@norms
def test_every_example_draws_windows_of_its_own(norm: Norm) -> None:
    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[Tensor] = []
            self.eval()

        def forward(self, inputs: Tensor) -> Tensor:
            self.asked.append(inputs.clone())
            return torch.stack([inputs.flatten(1).sum(1) * 0 + 1, inputs.flatten(1).mean(1)], 1)

    spy = Spy()
    clean = torch.full((4, 1, 9, 9), 0.5)
    labels = torch.zeros(4, dtype=torch.int64)
    attacked(Square(queries=12), spy, clean, labels, LpBall(norm=norm, radius=0.1))
    assert len(spy.asked) == 12
    for asked in spy.asked:
        assert len({tuple(image.flatten().tolist()) for image in asked}) == 4


@pytest.mark.parametrize(("dark", "span"), [(0.3, 0.4), (0.0, 0.0), (1.0, 0.0)])
def test_no_query_of_linf_asks_what_is_known(dark: float, span: float) -> None:
    """With one channel half of all windows of one pixel would change nothing, at the ends of the
    value range too."""
    model = Constant()
    clean = dark + span * torch.rand(6, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    asked: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].clone()))
    labels = torch.zeros(6, dtype=torch.int64)
    attacked(Square(queries=100), model, clean, labels, LpBall(norm="linf", radius=0.01))
    # Nothing is ever better than the start.
    for candidate in asked[1:]:
        assert bool((candidate != asked[0]).flatten(1).any(1).all())


@norms
def test_every_query_is_in_the_set_paid_for_and_the_last_window_reaches_the_corner(
    norm: Norm,
) -> None:
    model = Counting(Network())
    clean = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = model.model(clean).argmax(1)
    ball = LpBall(norm=norm, radius=1e-3)
    touched = torch.zeros(4, 5, dtype=torch.bool)

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert bool(ball.contains(clean, inputs[0]).all())
        touched.logical_or_((inputs[0] != clean).any(0).any(0))

    model.register_forward_pre_hook(look)
    changed, spent = attacked(Square(queries=40), model, clean, labels, ball)
    assert spent.tolist() == [40] * 3
    assert model.forward_rows == 120
    assert bool(ball.contains(clean, changed).all())
    assert bool(touched[-1, -1])


@norms
def test_it_leaves_at_the_first_success_and_survives_what_is_broken_already(norm: Norm) -> None:
    model = Network()
    clean = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    wrong = (model(clean).argmax(1) + 1) % 4
    tiny = LpBall(norm=norm, radius=1e-4)
    for rows in (slice(0, 5), slice(0, 1)):
        changed, spent = attacked(Square(), model, clean[rows], wrong[rows], tiny)
        assert spent.tolist() == [1] * len(clean[rows])
        assert bool((model(changed).argmax(1) != wrong[rows]).all())


@norms
@pytest.mark.parametrize("width", [None, 2])
@pytest.mark.parametrize("queries", [1, 3, 50])
def test_it_ends_at_the_budget(norm: Norm, width: int | None, queries: int) -> None:
    model = Network()
    clean = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = model(clean).argmax(1)
    ball = LpBall(norm=norm, radius=1e-4)
    _, spent = attacked(Square(), model, clean, labels, ball, width=width, queries=queries)
    assert spent.tolist() == [queries] * 5


@norms
@pytest.mark.parametrize("budget", [None, 100])
def test_windows_shrink_over_what_may_be_spent(norm: Norm, budget: int | None) -> None:
    """The schedule spreads over the queries, or over the budget if that is less."""
    model = Constant()
    clean = torch.full((1, 1, 16, 16), 0.5)
    asked: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].clone()))
    labels = torch.zeros(1, dtype=torch.int64)
    ball = LpBall(norm=norm, radius=0.1)
    attacked(Square(queries=400), model, clean, labels, ball, queries=budget)
    assert len(asked) == (budget or 400)
    # In l2 a change of one window scales all others, and two windows take part.
    share = asked[0] - 0.5
    changed = [
        int(((image - 0.5 - share).abs() > (1e-6 if norm == "linf" else 2e-3)).sum())
        for image in asked[1:]
    ]
    assert max(changed[:3]) > 60
    assert max(changed[-20:]) <= (1 if norm == "linf" else 40)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 9), (3, 9, 2), (2, 3, 3), (1, 28, 28)])
@norms
def test_any_shape(norm: Norm, shape: tuple[int, int, int]) -> None:
    clean = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Identity())
    labels = torch.zeros(2, dtype=torch.int64)
    if clean[0].numel() > 1:
        labels = model(clean).argmax(1)
    ball = LpBall(norm=norm, radius=0.01)
    changed, _ = attacked(Square(queries=30), model, clean, labels, ball)
    assert bool(ball.contains(clean, changed).all())


@norms
def test_a_radius_of_nought_changes_nothing(norm: Norm) -> None:
    model = Network()
    clean = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    ball = LpBall(norm=norm, radius=0.0)
    changed, _ = attacked(Square(queries=5), model, clean, model(clean).argmax(1), ball)
    assert torch.equal(changed, clean)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13])
def test_bumps_are_the_reference_s(side: int) -> None:
    theirs = SquareAttack(None, norm="L2", eps=1.0)
    theirs.device = torch.device("cpu")
    upper, lower = (
        theirs.eta_rectangles(side // 2, side),
        theirs.eta_rectangles(side - side // 2, side),
    )
    both = torch.cat([upper, -lower])
    torch.testing.assert_close(bump_of(side, torch.device("cpu")), both / both.norm())


def test_a_window_takes_what_another_gives_up() -> None:
    clean = torch.full((6, 2, 9, 9), 0.5)
    change = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    best = clean + 0.3 * change / change.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    streams = Streams.of(seed=0, ids=torch.arange(6))
    windows = Bumps(clean, LpBall(norm="l2", radius=0.3), share=0.8)
    choice = windows.choose(streams, torch.full((6,), 299), torch.full((6,), 10_000)).of(1)
    assert set(choice.sides.tolist()) == {3}
    moved = windows.step(clean, best, choice) - clean
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((6,), 0.3))
    # Both windows can lie at the same place, or overlap.
    given_up = (moved == 0).flatten(1).sum(1)
    assert set((given_up % 2).tolist()) == {0}
    assert int(given_up.amax()) == 18


@pytest.mark.parametrize(("side", "fitting"), [(4, [1, 3, 4]), (8, [1, 3, 8]), (28, [3, 3, 21])])
def test_windows_of_l2_are_odd_and_of_three_pixels_where_that_is_a_detail(
    side: int, fitting: list[int]
) -> None:
    ball = LpBall(norm="l2", radius=1.0)
    windows = Bumps(torch.zeros(1, 1, side, side + 3), ball, share=0.8)
    assert windows.fitting(torch.tensor([0, 2, 20])).tolist() == fitting


@pytest.mark.parametrize(("kind", "norm"), [(Stripes, "linf"), (Bumps, "l2")])
def test_windows_shrink_by_the_reference_s_schedule(
    kind: type[Stripes] | type[Bumps], norm: Literal["linf", "l2"]
) -> None:
    windows = kind(torch.zeros(1, 3, 32, 32), LpBall(norm=norm, radius=0.1), share=0.8)
    theirs = SquareAttack(None, norm="Linf", p_init=0.8, n_queries=500)
    # Their counter starts at 0 after the start, which is our first query.
    asked = torch.arange(1, 500)
    shares = torch.tensor([theirs.p_selection(number) for number in range(499)])
    wanted = windows.fitting((shares * 32 * 32).sqrt().round().to(torch.int64))
    assert torch.equal(windows.sides(asked, torch.full_like(asked, 500)), wanted)
    # The start is a query of its own, and not changed by it.
    assert windows.sides(torch.tensor([0]), torch.tensor([500])).tolist() == [0]


@pytest.mark.parametrize(
    "arguments", [{"queries": 0}, {"p_init": 0.0}, {"p_init": 1.1}, {"loss": "hinge"}], ids=str
)
def test_options_that_mean_nothing_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        Square(**arguments)  # type: ignore[arg-type]
