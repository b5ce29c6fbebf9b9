"""Streams: the published generator, independence of everything but the example, distributions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from robustkit.errors import ShapeMismatch
from robustkit.randomness import Streams, _philox, seed_generators

DRAWS = ("bits", "uniform", "normal", "signs", "integers", "permutation")
IDS = st.integers(0, 2**32 - 1)
KNOWN_BITS = [[13033310, 1381953758, 3151544630], [1719145793, 4137748463, 2289539823]]


def draw_all(
    streams: Streams, kind: str, shape: tuple[int, ...] = (3, 5), draw: Tensor | int = 0
) -> Tensor:
    """Numbers of one kind, whatever their method takes."""
    if kind == "integers":
        return streams.integers(1000, shape, draw=draw)
    if kind == "permutation":
        return streams.permutation(7, draw=draw)
    numbers: Tensor = getattr(streams, kind)(shape, draw=draw)
    return numbers


def word(value: int) -> Tensor:
    return torch.tensor([value], dtype=torch.int64)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_the_generator_gives_the_published_answers(
    counter: tuple[int, int, int, int],
    key: tuple[int, int],
    answer: tuple[int, ...],
    device: torch.device,
) -> None:
    c0, c1, c2, c3 = (word(value).to(device) for value in counter)
    assert tuple(int(part) for part in _philox((c0, c1, c2, c3), key)) == answer


def test_known_numbers_never_change() -> None:
    """Stored results depend on these: a change breaks the reproducibility of every report."""
    streams = Streams.of(seed=7, ids=torch.tensor([0, 5])).fork("start")
    assert streams.bits((3,)).tolist() == KNOWN_BITS


@pytest.mark.parametrize("kind", DRAWS)
@given(ids=st.lists(IDS, min_size=1, max_size=9, unique=True), data=st.data())
@settings(max_examples=25)
def test_order_and_neighbours_do_not_matter(kind: str, ids: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=12))
    shape = data.draw(st.sampled_from([(1,), (3,), (2, 7), (3, 5, 4), (33,)]))
    streams = Streams.of(seed=3, ids=torch.tensor(ids))
    together = draw_all(streams, kind, shape, draw=2)
    picked = draw_all(streams.take(torch.tensor(rows)), kind, shape, draw=2)
    assert torch.equal(picked, together[rows])
    alone = draw_all(Streams.of(seed=3, ids=torch.tensor(ids[:1])), kind, shape, draw=2)
    assert torch.equal(alone, together[:1])


@pytest.mark.parametrize("kind", DRAWS)
def test_every_part_of_the_key_matters(kind: str, device: torch.device) -> None:
    ids = torch.arange(4, device=device)
    base = Streams.of(seed=0, ids=ids)
    variants = [
        draw_all(base, kind, (64,)),
        draw_all(base, kind, (64,), draw=1),
        draw_all(base.on_lanes(1), kind, (64,)),
        draw_all(base.fork("a"), kind, (64,)),
        draw_all(base.fork("b"), kind, (64,)),
        draw_all(base.fork("a").fork("a"), kind, (64,)),
        draw_all(Streams.of(seed=1, ids=ids), kind, (64,)),
        draw_all(Streams.of(seed=0, ids=ids, purpose="a"), kind, (64,)),
        draw_all(Streams.of(seed=0, ids=ids + 4), kind, (64,)),
    ]
    rows = torch.cat(variants).tolist()
    assert len({tuple(row) for row in rows}) == len(rows)
    assert torch.equal(draw_all(base, kind, (64,)), variants[0])


def test_purposes_do_not_run_together() -> None:
    """Neither ("a", "bc") and ("ab", "c") nor seeds and purposes may collide."""
    ids = torch.arange(1)
    keys = {
        Streams.of(seed=0, ids=ids).fork("a").fork("bc").key,
        Streams.of(seed=0, ids=ids).fork("ab").fork("c").key,
        Streams.of(seed=0, ids=ids).fork("abc").key,
        Streams.of(seed=0, ids=ids, purpose="abc").key,
        Streams.of(seed=1, ids=ids, purpose="1").key,
        Streams.of(seed=11, ids=ids, purpose="").key,
    }
    assert len(keys) == 6


@pytest.mark.parametrize("kind", DRAWS)
def test_a_draw_per_row_gives_what_each_draw_gives(kind: str, device: torch.device) -> None:
    streams = Streams.of(seed=0, ids=torch.tensor([9, 9, 2], device=device))
    draws = torch.tensor([4, 0, 4], device=device)
    mixed = draw_all(streams, kind, draw=draws)
    for row, draw in enumerate((4, 0, 4)):
        assert torch.equal(mixed[row], draw_all(streams, kind, draw=draw)[row])


def test_a_lane_per_row_gives_what_each_lane_gives(device: torch.device) -> None:
    streams = Streams.of(seed=0, ids=torch.tensor([9, 9, 2], device=device))
    mixed = streams.on_lanes(torch.tensor([1, 0, 7], device=device)).uniform((5,))
    for row, lane in enumerate((1, 0, 7)):
        assert torch.equal(mixed[row], streams.on_lanes(lane).uniform((5,))[row])


def test_numbers_within_a_row_differ() -> None:
    bits = Streams.of(seed=0, ids=torch.arange(3)).bits((5000,))
    assert all(len(set(row)) > 4990 for row in bits.tolist())


@pytest.mark.parametrize("rows", [slice(None), 0], ids=["over all examples", "within one example"])
def test_uniform_numbers_are_uniform(rows: slice | int) -> None:
    numbers = Streams.of(seed=1, ids=torch.arange(200)).uniform((3, 40), -2.0, 6.0)
    sample = numbers.numpy()[:, 0, 0] if rows == slice(None) else numbers.numpy()[0].ravel()
    assert stats.kstest(sample, stats.uniform(-2, 8).cdf).pvalue > 1e-3


@given(seed=st.integers(0, 2**63), low=st.floats(-300, 300), span=st.floats(0.01, 300))
@settings(max_examples=60)
def test_uniform_numbers_lie_in_the_half_open_range(seed: int, low: float, span: float) -> None:
    numbers = Streams.of(seed=seed, ids=torch.arange(50)).uniform((200,), low, low + span)
    assert numbers.dtype == torch.float32
    assert float(numbers.min()) >= float(np.float32(low))
    assert float(numbers.max()) < float(np.float32(low + span))


def test_the_largest_word_stays_below_the_upper_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def largest(self: Streams, shape: tuple[int, ...], *, draw: Tensor | int = 0) -> Tensor:
        return torch.full((len(self), *shape), 2**32 - 1)

    monkeypatch.setattr(Streams, "bits", largest)
    streams = Streams.of(seed=0, ids=torch.arange(1))
    for low, high in ((0.0, 1.0), (10.0, 11.0), (-1.0, 1.0), (0.0, 255.0), (100.0, 101.0)):
        assert float(streams.uniform((1,), low, high)) < high
    assert bool(streams.normal((4,)).isfinite().all())
    assert int(streams.integers(10, (1,))) == 9


def test_the_smallest_word_gives_finite_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def smallest(self: Streams, shape: tuple[int, ...], *, draw: Tensor | int = 0) -> Tensor:
        return torch.zeros((len(self), *shape), dtype=torch.int64)

    monkeypatch.setattr(Streams, "bits", smallest)
    streams = Streams.of(seed=0, ids=torch.arange(1))
    assert bool(streams.normal((4,)).isfinite().all())
    assert float(streams.uniform((1,), 2.0, 3.0)) == 2.0


def test_normal_numbers_are_normal_and_independent() -> None:
    numbers = Streams.of(seed=1, ids=torch.arange(100)).normal((2, 101)).double().numpy()
    assert stats.kstest(numbers[:, 0].ravel(), stats.norm.cdf).pvalue > 1e-3
    assert abs(numbers.mean()) < 0.03
    assert abs(numbers.var() - 1) < 0.04
    flat = numbers.reshape(100, -1)
    # Box-Muller's pairs share a radius: neither they nor their squares may be correlated.
    first, second = flat[:, :101].ravel(), flat[:, 101:].ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 0.05


def test_signs_are_fair() -> None:
    signs = Streams.of(seed=1, ids=torch.arange(100)).signs((100,))
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert stats.binomtest(int((signs > 0).sum()), signs.numel()).pvalue > 1e-3


@pytest.mark.parametrize("high", [2, 9, 10, 1000, 2**31])
def test_integers_are_uniform(high: int) -> None:
    numbers = Streams.of(seed=1, ids=torch.arange(100)).integers(high, (100,))
    assert numbers.dtype == torch.int64
    assert int(numbers.min()) >= 0
    assert int(numbers.max()) < high
    bins = min(high, 10)
    counts = (numbers * bins // high).flatten().bincount(minlength=bins)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_integers_take_one_bound_per_row() -> None:
    streams = Streams.of(seed=1, ids=torch.arange(300))
    high = torch.arange(300) + 1
    numbers = streams.integers(high)
    assert numbers.shape == (300,)
    assert bool((numbers < high).all())
    assert int(numbers[0]) == 0  # the only number below 1


@given(size=st.integers(0, 200), seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_permutations_are_permutations(size: int, seed: int) -> None:
    orders = Streams.of(seed=seed, ids=torch.arange(4)).permutation(size)
    assert torch.equal(orders.sort(1).values, torch.arange(size).expand(4, size))


def test_permutations_are_uniform() -> None:
    orders = Streams.of(seed=1, ids=torch.arange(6000)).permutation(3)
    counts = (orders * torch.tensor([9, 3, 1])).sum(1).bincount()
    assert stats.chisquare(counts[counts > 0].numpy(), [1000] * 6).pvalue > 1e-3


@pytest.mark.parametrize("kind", DRAWS)
def test_no_examples_and_no_numbers_are_fine(kind: str, device: torch.device) -> None:
    nobody = Streams.of(seed=0, ids=torch.arange(0, device=device))
    assert len(draw_all(nobody, kind)) == 0
    assert len(nobody) == 0
    assert Streams.of(seed=0, ids=torch.arange(2)).uniform((0,)).shape == (2, 0)


@pytest.mark.parametrize("kind", DRAWS)
def test_numbers_are_made_on_the_device(kind: str, device: torch.device) -> None:
    """Integers agree bit by bit between devices; floats may differ in their last bits."""
    ids = torch.arange(5)
    here = draw_all(Streams.of(seed=0, ids=ids), kind)
    there = draw_all(Streams.of(seed=0, ids=ids.to(device)), kind)
    assert there.device.type == device.type
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", DRAWS)
def test_global_generators_are_neither_read_nor_moved(kind: str) -> None:
    streams = Streams.of(seed=0, ids=torch.arange(5))
    before = torch.get_rng_state()
    first = draw_all(streams, kind)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(draw_all(streams, kind), first)


@pytest.mark.parametrize(
    "ids",
    [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2), torch.zeros(2, dtype=torch.int32)],
    ids=["matrix", "float", "int32"],
)
def test_ids_that_are_no_vector_of_integers_are_refused(ids: Tensor) -> None:
    with pytest.raises(ShapeMismatch, match="one-dimensional int64"):
        Streams.of(seed=0, ids=ids)


def test_seeding_the_global_generator_asks_no_device_that_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", asked.append)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        assert asked == [7]
        expected = torch.rand(5)
        seed_generators(7)
        assert asked == [7]
        assert torch.equal(torch.rand(5), expected)
        seed_generators(8, torch.device("cpu"))
        assert asked == [7]
        assert not torch.equal(torch.rand(5), expected)
