"""Which examples are changed: exact, even over the classes, and known to who can draw it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.unlearnable import stratified


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_the_total_is_exact_and_every_class_gives_its_part(
    labels: list[int], share: float, seed: int
) -> None:
    given_labels = torch.tensor(labels)
    streams = Streams.of(seed=seed, ids=torch.arange(len(labels)))
    chosen = stratified(given_labels, share, streams)
    assert int(chosen.sum()) == round(share * len(labels))
    for label in set(labels):
        members = int((given_labels == label).sum())
        got = int(chosen[given_labels == label].sum())
        assert abs(got - share * members) < 1


def test_every_member_of_a_class_is_as_likely() -> None:
    labels = torch.arange(20) % 2
    counts = torch.zeros(20)
    for seed in range(600):
        counts += stratified(labels, 0.5, Streams.of(seed=seed, ids=torch.arange(20)))
    assert float((counts - 300).abs().max()) < 5 * (600 * 0.25) ** 0.5


def test_the_choice_follows_the_ids_and_not_the_order() -> None:
    labels, ids = torch.arange(40) % 4, torch.arange(100, 140)
    chosen = stratified(labels, 0.3, Streams.of(seed=1, ids=ids))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = stratified(labels[order], 0.3, Streams.of(seed=1, ids=ids[order]))
    # Four classes of ten give three each: no remainder that would depend on anything else.
    assert torch.equal(shuffled, chosen[order])
    assert not torch.equal(stratified(labels, 0.3, Streams.of(seed=2, ids=ids)), chosen)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_mean_nothing_are_refused(share: float) -> None:
    with pytest.raises(BadInput, match=r"\[0, 1\]"):
        stratified(torch.tensor([0]), share, Streams.of(seed=0, ids=torch.arange(1)))
