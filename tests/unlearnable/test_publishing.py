"""What all rivals publish with: bytes that never lie further out than what was asked for."""

import hypothesis
import torch
from hypothesis import strategies as st

from robustkit.threat_models import LpBall
from robustkit.unlearnable import UniformNoise, UniversalBlur
from robustkit.unlearnable.publishing import settled, towards_clean
from tests.unlearnable.small import images, quick, streams, threat
from tests.unlearnable.test_contract import KEY


@hypothesis.given(st.integers(0, 255), st.floats(0, 1, width=32))
def test_rounding_never_moves_away_from_the_clean_image(level: int, value: float) -> None:
    clean, changed = torch.tensor([level]).byte(), torch.tensor([value])
    found = int(towards_clean(clean, changed))
    wanted = 255 * value
    assert abs(found - level) <= abs(wanted - level) + 1e-4
    assert abs(found - wanted) < 1
    assert min(level, wanted) - 1e-4 <= found <= max(level, wanted) + 1e-4


def test_whole_levels_stay_whole() -> None:
    clean = torch.arange(256).byte().reshape(1, 1, 16, 16)
    inputs = clean.float() / 255
    for radius in range(1, 17):
        ball = LpBall(norm="linf", radius=radius / 255)
        for sign in (-1, 1):
            changed = ball.project(inputs, inputs + sign)
            found = towards_clean(clean, changed).int() - clean.int()
            room = clean.int() if sign < 0 else 255 - clean.int()
            assert torch.equal(found, sign * room.clamp_max(radius))


def test_settled_images_are_the_computed_ones() -> None:
    data = images()
    lazy = UniformNoise().run(data, threat("linf"), trainer=quick(), streams=streams(data))
    kept = settled(lazy)
    assert torch.equal(kept.data.stored(slice(None)), lazy.data.stored(slice(None)))
    assert torch.equal(kept.data.ids, data.ids)
    assert kept.data.spec == "UniformNoise of small"


def test_noise_is_uniform_in_the_ball_and_of_the_asked_length() -> None:
    grey = images(40, shape=(3, 20, 20))
    data = type(grey).from_tensors(torch.full((40, 3, 20, 20), 128).byte(), grey.labels)
    ball = LpBall(norm="linf", radius=20 / 255)
    noise = UniformNoise().run(
        data, threat("linf", perturbation=ball), trainer=quick(), streams=streams(data)
    )
    levels = noise.data.stored(slice(None)).int() - 128
    assert int(levels.abs().max()) == 19
    # Rounded towards nought: uniform on 39 levels, nought twice as often.
    counts = (levels + 19).flatten().bincount(minlength=39).double() / levels.numel()
    expected = torch.full((39,), 1 / 40, dtype=torch.float64)
    expected[19] *= 2
    assert float((counts - expected).abs().max()) < 0.003
    long = LpBall(norm="l2", radius=2.0)
    noise = UniformNoise().run(
        data, threat("l2", perturbation=long), trainer=quick(), streams=streams(data)
    )
    lengths = (noise.data.inputs(slice(None)) - 128 / 255).flatten(1).norm(dim=1)
    assert bool(((lengths > 1.9) & (lengths <= 2.0)).all())


def test_the_universal_blur_knows_no_class() -> None:
    data = images()
    other = type(data).from_tensors(
        data.stored(slice(None)), (data.labels + 1) % 4, class_names=data.class_names
    )
    blur = UniversalBlur(key=KEY)
    adversary = threat("convolution")
    found, again = (
        blur.run(one, adversary, trainer=quick(), streams=streams(one)) for one in (data, other)
    )
    assert torch.equal(found.data.stored(slice(None)), again.data.stored(slice(None)))
