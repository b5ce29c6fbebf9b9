"""The verdict: the best learner without the luck of being chosen."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robustkit.data import LabelledImages, load
from robustkit.unlearnable.choosing import accuracy, choose, halves, mean
from robustkit.unlearnable.outcomes import Bits

LEARNERS, IMAGES = 20, 200


def answers(generator: np.random.Generator, share: float) -> Bits:
    bits: NDArray[np.bool_] = generator.random(IMAGES) < share
    return bits


def lucky(right: dict[str, list[Bits]], choosing: Bits) -> float:
    """What must not be reported: the best figure on the images by which it was the best."""
    return choose(right, choosing).chosen


def honest(right: dict[str, list[Bits]], choosing: Bits) -> float:
    return choose(right, choosing).scored.value


@pytest.mark.parametrize(("report", "unbiased"), [(lucky, False), (honest, True)])
def test_of_equal_learners_none_is_made_better_by_being_chosen(
    report: Callable[[dict[str, list[Bits]], Bits], float], unbiased: bool
) -> None:
    """Twenty learners that are all right on six of ten images, over and over."""
    choosing = np.arange(IMAGES) % 2 == 0
    found = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        right = {str(name): [answers(generator, 0.6)] for name in range(LEARNERS)}
        found.append(report(right, choosing))
    # The mean of 200 figures from 100 images each has a standard error of 0.0035.
    average = float(np.mean(found))
    assert (abs(average - 0.6) < 0.012) is unbiased
    assert unbiased or average > 0.66


def test_the_interval_covers_what_the_chosen_learner_can_do() -> None:
    choosing = np.arange(IMAGES) % 2 == 0
    covered = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        truths = {str(name): 0.5 + 0.02 * name for name in range(10)}
        right = {name: [answers(generator, share)] for name, share in truths.items()}
        choice = choose(right, choosing)
        covered += choice.scored.low <= truths[choice.name] <= choice.scored.high
    assert 0.92 < covered / 300 <= 1


def test_the_best_on_the_one_half_is_scored_on_the_other() -> None:
    choosing = np.array([True] * 4 + [False] * 4)
    good, bad = np.array([True] * 4), np.array([False] * 4)
    # The first is the best where it is chosen and the worst where it is scored.
    right = {
        "first": [np.concatenate([good, bad])],
        "second": [np.concatenate([bad, good])],
    }
    choice = choose(right, choosing)
    assert (choice.name, choice.chosen, choice.scored.value) == ("first", 1.0, 0.0)
    other = choose(right, ~choosing)
    assert (other.name, other.chosen, other.scored.value) == ("second", 1.0, 0.0)


def test_of_equal_ones_the_first_is_taken() -> None:
    bits = [np.array([True, False, True, False])]
    assert choose({"b": bits, "a": bits}, np.array([True, True, False, False])).name == "b"


def test_seeds_are_averaged_and_an_image_counts_once() -> None:
    first, second = np.array([True, True, False]), np.array([True, False, False])
    shares = mean([first, second])
    assert shares.tolist() == [1.0, 0.5, 0.0]
    assert accuracy(shares).value == 0.5
    three = accuracy(mean([first] * 3))
    assert three == accuracy(mean([first]))
    assert three.value == pytest.approx(2 / 3)


def test_halves_are_even_over_the_classes_and_depend_on_the_seed_alone() -> None:
    test = load("digits")
    choosing = torch.from_numpy(halves(test, 0))
    assert int(choosing.sum()) == len(test) // 2
    counts = torch.bincount(test.labels), torch.bincount(test.labels[choosing])
    assert int((counts[0] - 2 * counts[1]).abs().max()) <= 4
    assert np.array_equal(halves(test, 0), choosing.numpy())
    assert not np.array_equal(halves(test, 1), choosing.numpy())
    # The order of the images does not matter.
    turned = torch.arange(len(test)).flip(0)
    assert np.array_equal(halves(test.take(turned), 0), choosing.numpy()[::-1])


def test_two_images_are_halved_too() -> None:
    pair = LabelledImages.from_tensors(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
    assert sorted(halves(pair, 0).tolist()) == [False, True]
