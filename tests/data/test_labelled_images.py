import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.data.pixels import Array, ArrayPixels, Rows
from robustkit.errors import BadInput, ShapeMismatch


def images(n: int = 10, classes: int = 3, *, dtype: torch.dtype = torch.float32) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (n, 3, 5, 4), generator=generator, dtype=torch.uint8)
    inputs = stored if dtype == torch.uint8 else stored.to(dtype) / 255
    return LabelledImages.from_tensors(inputs, torch.arange(n) % classes)


class Watched(ArrayPixels):
    """Remembers which rows were read."""

    def read(self, rows: Rows) -> Array:
        self.__dict__.setdefault("seen", []).extend(rows.tolist())
        return super().read(rows)


def test_a_set_tells_what_it_is() -> None:
    whole = images()
    assert (len(whole), whole.shape, whole.classes) == (10, (3, 5, 4), 3)
    assert whole.class_names == ("0", "1", "2")
    assert whole.labels.dtype == whole.ids.dtype == torch.int64
    assert whole.ids.tolist() == list(range(10))


def test_bytes_stay_bytes_and_are_scaled_when_read() -> None:
    whole = images(dtype=torch.uint8)
    stored, inputs = whole.stored(slice(None)), whole.inputs(slice(None))
    assert stored.dtype == torch.uint8
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, stored.float() / 255)
    assert torch.equal(inputs, images().inputs(slice(None)))


def test_only_the_rows_asked_for_are_read() -> None:
    pixels = Watched(array=np.zeros((100, 1, 2, 2), dtype=np.uint8))
    whole = LabelledImages(pixels, torch.zeros(100, dtype=torch.int64), spec="watched")
    subset = whole.take([50, 7, 3])
    assert "seen" not in pixels.__dict__
    subset.inputs([0, 2])
    assert pixels.__dict__["seen"] == [50, 3]


@pytest.mark.parametrize(
    "rows",
    [[1, 3, 8], torch.tensor([1, 3, 8]), torch.tensor([1, 3, -2]), np.array([1, 3, 8])],
    ids=["list", "tensor", "negative", "numpy"],
)
def test_rows_come_in_many_forms(rows: Tensor) -> None:
    whole = images()
    assert torch.equal(whole.inputs(rows), whole.inputs(slice(None))[[1, 3, 8]])


def test_a_mask_selects() -> None:
    whole = images()
    assert whole.take(whole.labels == 2).ids.tolist() == [2, 5, 8]


@pytest.mark.parametrize("rows", [[10], [-11], [0.5], torch.zeros(3, dtype=torch.bool), [[1]]])
def test_rows_that_are_not_there_are_refused(rows: Tensor) -> None:
    with pytest.raises(IndexError):
        images().inputs(rows)


def test_items_and_iteration() -> None:
    whole = images()
    pairs = list(whole)
    assert len(pairs) == 10
    assert torch.equal(torch.stack([image for image, _ in pairs]), whole.inputs(slice(None)))
    assert [label for _, label in pairs] == whole.labels.tolist()


def test_subsets_keep_ids_labels_and_pixels() -> None:
    whole = images()
    part = whole.take([9, 2, 5]).take([2, 0])
    assert part.ids.tolist() == [5, 9]
    assert torch.equal(part.inputs([0, 1]), whole.inputs([5, 9]))
    assert torch.equal(part.labels, whole.labels[[5, 9]])
    assert part.class_names == whole.class_names


def test_an_empty_subset_is_allowed_and_empty() -> None:
    whole = images()
    for nothing in (whole.take([]), whole.take(torch.zeros(len(whole), dtype=torch.bool))):
        assert len(nothing) == 0
        assert nothing.inputs(slice(None)).shape == (0, 3, 5, 4)


def test_other_labels_for_the_same_images() -> None:
    whole = images()
    other = whole.relabelled((whole.labels + 1) % 3)
    assert torch.equal(other.stored(slice(None)), whole.stored(slice(None)))
    assert torch.equal(other.ids, whole.ids)
    assert other.class_names == whole.class_names
    assert not torch.equal(other.labels, whole.labels)
    assert other.sha256 != whole.sha256
    assert other.relabelled(whole.labels).sha256 == whole.sha256
    with pytest.raises(BadInput, match="from 3 to 3"):
        whole.relabelled(torch.full_like(whole.labels, 3))
    with pytest.raises(ShapeMismatch, match="one integer per image"):
        whole.relabelled(whole.labels[:2])


def test_first() -> None:
    assert images().first(4).ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("select", [LabelledImages.first, LabelledImages.stratified])
