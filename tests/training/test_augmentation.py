"""Augmentation: each example by its own stream, whatever its neighbours."""

import pytest
import torch

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.training import (
    Augmentation,
    Crop,
    CutMix,
    Flip,
    Hide,
    MixUp,
    RandAugment,
    TrivialAugment,
)
from robustkit.training.augmentation import augment

LABELS = torch.arange(12) % 3


def images(channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    # In steps of 1/255, so that what works on bytes changes nothing by rounding.
    return torch.randint(0, 256, (12, channels, 8, 6), generator=generator) / 255


def streams(epoch: int = 0) -> Streams:
    return Streams.of(seed=0, ids=torch.arange(12) + 5, purpose="test").fork(f"epoch {epoch}")


ALONE: list[Augmentation] = [
    Flip(),
    Crop(padding=2),
    Crop(padding=2, fill="reflect"),
    Hide(part="centre", probability=0.5),
    RandAugment(),
    TrivialAugment(),
]


@pytest.mark.parametrize("change", ALONE, ids=repr)
def test_neighbours_do_not_matter_and_epochs_do(change: Augmentation) -> None:
    whole, labels = change(images(), LABELS, classes=3, streams=streams())
    assert whole.shape == images().shape
    assert whole.dtype == torch.float32
    assert bool(((whole >= 0) & (whole <= 1)).all())
    assert torch.equal(labels, LABELS)
    rows = [7, 2]
    some, _ = change(images()[rows], LABELS[rows], classes=3, streams=streams().take(rows))
    assert torch.equal(some, whole[rows])
    other, _ = change(images(), LABELS, classes=3, streams=streams(1))
    assert not torch.equal(other, whole)
    assert not torch.equal(whole, images())


def test_a_flip_mirrors_half_of_the_images() -> None:
    ids = torch.arange(400)
    before = images()[:1].expand(400, 3, 8, 6)
    after, _ = Flip()(before, ids, classes=2, streams=Streams.of(seed=0, ids=ids))
    mirrored = (after == before.flip(3)).flatten(1).all(1)
    same = (after == before).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 0.4 < float(mirrored.float().mean()) < 0.6


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_the_centre_and_the_rest_make_the_image(share: float) -> None:
    both = [
        Hide(part=part, share=share)(images(), LABELS, classes=3, streams=streams())[0]
        for part in ("centre", "surround")
    ]
    assert torch.equal(both[0] + both[1], images())
    ones = torch.ones_like(images())
    seen, _ = Hide(part="surround")(ones, LABELS, classes=3, streams=streams())
    assert torch.equal(seen[0, 0].nonzero().amin(0), torch.tensor([2, 1]))
    assert torch.equal(seen[0, 0].nonzero().amax(0), torch.tensor([5, 3]))
    assert float(seen[0, 0].sum()) == 12


def test_a_crop_is_a_piece_of_the_larger_image() -> None:
    after, _ = Crop(padding=2)(images(), LABELS, classes=3, streams=streams())
    larger = torch.nn.functional.pad(images(), (2, 2, 2, 2))
    for image, whole in zip(after, larger, strict=True):
        pieces = [whole[:, y : y + 8, x : x + 6] for y in range(5) for x in range(5)]
        assert any(torch.equal(image, piece) for piece in pieces)


@pytest.mark.parametrize("change", [MixUp(), CutMix(), RandAugment()], ids=repr)
def test_global_generators_of_gpus_are_left_alone(
    change: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", asked.append)
    change(images(), LABELS, classes=3, streams=streams())
    assert not asked


@pytest.mark.parametrize("change", [MixUp(), CutMix()], ids=repr)
def test_mixing_gives_shares_of_classes_and_leaves_the_global_generator(
    change: Augmentation,
) -> None:
    before = torch.get_rng_state()
    mixed, labels = change(images(), LABELS, classes=3, streams=streams())
    assert torch.equal(torch.get_rng_state(), before)
    assert labels.shape == (12, 3)
    assert labels.sum(1).tolist() == pytest.approx([1.0] * 12)
    again, _ = change(images(), LABELS, classes=3, streams=streams())
    other, _ = change(images(), LABELS, classes=3, streams=streams(1))
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)


def test_steps_draw_by_themselves() -> None:
    """Two flips that drew the same would undo each other."""
    twice, _ = augment((Flip(), Flip()), images(), LABELS, classes=3, streams=streams())
    assert not torch.equal(twice, images())


def test_values_that_mean_nothing_are_refused() -> None:
    with pytest.raises(BadInput):
        Flip(probability=1.5)
    with pytest.raises(BadInput):
        Crop(padding=-1)
    with pytest.raises(BadInput):
        Crop(fill="white")  # type: ignore[arg-type]
