"""What holds for every corruption."""

import pytest
import torch

from robustkit.corruptions import FAMILIES, NAMES, SEVERITIES, corrupt, parameter_set
from robustkit.corruptions.parameters import LEVELS
from robustkit.errors import BadInput, ShapeMismatch, UnknownName
from tests.corruptions.images import scenes, streams

ALL = pytest.mark.parametrize("name", NAMES)
SHAPES = [(3, 32, 32), (1, 28, 20), (4, 9, 12), (3, 96, 110), (1, 1, 1)]

DRAWN = {
    *("gaussian-noise", "shot-noise", "impulse-noise", "glass-blur", "motion-blur"),
    *("snow", "frost", "fog", "elastic-transform"),
}
# The published numbers trade one side of these against another: more rounds but less blur, more
# ice but a darker image, finer but smaller waves, denser but more even fog; and 30 pixels of 32 are
# hardly better than 28, nor 67 of 224 than 56.
UNEVEN = {
    "cifar-c": {"glass-blur", "frost", "elastic-transform", "pixelate"},
    "imagenet-c": {"glass-blur", "frost", "elastic-transform", "fog", "pixelate"},
}


def test_there_are_fifteen_of_five_severities() -> None:
    assert len(NAMES) == len(set(NAMES)) == 15
    assert [len(names) for names in FAMILIES.values()] == [3, 4, 4, 4]
    assert SEVERITIES == (1, 2, 3, 4, 5)
    for levels in LEVELS.values():
        assert tuple(levels) == NAMES
        assert {len(level) for level in levels.values()} == {5}


@ALL
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_type_and_range_are_kept(name: str, shape: tuple[int, int, int]) -> None:
    images = scenes(2, *shape)
    before = images.clone()
    for severity in (1, 5):
        changed = corrupt(images, name, severity, streams=streams(2))
        assert changed.shape == images.shape
        assert changed.dtype == torch.float32
        assert bool(changed.isfinite().all())
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert torch.equal(images, before)


@ALL
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_images_stay_in_range(name: str, value: float) -> None:
    changed = corrupt(torch.full((2, 3, 32, 32), value), name, 5, streams=streams(2))
    assert bool(changed.isfinite().all())
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_are_given_back(name: str, dtype: torch.dtype) -> None:
    images = scenes(1, 3, 16, 16)
    changed = corrupt(images.to(dtype), name, 3, streams=streams(1))
    assert changed.dtype == dtype
    plain = corrupt(images.to(dtype).float(), name, 3, streams=streams(1))
    assert torch.equal(changed, plain.to(dtype))


@ALL
def test_severity_0_changes_nothing(name: str) -> None:
    images = scenes(2, 3, 16, 16)
    same = corrupt(images, name, 0, streams=streams(2))
    assert torch.equal(same, images)
    same += 1
    assert float(images.max()) <= 1


@ALL
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20), (3, 96, 110)])
def test_neighbours_and_order_change_no_bit(name: str, shape: tuple[int, int, int]) -> None:
    images, drawing = (
        torch.rand((7, *shape), generator=torch.Generator().manual_seed(0)),
        streams(7),
    )
    for severity in (1, 2, 4, 5):
        together = corrupt(images, name, severity, streams=drawing)
        order = torch.tensor([5, 0, 3])
        some = corrupt(images[order], name, severity, streams=drawing.take(order))
        assert torch.equal(some, together[order])
        alone = corrupt(images[2:3], name, severity, streams=drawing.take([2]))
        assert torch.equal(alone[0], together[2])


@ALL
def test_memory_layout_changes_no_bit(name: str) -> None:
    images = scenes(3, 3, 24, 20)
    other = images.contiguous(memory_format=torch.channels_last)
    first = corrupt(images, name, 3, streams=streams(3))
    assert torch.equal(first, corrupt(other, name, 3, streams=streams(3)))


@ALL
def test_the_seed_decides_and_nothing_else(name: str) -> None:
    images = scenes(2, 3, 32, 32)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = corrupt(images, name, 3, streams=streams(2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first, corrupt(images, name, 3, streams=streams(2)))
    other = corrupt(images, name, 3, streams=streams(2, seed=1))
    assert torch.equal(first, other) == (name not in DRAWN)


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_two_equal_images_are_corrupted_differently(name: str) -> None:
    images = scenes(1, 3, 32, 32).expand(2, -1, -1, -1)
    first, second = corrupt(images, name, 4, streams=streams(2))
    assert not torch.equal(first, second)


@ALL
@pytest.mark.parametrize("side", [32, 224])
def test_the_change_grows_with_the_severity(name: str, side: int) -> None:
    n = 8 if side == 32 else 2
    images = scenes(n, 3, side, side)
    changes = [
        float((corrupt(images, name, severity, streams=streams(n)) - images).square().mean())
        for severity in (0, *SEVERITIES)
    ]
    assert changes[0] == 0 < changes[1]
    if name not in UNEVEN[parameter_set(side, side)]:
        assert changes == sorted(set(changes))
    elif name != "elastic-transform":
        assert changes[5] > changes[1]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(8, 8, "cifar-c"), (64, 300, "cifar-c"), (84, 84, "cifar-c"), (85, 85, "imagenet-c")],
)
def test_the_numbers_of_the_nearer_size_are_taken(height: int, width: int, expected: str) -> None:
    assert parameter_set(height, width) == expected


def test_no_images_give_no_images() -> None:
    assert corrupt(torch.zeros(0, 3, 8, 8), "snow", 5, streams=streams(0)).shape == (0, 3, 8, 8)


class TestBadInput:
    def test_near_names_are_offered(self) -> None:
        with pytest.raises(UnknownName, match="Did you mean fog"):
            corrupt(scenes(1, 3, 8, 8), "fogg", 1, streams=streams(1))

    @pytest.mark.parametrize("severity", [-1, 6, True, 2.5])
    def test_other_severities(self, severity: int) -> None:
        with pytest.raises(BadInput, match="1 to 5"):
            corrupt(scenes(1, 3, 8, 8), "fog", severity, streams=streams(1))

    @pytest.mark.parametrize(
        "images",
        [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 0, 8)],
    )
    def test_what_is_no_image(self, images: torch.Tensor) -> None:
        with pytest.raises(ShapeMismatch, match=r"\(N, C, H, W\)"):
            corrupt(images, "fog", 1, streams=streams(1))

    def test_streams_of_others(self) -> None:
        with pytest.raises(ShapeMismatch, match="2 images came with 3 streams"):
            corrupt(scenes(2, 3, 8, 8), "fog", 1, streams=streams(3))


@pytest.mark.gpu
@ALL
def test_on_a_gpu_the_same_holds(name: str) -> None:
    images, drawing = scenes(5, 3, 96, 110).cuda(), streams(5)
    there = type(drawing)(drawing.key, drawing.ids.cuda(), drawing.lanes.cuda())
    together = corrupt(images, name, 4, streams=there)
    assert together.device == images.device
    alone = corrupt(images[2:3], name, 4, streams=there.take([2]))
    assert torch.equal(alone[0], together[2])
    here = corrupt(images.cpu(), name, 4, streams=drawing)
    assert float((together.cpu() - here).abs().mean()) < 1e-3