@pytest.mark.parametrize("n", [0, -1, 11])
def test_more_or_fewer_than_there_are_is_refused(
    select: Callable[[LabelledImages, int], LabelledImages], n: int
) -> None:
    with pytest.raises(BadInput, match="Ask for 1 to 10"):
        select(images(), n)


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_stratified_is_balanced_as_far_as_classes_reach(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    whole = LabelledImages.from_tensors(torch.zeros(len(labels), 1, 1, 1), labels)
    n = data.draw(st.integers(1, len(labels)))
    part = whole.stratified(n, seed=seed)
    drawn = part.labels.bincount(minlength=len(counts)).tolist()
    assert sum(drawn) == n
    assert part.ids.tolist() == sorted(set(part.ids.tolist()))
    fullest = max(drawn)
    assert all(
        have >= fullest - 1 or have == limit for have, limit in zip(drawn, counts, strict=True)
    )
    assert part.ids.tolist() == whole.stratified(n, seed=seed).ids.tolist()


def test_stratified_depends_on_the_seed_and_grows_by_adding() -> None:
    whole = images(90)
    small, large = whole.stratified(20, seed=1), whole.stratified(50, seed=1)
    assert set(small.ids.tolist()) < set(large.ids.tolist())
    assert small.ids.tolist() != whole.stratified(20, seed=2).ids.tolist()


def test_the_hash_sees_pixels_labels_and_order() -> None:
    whole = images(dtype=torch.uint8)
    same = images(dtype=torch.uint8)
    assert whole.sha256 == same.sha256
    changed = whole.stored(slice(None))
    changed[9, 2, 4, 3] ^= 1
    relabelled = whole.labels.clone()
    relabelled[9] = 1
    others = [
        LabelledImages.from_tensors(changed, whole.labels),
        LabelledImages.from_tensors(whole.stored(slice(None)), relabelled),
        whole.take(slice(None, None, -1)),
        whole.first(9),
        images(),
    ]
    hashes = {whole.sha256, *(other.sha256 for other in others)}
    assert len(hashes) == 6


def test_the_hash_does_not_depend_on_the_layout_in_memory() -> None:
    whole = images(dtype=torch.uint8)
    turned = np.ascontiguousarray(whole.stored(slice(None)).numpy().transpose(0, 2, 3, 1))
    other = LabelledImages(
        ArrayPixels(array=turned.transpose(0, 3, 1, 2)), whole.labels, spec="turned"
    )
    assert other.sha256 == whole.sha256


def test_the_hash_is_the_same_in_any_number_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = images().sha256
    monkeypatch.setattr("robustkit.data.checks._CHUNK_BYTES", 1)
    assert images().sha256 == expected


def test_labels_are_a_copy() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    whole = LabelledImages.from_tensors(torch.zeros(2, 1, 1, 1), labels)
    labels[0] = 5
    assert whole.labels.tolist() == [0, 0]


def test_a_set_travels_to_another_process() -> None:
    whole = images().take([3, 1])
    back = pickle.loads(pickle.dumps(whole))
    assert torch.equal(back.inputs([0, 1]), whole.inputs([0, 1]))
    assert back.ids.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.001, "1.001"), (-0.001, "-0.001"), (float("nan"), "NaN"), (float("inf"), "inf")],
)
def test_values_outside_the_unit_interval_are_refused(value: float, words: str) -> None:
    inputs = torch.zeros(5, 1, 2, 2)
    inputs[3, 0, 1, 1] = value
    with pytest.raises(BadInput, match=f"Image 3 .*outside.*{words}"):
        LabelledImages.from_tensors(inputs, torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(2, 4, 4),
        torch.zeros(2, 0, 4, 4),
        torch.zeros(2, 1, 4, 4, dtype=torch.int64),
        torch.zeros(2, 32, 32, 3),
        torch.zeros(2, 1, 4, 4, dtype=torch.complex64),
    ],
    ids=["dimensions", "no channels", "integers", "channels last", "complex"],
)
def test_wrong_inputs_are_refused(inputs: Tensor) -> None:
    with pytest.raises(ShapeMismatch):
        LabelledImages.from_tensors(inputs, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(2),
        torch.zeros(2, 1, dtype=torch.int64),
        torch.zeros(2, dtype=torch.bool),
    ],
    ids=["length", "float", "dimensions", "bool"],
)
def test_wrong_labels_are_refused(labels: Tensor) -> None:
    with pytest.raises(ShapeMismatch, match="one integer per image"):
        LabelledImages.from_tensors(torch.zeros(2, 1, 2, 2), labels)


@pytest.mark.parametrize("label", [-1, 3, 10**12])
def test_labels_out_of_range_are_refused(label: int) -> None:
    labels = torch.tensor([0, label])
    names = ["a", "b", "c"] if label == 3 else None
    with pytest.raises(BadInput, match="allowed is 0 to"):
        LabelledImages.from_tensors(torch.zeros(2, 1, 2, 2), labels, class_names=names)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(BadInput, match="empty"):
        LabelledImages.from_tensors(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64))


def test_ids_must_be_distinct() -> None:
    pixels = ArrayPixels(array=np.zeros((2, 1, 1, 1), dtype=np.uint8))
    with pytest.raises(BadInput, match="more than once"):
        LabelledImages(pixels, torch.tensor([0, 0]), spec="x", ids=torch.tensor([4, 4]))
