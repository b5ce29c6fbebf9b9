"""Extra examples: their share, their order, where they lie, and what is refused."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.errors import BadInput, MissingFile, ShapeMismatch
from robustkit.training import Averaging, Batch, Extra, Flip, Selection, Trainer
from robustkit.training.losses import PGDTraining, cross_entropy
from robustkit.training.losses.early_learning import EarlyLearning
from robustkit.training.mixing import Pool, shuffled
from robustkit.training.recipe import DEFAULTS, Recipe
from tests.training.tiny import LINF, Normed, Smooth, equal, quick, tiny_data

ROOT = Path(__file__).parents[2]


def images(n: int = 20, *, classes: int = 3, brightness: float = 1.0) -> LabelledImages:
    """Plain images that no other set has."""
    pixels = torch.full((n, 1, 6, 6), brightness)
    return LabelledImages.from_tensors(pixels, torch.arange(n) % classes, spec="plain")


class Watching:
    """Keeps what a loss is given: per step the ids, and which of the images were plain ones."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.plain: list[list[bool]] = []

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.ids.append(batch.ids.tolist())
        self.plain.append((batch.inputs == 1).all(3).all(2).all(1).tolist())
        return cross_entropy(model, batch)


# The order.


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 17, 1000])
def test_every_tour_has_each_number_once(count: int) -> None:
    tours = shuffled(torch.arange(4 * count), count, seed=3, purpose="x").view(4, count)
    assert all(sorted(tour) == list(range(count)) for tour in tours.tolist())
    if count > 3:
        assert len({tuple(tour) for tour in tours.tolist()}) == 4


def test_a_place_alone_holds_what_it_holds_among_others() -> None:
    whole = shuffled(torch.arange(100), 23, seed=3, purpose="x")
    parts = [
        shuffled(torch.arange(at, at + 10), 23, seed=3, purpose="x") for at in range(0, 99, 10)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(shuffled(torch.arange(100), 23, seed=4, purpose="x"), whole)
    assert not torch.equal(shuffled(torch.arange(100), 23, seed=3, purpose="y"), whole)


def test_every_order_of_a_tour_is_about_equally_likely() -> None:
    tours = shuffled(torch.arange(4 * 6000), 4, seed=0, purpose="x").view(-1, 4)
    counts = Counter(map(tuple, tours.tolist()))
    assert len(counts) == 24
    assert 150 < min(counts.values()) <= max(counts.values()) < 350


# What a step gets.


@pytest.mark.parametrize(("share", "count"), [(0.7, 11), (0.5, 8), (0.05, 1), (1.0, 16)])
def test_every_batch_has_its_share(share: float, count: int) -> None:
    watching = Watching()
    quick(epochs=2).fit(Smooth(), tiny_data(), watching, extra=Extra(images=images(), share=share))
    assert len(watching.ids) == 6
    assert [sum(plain) for plain in watching.plain] == [count] * 6
    extra = [id_ >= 48 for ids in watching.ids for id_ in ids]
    assert extra == [plain for step in watching.plain for plain in step]


def test_all_come_before_one_comes_again() -> None:
    watching = Watching()
    # 3 steps of 8 extra and 8 proper examples: 2.4 tours of 20 and one of 48 in two epochs.
    quick(epochs=2).fit(Smooth(), tiny_data(), watching, extra=Extra(images=images(), share=0.5))
    ids = [id_ for step in watching.ids for id_ in step]
    extra = [id_ - 48 for id_ in ids if id_ >= 48]
    assert sorted(extra[:20]) == sorted(extra[20:40]) == list(range(20))
    assert extra[:20] != extra[20:40]
    assert sorted(id_ for id_ in ids if id_ < 48) == list(range(48))


def test_parts_of_a_batch_have_the_same_share() -> None:
    watching = Watching()
    trainer = dataclasses.replace(quick(epochs=1), accumulate=4)
    trainer.fit(Smooth(), tiny_data(), watching, extra=Extra(images=images(), share=0.5))
    assert [sum(plain) for plain in watching.plain] == [2] * 12


def test_labels_belong_to_their_images() -> None:
    data, other = tiny_data(), tiny_data(30, seed=5)
    pool = Pool(data, Extra(images=other))
    rows = pool.order(0, steps=3, batch_size=16, seed=0)
    whole = torch.cat([data.inputs(slice(None)), other.inputs(slice(None))])
    assert torch.equal(pool.inputs(rows), whole[rows])
    assert torch.equal(pool.labels, torch.cat([data.labels, other.labels]))
    assert len(set(pool.ids.tolist())) == 78


def test_they_are_learnt_from_and_never_held_out() -> None:
    held: list[Tensor] = []

    class Score:
        metric = "held_out_x"

        def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            held.append(batch.inputs)
            return {self.metric: torch.ones(len(batch))}

    trainer = dataclasses.replace(quick(), selection=Selection(n=24, score=Score()))
    with_them, without = Smooth(), Smooth()
    trainer.fit(with_them, tiny_data(), extra=Extra(images=images()))
    trainer.fit(without, tiny_data())
    assert not equal(with_them, without)
    assert not any((inputs == 1).all() for inputs in torch.cat(held))


def test_what_only_they_show_is_learnt() -> None:
    whole, test = tiny_data(), tiny_data(60, seed=9)

    def right(extra: Extra | None) -> float:
        model = Smooth()
        quick(epochs=30).fit(model, whole.take(whole.labels != 2), extra=extra)
        with torch.no_grad():
            answers = model(test.inputs(test.labels == 2)).argmax(1)
        return float((answers == 2).float().mean())

    assert right(None) == 0
    assert right(Extra(images=tiny_data(60, seed=5), share=0.5)) > 0.9


# What outlives a process.


@pytest.mark.parametrize("stop_after", [1, 2, 4])
@pytest.mark.parametrize("kind", ["pgd", "early-learning"])
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path, kind: str, stop_after: int) -> None:
    def fit(model: nn.Module, out: Path | None, *, steps: int | None, resume: bool) -> None:
        trainer = Trainer(
            epochs=2,
            batch_size=12,
            augmentation=(Flip(),),
            averaging=Averaging(decay=0.8),
            max_steps=steps,
            out=out,
            resume=resume,
        )
        loss = PGDTraining(threat=LINF, steps=1) if kind == "pgd" else EarlyLearning()
        trainer.fit(model, tiny_data(), loss, extra=Extra(images=images(31), share=0.4))

    whole, first, second = Normed(), Normed(), Normed()
    fit(whole, None, steps=None, resume=False)
    fit(first, tmp_path, steps=stop_after, resume=False)
    fit(second, tmp_path, steps=None, resume=True)
    assert equal(whole, second)


