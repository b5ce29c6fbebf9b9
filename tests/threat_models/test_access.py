"""Views: grant exactly what they should, charge every query to the right example, keep budgets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustkit.errors import BadInput, BudgetExceeded, ShapeMismatch
from robustkit.randomness import Streams
from robustkit.threat_models import (
    REFUSED,
    Access,
    Decisions,
    Gradients,
    LpBall,
    Meter,
    Objective,
    Output,
    Scores,
    ThreatModel,
    answer,
    grant,
)
from robustkit.threat_models.model import Budget
from tests.oracles import Constant, Counting, LabelSets, Noisy, Rejecting, linear_problem

METHODS = {"labels", "scores", "logits", "answer", "exact"}


def meter(
    model: nn.Module, n: int = 4, *, width: int | None = None, queries: int | None = None
) -> Meter:
    return Meter(model, Streams.of(seed=0, ids=torch.arange(n)), width=width, queries=queries)


def decisions(
    model: nn.Module, n: int = 4, *, width: int | None = None, queries: int | None = None
) -> Decisions:
    return grant(meter(model, n, width=width, queries=queries), Access.DECISION)


def gradients(
    model: nn.Module, n: int = 4, *, width: int | None = None, queries: int | None = None
) -> Gradients:
    view = grant(meter(model, n, width=width, queries=queries), Access.GRADIENT)
    assert isinstance(view, Gradients)
    return view


@pytest.mark.parametrize(
    ("access", "kind", "methods"),
    [
        (Access.DECISION, Decisions, {"labels"}),
        (Access.SCORE, Scores, {"labels", "scores"}),
        (Access.GRADIENT, Gradients, METHODS),
    ],
)
def test_a_view_has_what_it_grants_and_nothing_more(
    access: Access, kind: type[Decisions], methods: set[str]
) -> None:
    problem = linear_problem(examples=4)
    threat = ThreatModel(name="t", access=access, perturbation=LpBall(norm="linf", radius=0.1))
    view = threat.view(problem.model, Streams.of(seed=0, ids=torch.arange(4)))
    assert type(view) is kind
    assert {name for name in METHODS if hasattr(view, name)} == methods
    public = {name for name in dir(view) if not name.startswith("_")}
    assert public == methods | {"spent", "remaining", "width", "take", "module"}
    # The model itself is not to be found in anything the view shows.
    assert not any(isinstance(value, nn.Module) for value in vars(view).values())
    assert list(view.module.parameters()) == []
    assert list(view.module.buffers()) == []
    assert list(view.module.children()) == []


def test_answers_of_lower_views_carry_no_graph() -> None:
    problem = linear_problem(examples=4)
    inputs = problem.clean.clone().requires_grad_()
    scores = grant(meter(problem.model), Access.SCORE)
    assert isinstance(scores, Scores)
    assert not scores.scores(inputs).requires_grad
    assert not scores.labels(inputs).requires_grad
    assert not scores.module(inputs).requires_grad
    assert not decisions(problem.model).module(inputs).requires_grad
    assert gradients(problem.model).logits(inputs).requires_grad
    assert gradients(problem.model).module(inputs).requires_grad
    assert not gradients(problem.model).labels(inputs).requires_grad


def test_modules_answer_what_their_view_grants() -> None:
    problem = linear_problem(examples=4, classes=3)
    logits = problem.model(problem.clean)
    hot = decisions(problem.model).module(problem.clean)
    assert torch.equal(hot, torch.eye(3)[problem.labels])
    scores = grant(meter(problem.model), Access.SCORE)
    assert torch.equal(scores.module(problem.clean), logits)
    assert torch.equal(gradients(problem.model).module(problem.clean), logits)
    refusing = decisions(Rejecting(problem.model, lead=torch.inf)).module(problem.clean)
    assert torch.equal(refusing, torch.zeros(4, 3))


def test_views_answer_as_the_model_does(device: torch.device) -> None:
    problem = linear_problem(examples=4, classes=3).to(device)
    streams = Streams.of(seed=0, ids=torch.arange(4, device=device))
    view = grant(Meter(problem.model, streams, width=3), Access.GRADIENT)
    assert isinstance(view, Gradients)
    logits = problem.model(problem.clean)
    assert torch.equal(view.labels(problem.clean), problem.labels)
    torch.testing.assert_close(view.scores(problem.clean), logits)
    torch.testing.assert_close(view.logits(problem.clean), logits)
    assert view.spent.tolist() == [3] * 4
    assert view.spent.device.type == device.type


@given(
    rows=st.lists(st.integers(-1, 4), min_size=1, max_size=20),
    width=st.sampled_from([None, 1, 3, 8]),
)
@settings(max_examples=60)
def test_every_query_is_charged_to_who_pays(rows: list[int], width: int | None) -> None:
    problem = linear_problem(examples=5)
    counting = Counting(problem.model)
    view = gradients(counting, 5, width=width)
    index = torch.tensor(rows)
    inputs = problem.clean[index.clamp_min(0)].requires_grad_()
    logits = view.logits(inputs, index)
    expected = index[index >= 0].bincount(minlength=5)
    assert torch.equal(view.spent, expected)
    # Padding costs rows of work but nobody's queries.
    assert counting.forward_rows >= len(rows)
    if width is not None:
        assert set(counting.widths) == {width}
    real = index >= 0
    torch.testing.assert_close(logits[real], problem.model(inputs)[real])
    if bool(real.any()):
        (gradient,) = torch.autograd.grad(logits[real].sum(), inputs)
        assert bool((gradient[real] != 0).all())
        assert bool((gradient[~real] == 0).all())


@pytest.mark.parametrize("width", [None, 1, 2, 3, 100])
def test_the_ledger_counts_what_an_independent_counter_counts(width: int | None) -> None:
    problem = linear_problem(examples=4)
    counting = Counting(problem.model)
    account = meter(counting, width=width)
    view = grant(account, Access.GRADIENT)
    assert isinstance(view, Gradients)
    inputs = problem.clean.clone().requires_grad_()
    torch.autograd.grad(view.logits(inputs).sum(), inputs)
    view.labels(problem.clean)
    view.scores(inputs)
    bill = account.ledger.passes
    assert (bill.forward, bill.backward) == (12, 4)
    assert bill.rows_run == counting.forward_rows
    assert account.ledger.backward.tolist() == [1] * 4
    assert account.ledger.attributed


def test_every_gradient_is_charged() -> None:
    problem = linear_problem(examples=4)
    account = meter(problem.model)
    view = grant(account, Access.GRADIENT)
    assert isinstance(view, Gradients)
    inputs = problem.clean.clone().requires_grad_()
    logits = view.logits(inputs)
    for column in range(2):
        torch.autograd.grad(logits[:, column].sum(), inputs, retain_graph=True)
    assert account.ledger.backward.tolist() == [2] * 4
    assert account.ledger.forward.tolist() == [1] * 4


def test_padding_is_answered_with_nothing() -> None:
    """Whoever pays nothing learns nothing: otherwise every query could be declared padding."""
    problem = linear_problem(examples=4, classes=3)
    padding = torch.tensor([-1, 0, -1, 2])
    view = gradients(problem.model, queries=1)
    output = view.answer(problem.clean, padding)
    assert output.labels.tolist()[0] == REFUSED
    assert output.labels.tolist()[2] == REFUSED
    assert not bool(Objective(problem.labels).reached(output)[padding < 0].any())
    assert bool(output.logits[padding < 0].isnan().all())
    assert not bool(output.logits[padding >= 0].isnan().any())
    nobody = torch.full((4,), -1)
    assert view.labels(problem.clean, nobody).tolist() == [-1] * 4
    assert bool(view.scores(problem.clean, nobody).isnan().all())
    sets = gradients(LabelSets(problem.model, 0.5)).answer(problem.clean, nobody)
    assert sets.label_set is not None
    assert not bool(sets.label_set.any())
    inputs = problem.clean.clone().requires_grad_()
    logits = gradients(problem.model).logits(inputs, nobody)
    (gradient,) = torch.autograd.grad(logits.sum(), inputs)
    assert not bool(gradient.any())


def test_a_query_over_the_budget_is_refused_before_the_model_is_asked() -> None:
    problem = linear_problem(examples=4)
    counting = Counting(problem.model)
    view = decisions(counting, queries=2)
    view.labels(problem.clean)
    view.labels(problem.clean[:1], torch.tensor([3]))
    calls = counting.calls
    assert view.remaining is not None
    assert view.remaining.tolist() == [1, 1, 1, 0]
    with pytest.raises(BudgetExceeded, match="more than 2"):
        view.labels(problem.clean)  # only the last one cannot pay
    with pytest.raises(BudgetExceeded):
        view.labels(problem.clean[:2], torch.tensor([0, 0]))  # twice in one call
    assert counting.calls == calls
    assert view.spent.tolist() == [1, 1, 1, 2]
    view.labels(problem.clean[:3], torch.tensor([0, 1, 2]))
    assert view.spent.tolist() == [2] * 4


@pytest.mark.parametrize("access", list(Access))
def test_a_view_of_some_victims_is_on_the_same_account(access: Access) -> None:
    problem = linear_problem(examples=4)
    view = grant(meter(problem.model, queries=2), access)
    some = view.take(torch.tensor([3, 1]))
    assert type(some) is type(view)
    assert len(some) == 2
    some.labels(problem.clean[[3, 1]])
    some.take(torch.tensor([0])).labels(problem.clean[3:4])
    assert view.spent.tolist() == [0, 1, 0, 2]
    assert some.spent.tolist() == [2, 1]
    with pytest.raises(BudgetExceeded):
        view.labels(problem.clean)
    nobody = view.take(torch.tensor([], dtype=torch.int64))
    assert len(nobody) == 0
    assert len(nobody.spent) == 0


def test_foreign_code_pays_from_its_only_victim_or_from_a_common_bill() -> None:
    problem = linear_problem(examples=4)
    account = meter(problem.model)
    view = grant(account, Access.GRADIENT)
    view.take(torch.tensor([2])).module(problem.clean.repeat(3, 1, 1, 1))
    assert view.spent.tolist() == [0, 0, 12, 0]
    assert account.ledger.attributed
    inputs = problem.clean.clone().requires_grad_()
    torch.autograd.grad(view.module(inputs).sum(), inputs)
    assert view.spent.tolist() == [0, 0, 12, 0]
    assert not account.ledger.attributed
    assert (account.ledger.passes.forward, account.ledger.passes.backward) == (16, 4)


def test_under_a_budget_foreign_code_must_attack_one_example_at_a_time() -> None:
    problem = linear_problem(examples=4)
    counting = Counting(problem.model)
    view = decisions(counting, queries=5)
    with pytest.raises(BudgetExceeded, match="which example pays"):
        view.module(problem.clean)
    alone = view.take(torch.tensor([1])).module
    alone(problem.clean)
    with pytest.raises(BudgetExceeded):
        alone(problem.clean)
    assert counting.forward_rows == 4
    assert view.spent.tolist() == [0, 4, 0, 0]


def test_inputs_and_payers_must_belong_together() -> None:
    problem = linear_problem(examples=4)
    counting = Counting(problem.model)
    view = decisions(counting)
    with pytest.raises(ShapeMismatch, match="3 inputs came for 4 victims"):
        view.labels(problem.clean[:3])
    with pytest.raises(ShapeMismatch, match="4 inputs came with 2 payers"):
        view.labels(problem.clean, torch.tensor([0, 1]))
    assert counting.calls == 0
    assert view.spent.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda x: x, "shape"),
        (lambda x: x.flatten(1).sum(1), "shape"),
        (lambda x: x.flatten(1)[:1], "shape"),
        (lambda x: (x.flatten(1),), "a tuple"),
        (lambda x: {"logits": x.flatten(1)}, "a dict"),
    ],
    ids=["image", "vector", "too few rows", "tuple", "dict"],
)
def test_a_model_that_answers_no_logits_is_told_so(returned: object, said: str) -> None:
    class Odd(nn.Module):
        def forward(self, inputs: Tensor) -> object:
            return returned(inputs)  # type: ignore[operator]

    with pytest.raises(ShapeMismatch, match=said):
        answer(Odd(), torch.rand(2, 1, 2, 2))


def test_a_refused_answer_is_no_label() -> None:
    problem = linear_problem(examples=4)
    assert decisions(Rejecting(problem.model, torch.inf)).labels(problem.clean).tolist() == [-1] * 4
    assert torch.equal(
        decisions(Rejecting(problem.model, 0.0)).labels(problem.clean), problem.labels
    )


@pytest.mark.parametrize("width", [None, 1, 3, 8])
def test_random_models_never_repeat_a_draw_for_an_example(width: int | None) -> None:
    problem = linear_problem(examples=4)
    noisy = Noisy(problem.model)
    view = decisions(noisy, width=width)
    seen: list[tuple[int, float]] = []

    def ask(rows: list[int]) -> None:
        noisy.drawn.clear()
        noisy.ids.clear()
        index = torch.tensor(rows)
        view.labels(problem.clean[index.clamp_min(0)], index)
        step = width or len(rows)
        for start, drawn, ids in zip(
            range(0, len(rows), step), noisy.drawn, noisy.ids, strict=True
        ):
            part = rows[start : start + step]
            for payer, number, example in zip(part, drawn.tolist(), ids.tolist(), strict=False):
                if payer >= 0:
                    assert example == payer
                    seen.append((payer, number))

    for rows in ([0, 1, 2, 3], [-1, 0, -1, 0], [0, 0, 0, 2], [3, -1, 3, 1], [0], [-1, 0]):
        ask(rows)
    assert len(set(seen)) == len(seen)
    assert len({number for _, number in seen}) == len(seen)


@pytest.mark.parametrize("padding", [0, 2])
def test_random_answers_do_not_depend_on_the_order_in_a_batch(padding: int) -> None:
    problem = linear_problem(examples=4)

    def answers(order: list[int]) -> Tensor:
        view = grant(meter(Noisy(problem.model), width=8), Access.SCORE)
        assert isinstance(view, Scores)
        index = torch.tensor([-1] * padding + order)
        rounds = []
        for _ in range(3):
            scores = view.scores(problem.clean[index.clamp_min(0)], index)[padding:]
            rounds.append(scores[torch.tensor(order).argsort()])
        return torch.stack(rounds)

    straight = answers([0, 1, 2, 3])
    torch.testing.assert_close(answers([2, 0, 3, 1]), straight, rtol=0, atol=1e-5)
    assert not torch.equal(straight[0], straight[1])


def test_random_models_under_foreign_code_draw_anew_in_every_call() -> None:
    problem = linear_problem(examples=4)
    noisy = Noisy(problem.model)
    module = decisions(noisy).module
    module(problem.clean)
    module(problem.clean)
    drawn = torch.cat(noisy.drawn)
    assert len(set(drawn.tolist())) == 8


def test_two_random_searches_from_the_same_streams_agree() -> None:
    problem = linear_problem(examples=4)
    one, two = Noisy(problem.model), Noisy(problem.model)
    for model in (one, two):
        decisions(model).labels(problem.clean)
    assert torch.equal(one.drawn[0], two.drawn[0])


def test_constant_and_zero_gradient_models_are_charged_like_others() -> None:
    account = meter(Constant(), 2)
    view = grant(account, Access.GRADIENT)
    assert isinstance(view, Gradients)
    inputs = torch.rand(2, 1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(view.logits(inputs).sum(), inputs)
    assert not bool(gradient.any())
    assert account.ledger.backward.tolist() == [1, 1]


def test_access_is_ordered_and_parsed() -> None:
    assert Access.DECISION < Access.SCORE < Access.GRADIENT
    assert [Access.parse(str(access)) for access in Access] == list(Access)
    with pytest.raises(BadInput, match="decision, score, gradient"):
        Access.parse("oracle")


def test_the_budget_of_a_threat_reaches_its_views() -> None:
    threat = ThreatModel(
        name="t", perturbation=LpBall(norm="linf", radius=0.1), budget=Budget(queries=3)
    )
    problem = linear_problem(examples=4)
    view = threat.view(problem.model, Streams.of(seed=0, ids=torch.arange(4)))
    assert view.remaining is not None
    assert view.remaining.tolist() == [3] * 4
    assert view.width is None
    assert threat.meter(problem.model, Streams.of(seed=0, ids=torch.arange(4)), width=8).width == 8
    assert isinstance(answer(problem.model, problem.clean), Output)


class Viewing(nn.Module):
    """Calls `view` on its inputs, as many models do, and keeps their strides."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.strides = inputs.stride()
        return inputs.view(len(inputs), -1)[:, :3]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_model_is_asked_with_plain_strides(channels: int) -> None:
    images = torch.rand(2, 4, 5, channels).permute(0, 3, 1, 2)
    model = Viewing()
    plain_strides = torch.empty(2, channels, 4, 5).stride()
    assert images.stride() != plain_strides
    answer(model, images)
    assert model.strides == plain_strides
