"""Goals, answers, and the one rule of success."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from robustkit.errors import BadInput, ShapeMismatch
from robustkit.randomness import Streams
from robustkit.threat_models import (
    NO_NUMBER,
    REFUSED,
    Availability,
    Backdoor,
    Extraction,
    Goal,
    Objective,
    Output,
    Targeted,
    Untargeted,
    objective,
    parse_goal,
)

LABELS = torch.tensor([0, 0, 0, 0])
LOGITS = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 2.0], [math.nan, 1.0, 2.0]])


def reached(output: Output, targets: list[int] | None = None) -> list[bool]:
    wanted = None if targets is None else torch.tensor(targets)
    return Objective(LABELS, wanted).reached(output).tolist()


def test_a_wrong_label_is_a_win_and_no_number_is_wrong() -> None:
    assert reached(Output(LOGITS)) == [False, True, True, True]


def test_a_targeted_win_is_the_target_and_nothing_else() -> None:
    assert reached(Output(LOGITS), [1, 1, 1, 2]) == [False, True, False, False]
    assert reached(Output(LOGITS), [2, 2, 2, 2]) == [False, False, True, False]


def test_what_was_rejected_is_no_win() -> None:
    rejected = torch.tensor([True, True, False, True])
    assert reached(Output(LOGITS, rejected)) == [False, False, True, False]
    assert reached(Output(LOGITS, rejected), [1, 1, 2, 2]) == [False, False, True, False]


def test_a_set_is_won_when_the_right_label_leaves_it() -> None:
    sets = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]], dtype=torch.bool)
    assert reached(Output(LOGITS, label_set=sets)) == [False, True, True, True]
    assert reached(Output(LOGITS, label_set=sets), [1, 1, 1, 1]) == [False, True, False, False]
    rejected = torch.tensor([False, True, False, False])
    assert reached(Output(LOGITS, rejected, sets)) == [False, False, True, True]


def test_labels_of_answers() -> None:
    assert Output(LOGITS).labels.tolist() == [0, 1, 2, NO_NUMBER]
    rejected = torch.tensor([False, True, False, True])
    assert Output(LOGITS, rejected).labels.tolist() == [0, REFUSED, 2, REFUSED]
    assert Output(torch.tensor([[math.inf, 1.0]])).labels.tolist() == [0]
    assert Output(LOGITS).labels.dtype == torch.int64


def test_answers_are_taken_apart_and_joined() -> None:
    rejected = torch.tensor([False, True, False, False])
    whole = Output(LOGITS, rejected, LOGITS > 1)
    parts = [whole.take(slice(0, 1)), whole.take(torch.tensor([1, 2])), whole.take(slice(3, 4))]
    joined = Output.cat(parts)
    assert torch.equal(joined.logits, LOGITS) or bool(joined.logits.isnan().any())
    assert joined.rejected is not None
    assert joined.label_set is not None
    assert torch.equal(joined.rejected, rejected)
    assert torch.equal(joined.label_set, LOGITS > 1)
    assert Output.cat([Output(LOGITS), Output(LOGITS)]).rejected is None


def test_hidden_answers_reach_no_target() -> None:
    rows = torch.tensor([True, False, True, False])
    hidden = Output(LOGITS, torch.zeros(4, dtype=torch.bool), LOGITS > 0).hidden(rows)
    assert hidden.labels.tolist() == [REFUSED, 1, REFUSED, NO_NUMBER]
    assert not bool(Objective(LABELS).reached(hidden)[rows].any())
    assert not bool(Objective(LABELS).reached(Output(LOGITS).hidden(rows))[rows].any())


@pytest.mark.parametrize("labels", [torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64)])
def test_labels_that_are_no_vector_of_integers_are_refused(labels: Tensor) -> None:
    with pytest.raises(ShapeMismatch, match="int64"):
        Objective(labels)
    with pytest.raises(ShapeMismatch, match="int64"):
        Objective(torch.zeros(2, dtype=torch.int64), labels)


def test_as_many_targets_as_labels() -> None:
    with pytest.raises(ShapeMismatch, match="3 targets"):
        Objective(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))


def test_objectives_of_some_rows() -> None:
    whole = Objective(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    some = whole.take(torch.tensor([2, 0]))
    assert some.labels.tolist() == [2, 0]
    assert some.targets is not None
    assert some.targets.tolist() == [0, 1]
    assert (whole.name, len(whole)) == ("targeted", 3)
    assert Objective(whole.labels).name == "untargeted"
    assert Objective(whole.labels).take(slice(0, 1)).targets is None


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("untargeted", Untargeted()),
        ("targeted", Targeted("random")),
        ("targeted:random", Targeted("random")),
        ("targeted:least-likely", Targeted("least-likely")),
        ("targeted:second", Targeted("second")),
    ],
)
def test_goals_by_name(text: str, goal: Goal) -> None:
    assert parse_goal(text) == goal
    assert parse_goal(text).name == text.partition(":")[0]


@pytest.mark.parametrize(
    "text", ["", "target", "Untargeted", "untargeted:random", "targeted:given", "targeted:3", ":"]
)
def test_goals_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="least-likely"):
        parse_goal(text)


def test_a_selection_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadInput, match="least-likely"):
        Targeted("best")  # type: ignore[arg-type]


def targets(goal: Goal, labels: Tensor, logits: Tensor, seed: int = 0) -> Tensor:
    streams = Streams.of(seed=seed, ids=torch.arange(len(labels)))
    made = objective(goal, labels, logits, streams)
    assert torch.equal(made.labels, labels)
    assert made.targets is not None
    return made.targets


def test_targets_by_likelihood_are_never_the_right_label() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    labels = torch.tensor([0, 1, 2])
    assert targets(Targeted("second"), labels, logits).tolist() == [1, 0, 0]
    assert targets(Targeted("least-likely"), labels, logits).tolist() == [2, 2, 1]


def test_random_targets_are_wrong_and_uniform_and_the_example_s_own() -> None:
    labels = torch.arange(3000) % 5
    logits = torch.zeros(3000, 5)
    drawn = targets(Targeted(), labels, logits)
    assert bool((drawn != labels).all())
    shift = ((drawn - labels) % 5).bincount(minlength=5)[1:]
    assert stats.chisquare(shift.numpy()).pvalue > 1e-3
    assert torch.equal(targets(Targeted(), labels[:7], logits[:7]), drawn[:7])
    assert not torch.equal(targets(Targeted(), labels, logits, seed=1), drawn)


def test_two_classes_leave_one_target() -> None:
    labels = torch.tensor([0, 1])
    for selection in ("random", "least-likely", "second"):
        goal = Targeted(selection)
        assert targets(goal, labels, torch.rand(2, 2)).tolist() == [1, 0]


def test_an_untargeted_goal_needs_no_targets() -> None:
    streams = Streams.of(seed=0, ids=torch.arange(2))
    assert objective(Untargeted(), LABELS[:2], torch.rand(2, 3), streams).targets is None


@pytest.mark.parametrize(
    "goal", [Targeted("given"), Backdoor(1), Availability(), Extraction()], ids=str
)
def test_goals_without_a_target_for_an_image_are_refused(goal: Goal) -> None:
    with pytest.raises(BadInput, match="Objective"):
        objective(goal, LABELS, LOGITS, Streams.of(seed=0, ids=torch.arange(4)))


def test_one_class_has_no_wrong_one() -> None:
    with pytest.raises(BadInput, match="two classes"):
        objective(Targeted(), LABELS, torch.zeros(4, 1), Streams.of(seed=0, ids=torch.arange(4)))