@pytest.mark.parametrize(
    "other", [None, Extra(images=images(), share=0.6), Extra(images=images(brightness=0.9))]
)
def test_other_extra_examples_are_another_run(tmp_path: Path, other: Extra | None) -> None:
    quick(out=tmp_path).fit(Smooth(), tiny_data(), extra=Extra(images=images()))
    with pytest.raises(BadInput, match=r"belongs to another run \(extra"):
        quick(out=tmp_path, resume=True).fit(Smooth(), tiny_data(), extra=other)


# Files.


def stored(path: Path, found: LabelledImages) -> Path:
    """The images as an uncompressed file of arrays."""
    np.savez(path, inputs=found.inputs(slice(None)).numpy(), labels=found.labels.numpy())
    return path


def test_a_file_gives_the_weights_that_memory_gives(tmp_path: Path) -> None:
    path = stored(tmp_path / "extra.npz", tiny_data(30, seed=5))
    recipe = Recipe({**DEFAULTS, "extra": {"data": str(path), "share": 0.5}})
    from_file, from_memory = Smooth(), Smooth()
    quick().fit(from_file, tiny_data(), extra=recipe.extra())
    other = Extra(images=tiny_data(30, seed=5), share=0.5)
    quick().fit(from_memory, tiny_data(), extra=other)
    assert equal(from_file, from_memory)


SPARSE = """
import sys
from pathlib import Path
import torch
from robustkit import data
from robustkit.training import Extra, Runtime, Trainer
from robustkit.training.losses import cross_entropy

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

peak = 0.0
def watching(model, batch):
    global peak
    peak = max(peak, resident())
    return cross_entropy(model, batch)

torch.set_num_threads(1)
proper = data.LabelledImages.from_tensors(torch.rand(64, 3, 32, 32), torch.arange(64) % 10)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
run = Trainer(epochs=2, batch_size=16, runtime=Runtime(device="cpu"), out=Path(sys.argv[2]))
run.fit(model, proper, watching)
before, peak = peak, 0.0
extra = Extra(images=data.load(sys.argv[1]))
run = Trainer(epochs=2, batch_size=16, runtime=Runtime(device="cpu"), out=Path(sys.argv[3]))
run.fit(model, proper, watching, extra=extra)
print(len(extra.images), before, peak)
"""


