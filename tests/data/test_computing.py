"""Sets that are computed from others whenever they are read."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustkit.data import LabelledImages, computed, load, save
from robustkit.data.computing import as_bytes
from robustkit.errors import ShapeMismatch


def grey(n: int = 6) -> LabelledImages:
    pixels = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 2, 3)
    return LabelledImages.from_tensors(
        pixels, torch.arange(n) % 2, split="train", class_names=["even", "odd"]
    )


def inverted(stored: Tensor, rows: Tensor) -> Tensor:
    return 255 - stored


def test_everything_but_the_pixels_stays() -> None:
    images = grey().take([4, 1, 3])
    changed = computed(images, inverted, spec="inverse")
    assert changed.stored(slice(None))[:, 0, 0, 0].tolist() == [251, 254, 252]
    assert torch.equal(changed.labels, images.labels)
    assert torch.equal(changed.ids, images.ids)
    assert (changed.class_names, changed.split, changed.shape) == (
        images.class_names,
        "train",
        (1, 2, 3),
    )
    assert changed.spec == "inverse"
    assert images.stored([0])[0, 0, 0, 0] == 4


def test_a_change_is_told_the_rows_of_the_set_it_reads() -> None:
    seen: list[int] = []

    def note(stored: Tensor, rows: Tensor) -> Tensor:
        seen.extend(rows.tolist())
        return stored

    changed = computed(grey().take([5, 4, 3]), note, spec="x")
    changed.take([2, 0]).stored([1, 0])
    assert seen == [0, 2]


def test_only_what_is_asked_for_is_computed_and_it_is_not_kept() -> None:
    asked: list[int] = []

    def count(stored: Tensor, rows: Tensor) -> Tensor:
        asked.append(len(rows))
        return stored

    changed = computed(grey(), count, spec="x")
    assert asked == []
    changed.inputs([1])
    changed.inputs([1])
    assert asked == [1, 1]


def test_it_is_saved_and_hashed_like_any_other(tmp_path: Path) -> None:
    changed = computed(grey(), inverted, spec="inverse")
    save(changed, tmp_path)
    back = load(str(tmp_path), split="train")
    assert torch.equal(back.stored(slice(None)), changed.stored(slice(None)))
    assert back.sha256 == changed.sha256 != grey().sha256


def test_it_travels_to_other_processes() -> None:
    changed = computed(grey(), inverted, spec="inverse")
    assert torch.equal(pickle.loads(pickle.dumps(changed)).stored([2]), changed.stored([2]))


@pytest.mark.parametrize(
    "wrong", [lambda stored, rows: stored.float(), lambda stored, rows: stored[:, :, :1]]
)
def test_a_change_of_shape_or_type_is_refused(wrong: object) -> None:
    changed = computed(grey(), wrong, spec="x")  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatch, match="uint8"):
        changed.stored([0])


def test_floats_become_the_nearest_byte() -> None:
    levels = torch.arange(256)
    assert torch.equal(as_bytes(levels.float() / 255), levels.to(torch.uint8))
    assert as_bytes(levels.to(torch.uint8)).dtype == torch.uint8
