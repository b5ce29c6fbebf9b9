"""CrossMax as a function: what follows from its definition, and a slow copy to compare with."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from robustkit.defenses import CrossMax, MeanLogits, MedianLogits, Vote
from robustkit.defenses.crossmax import crossmax
from robustkit.errors import BadInput, ShapeMismatch

SHAPES = st.tuples(st.integers(1, 6), st.integers(2, 9), st.integers(2, 12))


def logits(shape: tuple[int, int, int], seed: int) -> Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(values: Tensor, rank: int | None) -> Tensor:
    """The three steps, number by number."""
    count, members, classes = values.shape
    answers = torch.empty(count, classes)
    for row in range(count):
        table = [[float(one) for one in member] for member in values[row]]
        apart = [[one - max(member) for one in member] for member in table]
        for column in range(classes):
            found = [member[column] for member in apart]
            across = sorted((one - max(found) for one in found), reverse=True)
            answers[row, column] = across[members // 2 if rank is None else rank - 1]
    return answers


@given(SHAPES, st.integers(0, 2**31), st.data())
def test_it_is_what_its_definition_says(
    shape: tuple[int, int, int], seed: int, data: st.DataObject
) -> None:
    values = logits(shape, seed).double()
    rank = data.draw(st.none() | st.integers(2, shape[1]))
    found = crossmax(values, rank=rank, break_ties=False)
    torch.testing.assert_close(found.float(), by_hand(values, rank), atol=1e-6, rtol=1e-6)


@given(SHAPES, st.integers(0, 2**31))
def test_no_answer_is_above_zero_and_the_median_is_a_rank(
    shape: tuple[int, int, int], seed: int
) -> None:
    values = logits(shape, seed)
    median = crossmax(values)
    assert bool((median <= 0).all())
    assert torch.equal(median, crossmax(values, rank=shape[1] // 2 + 1))


@given(SHAPES, st.integers(0, 2**31))
def test_a_constant_of_a_member_cancels_and_a_factor_does_not(
    shape: tuple[int, int, int], seed: int
) -> None:
    values = logits(shape, seed).double()
    offsets = logits((1, shape[1], 1), seed + 1).double()
    torch.testing.assert_close(crossmax(values + offsets), crossmax(values), atol=1e-9, rtol=1e-9)


def test_a_loud_member_is_quietened_by_its_temperature() -> None:
    values = logits((50, 5, 10), 0).double()
    loud = values.clone()
    loud[:, 0] *= 20
    temperatures = (20.0, 1.0, 1.0, 1.0, 1.0)
    assert not torch.allclose(crossmax(loud), crossmax(values))
    torch.testing.assert_close(crossmax(loud, temperatures=temperatures), crossmax(values))
    torch.testing.assert_close(CrossMax(temperatures=temperatures)(loud), crossmax(values))


@given(SHAPES, st.integers(0, 2**31), st.data())
def test_members_and_classes_have_no_order(
    shape: tuple[int, int, int], seed: int, data: st.DataObject
) -> None:
    values = logits(shape, seed).double()
    members = data.draw(st.permutations(range(shape[1])))
    classes = data.draw(st.permutations(range(shape[2])))
    found = crossmax(values[:, members][:, :, classes], break_ties=False)
    assert torch.equal(found, crossmax(values, break_ties=False)[:, classes])


@given(st.integers(2, 9), st.integers(0, 2**31), st.data())
def test_a_class_that_enough_members_name_is_pinned_at_zero_without_gradient(
    members: int, seed: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(2, members))
    values = logits((8, members, 5), seed) / 8
    values[:, :rank, 3] += 6.0
    values.requires_grad_()
    found = crossmax(values, rank=rank)
    assert bool((found[:, 3] == 0).all())
    (slope,) = torch.autograd.grad(found[:, 3].sum(), values)
    assert not bool(slope.any())
    assert bool((F.cross_entropy(found, torch.full((8,), 3), reduction="none") > 0).all())


def test_rivals_get_gradient_through_two_members_only_and_the_cross_entropy_through_more() -> None:
    values = logits((1, 7, 10), 5)
    values[:, :, 0] += 30.0
    values.requires_grad_()
    found = crossmax(values)
    (slope,) = torch.autograd.grad(found[0, 4], values, retain_graph=True)
    assert {number for number in range(7) if bool(slope[0, number].any())} <= set(range(7))
    assert sum(bool(slope[0, number, 4]) for number in range(7)) == 2
    (loss,) = torch.autograd.grad(F.cross_entropy(found, torch.tensor([0])), values)
    (plain,) = torch.autograd.grad(F.cross_entropy(MeanLogits()(values), torch.tensor([0])), values)
    assert loss.abs().sum() > plain.abs().sum()


def test_identical_members_are_a_tie_of_everything() -> None:
    one = logits((20, 1, 10), 1)
    same = one.expand(20, 4, 10)
    assert not bool(crossmax(same, break_ties=False).any())
    assert bool((crossmax(same, break_ties=False).argmax(1) == 0).all())
    # The rule for ties makes the ensemble answer as one of them.
    assert torch.equal(crossmax(same).argmax(1), one[:, 0].argmax(1))


def divided() -> Tensor:
    """(1, 8, 4): four members name class 1, four name class 3, and those are less sure."""
    values = logits((1, 8, 4), 2) / 8
    values[0, :4, 1] = 6.0
    values[0, 4:, 3] = 6.0
    values[0, :4, 3] = 5.0
    return values


def test_with_twice_as_many_members_as_the_rank_two_classes_tie() -> None:
    parity = crossmax(divided(), rank=3, break_ties=False)
    assert (parity[0] == 0).tolist() == [False, True, False, True]
    assert int(parity.argmax()) == 1
    decided = crossmax(divided(), rank=3)
    assert int(decided.argmax()) == 3
    assert decided[0, 1] < decided[0, 3]
    assert torch.allclose(parity, decided)
    # The lower median needs a majority, so that no two classes can have it.
    assert int((crossmax(divided(), break_ties=False) == 0).sum()) <= 1


def test_the_smallest_step_below_zero_decides_and_moves_no_gradient() -> None:
    values = divided().requires_grad_()
    decided = crossmax(values, rank=3)
    second = decided.detach().topk(2).values[0, 1]
    assert -1e-37 < float(second) < 0
    for column in range(4):
        (ours,) = torch.autograd.grad(decided[0, column], values, retain_graph=True)
        (theirs,) = torch.autograd.grad(
            crossmax(values, rank=3, break_ties=False)[0, column], values
        )
        assert torch.equal(ours, theirs)


def test_ties_away_from_zero_are_decided_too() -> None:
    # Three members that agree on nothing: two classes share the largest answer, -1.
    values = torch.tensor([[[0.0, -1.0, -9.0], [-9.0, 0.0, -1.0], [-1.0, -9.0, 0.0]]])
    parity = crossmax(values, break_ties=False)
    assert parity[0].tolist() == [-1.0, -1.0, -1.0]
    decided = crossmax(values)
    assert int((decided == decided.max()).sum()) == 1


def test_the_order_of_the_steps_matters() -> None:
    values = logits((500, 8, 10), 3)
    values[:, :, 0] += 2.0 * torch.arange(8)[None]
    across_first = values - values.amax(1, keepdim=True)
    swapped = (across_first - across_first.amax(2, keepdim=True)).median(1).values
    assert float((swapped.argmax(1) == crossmax(values).argmax(1)).float().mean()) < 0.8


def test_no_number_is_no_answer() -> None:
    values = logits((4, 3, 5), 0)
    values[1, 2, 0] = torch.nan
    for rank, break_ties in itertools.product((None, 2, 3), (False, True)):
        found = crossmax(values, rank=rank, break_ties=break_ties)
        assert found.isnan().all(1).tolist() == [False, True, False, False]
    for rule in (CrossMax(), MeanLogits(), MedianLogits(), Vote()):
        assert rule(values).isnan().any(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("shape", "rank", "message"),
    [
        ((3, 1, 4), None, "Give at least 2"),
        ((3, 1, 4), 2, "Give at least 2"),
        ((3, 4, 5), 1, "give 2 to 4"),
        ((3, 4, 5), 5, "give 2 to 4"),
    ],
)
def test_too_few_members_or_a_rank_that_means_nothing(
    shape: tuple[int, int, int], rank: int | None, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        crossmax(torch.zeros(shape), rank=rank)


def test_shapes_that_do_not_belong_together() -> None:
    with pytest.raises(ShapeMismatch, match="give \\(examples, classifiers, classes\\)"):
        crossmax(torch.zeros(3, 4))
    with pytest.raises(ShapeMismatch, match="2 temperatures came for 3"):
        crossmax(torch.zeros(1, 3, 4), temperatures=(1.0, 1.0))
    with pytest.raises(BadInput, match="2 temperatures for 3 members"):
        MeanLogits(temperatures=(1.0, 1.0))(torch.zeros(1, 3, 4))
    with pytest.raises(BadInput, match="above 0"):
        CrossMax(temperatures=(1.0, 0.0))
    with pytest.raises(BadInput, match="give 2 to 2"):
        CrossMax(rank=1)


def test_plain_rules() -> None:
    values = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [1.0, 0.0, 9.0], [2.0, 0.0, 0.0]]])
    assert MeanLogits()(values)[0].tolist() == [1.5, 1.0, 2.25]
    assert MedianLogits()(values)[0].tolist() == [1.0, 0.0, 0.0]
    assert Vote()(values).argmax(1).tolist() == [0]
    assert torch.equal(MeanLogits()(values[:, :1]), values[:, 0])


def test_a_vote_counts_and_its_softmax_decides_only_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(200, 6, 4, generator=generator)
    found = Vote()(values)
    votes = F.one_hot(values.argmax(2), 4).sum(1)
    assert torch.equal(found.floor().long().clamp_max(votes), votes)
    best = votes.max(1, keepdim=True).values
    assert bool((votes.gather(1, found.argmax(1, keepdim=True)) == best).all())
    tied = (votes == best).sum(1) > 1
    assert bool(tied.any())
    softmax = values.softmax(2).mean(1).masked_fill(votes < best, -1)
    assert torch.equal(found.argmax(1), softmax.argmax(1))


def test_it_stays_on_the_device_of_the_logits(device: torch.device) -> None:
    values = logits((6, 8, 10), 4)
    there = values.to(device).requires_grad_()
    for rank in (None, 3):
        found = crossmax(there, rank=rank, temperatures=[1.0] * 8)
        assert found.device == there.device
        assert torch.equal(found.detach().cpu(), crossmax(values, rank=rank))
        (slope,) = torch.autograd.grad(found.sum(), there)
        assert slope.device == there.device