def sparse(path: Path, n: int) -> None:
    """A `.safetensors` file of n black images (32, 32, 3), which takes no space on the disk."""
    pixels, labels = n * 3072, 8 * n
    header = json.dumps(
        {
            "inputs": {"dtype": "U8", "shape": [n, 32, 32, 3], "data_offsets": [0, pixels]},
            "labels": {"dtype": "I64", "shape": [n], "data_offsets": [pixels, pixels + labels]},
        }
    ).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + pixels + labels)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    sparse(path, 100_000)
    outs = [str(tmp_path / "without"), str(tmp_path / "with")]
    found = subprocess.run(
        [sys.executable, "-c", SPARSE, str(path), *outs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    count, before, peak = map(float, found.stdout.split())
    assert count == 100_000
    assert path.stat().st_size > 290 * 2**20
    # Labels, ids and positions take a few bytes for each; pixels would take 293 MiB.
    assert peak - before < 60


# What is refused.


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(BadInput, match="must be above 0 and at most 1"):
        Extra(images=images(), share=share)


def test_a_share_of_no_example_is_refused() -> None:
    with pytest.raises(BadInput, match=r"share of 0\.01 of a batch of 16 is no example"):
        quick().fit(Smooth(), tiny_data(), extra=Extra(images=images(), share=0.01))


def test_other_images_and_classes_are_refused() -> None:
    square = LabelledImages.from_tensors(torch.rand(4, 1, 7, 7), torch.arange(4) % 3, spec="seven")
    with pytest.raises(ShapeMismatch, match=r"'seven' have the shape \(1, 7, 7\).*\(1, 6, 6\)"):
        quick().fit(Smooth(), tiny_data(), extra=Extra(images=square))
    with pytest.raises(BadInput, match=r"'plain' have 5 classes, 'tiny' has 3.*0 to 2"):
        quick().fit(Smooth(), tiny_data(), extra=Extra(images=images(classes=5)))


def test_classes_in_another_order_are_refused() -> None:
    def called(*names: str) -> LabelledImages:
        plain = images()
        return LabelledImages.from_tensors(
            plain.inputs(slice(None)), plain.labels, class_names=names
        )

    with pytest.raises(BadInput, match=r"dog, cat, cow.*cat, dog, cow"):
        quick().fit(
            Smooth(), called("cat", "dog", "cow"), extra=Extra(images=called("dog", "cat", "cow"))
        )
    quick().fit(Smooth(), called("cat", "dog", "cow"), extra=Extra(images=images()))


def test_a_label_that_the_model_lacks_is_refused() -> None:
    few = LabelledImages.from_tensors(
        torch.rand(12, 1, 6, 6), torch.arange(12) % 2, class_names=("a", "b", "c")
    )
    with pytest.raises(BadInput, match="the label 2, but the model answers 2 classes"):
        quick().fit(Smooth(classes=2), few, extra=Extra(images=images()))


@pytest.mark.parametrize(
    ("table", "error", "said"),
    [
        ({"share": 0.5}, BadInput, r"\[extra\]: give a file"),
        ({"data": 3}, BadInput, r"\[extra\]: give a file"),
        ({"data": "gone.npz"}, MissingFile, "gone.npz"),
        ({"data": "digits", "much": 1}, BadInput, "extra has no much. Allowed: share"),
        ({"data": "digits", "share": "most"}, BadInput, "extra.share"),
    ],
)
def test_bad_sections_are_told(table: dict[str, Any], error: type[BadInput], said: str) -> None:
    with pytest.raises(error, match=said):
        Recipe({**DEFAULTS, "extra": table}).extra()


def test_values_out_of_range_are_told(tmp_path: Path) -> None:
    path = tmp_path / "bright.npz"
    np.savez(path, inputs=np.full((3, 1, 6, 6), 2, np.float32), labels=np.arange(3))
    with pytest.raises(BadInput, match=r"values outside \[0, 1\]"):
        Recipe({**DEFAULTS, "extra": {"data": str(path)}}).extra()


def test_a_recipe_without_any_has_none() -> None:
    assert Recipe(DEFAULTS).extra() is None
