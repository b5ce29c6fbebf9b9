"""Noises have the published strength at every severity."""

import numpy as np
import pytest
import torch
from scipy import stats

from robustkit.corruptions import SEVERITIES, corrupt
from robustkit.corruptions.noise import _poisson
from robustkit.corruptions.parameters import LEVELS, ParameterSet
from tests.corruptions.images import streams

SIDES: dict[ParameterSet, int] = {"cifar-c": 80, "imagenet-c": 128}
EACH = pytest.mark.parametrize("severity", SEVERITIES)
BOTH = pytest.mark.parametrize("numbers", SIDES)


def drawn(name: str, numbers: ParameterSet, severity: int, value: float) -> torch.Tensor:
    images = torch.full((6, 3, SIDES[numbers], SIDES[numbers]), value)
    return corrupt(images, name, severity, streams=streams(6)).double()


@EACH
def test_gaussian_noise(severity: int) -> None:
    found = drawn("gaussian-noise", "cifar-c", severity, 0.5) - 0.5
    (scale,) = LEVELS["cifar-c"]["gaussian-noise"][severity - 1]
    size = found.numel() ** 0.5
    assert abs(float(found.mean())) < 4 * scale / size
    assert float(found.std()) == pytest.approx(scale, rel=4 / size)
    assert stats.kstest(found.flatten().numpy()[::7] / scale, "norm").pvalue > 1e-3


@EACH
def test_strong_gaussian_noise_is_cut_off_at_the_range(severity: int) -> None:
    found = drawn("gaussian-noise", "imagenet-c", severity, 0.5)
    (scale,) = LEVELS["imagenet-c"]["gaussian-noise"][severity - 1]
    share = float((found == 1).double().mean())
    assert share == pytest.approx(stats.norm.sf(0.5 / scale), abs=0.003)


@EACH
@BOTH
def test_shot_noise(numbers: ParameterSet, severity: int) -> None:
    found = drawn("shot-noise", numbers, severity, 0.25)
    (photons,) = LEVELS[numbers]["shot-noise"][severity - 1]
    counts = (found * photons).round()
    torch.testing.assert_close(counts / photons, found, atol=1e-6, rtol=0)
    rate = 0.25 * photons
    # Counts above `photons` were cut off: beside it the whole distribution is compared.
    for count in range(int(rate), int(rate + 3)):
        share = float((counts <= count).double().mean())
        spread = (counts.numel() * 0.25) ** 0.5 / counts.numel()
        assert share == pytest.approx(stats.poisson.cdf(count, rate), abs=4 * spread)


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.02, 0.7, 3.0, 12.5, 60.0, 500.0])
def test_poisson_quantiles_are_those_of_scipy(rate: float) -> None:
    uniform = np.concatenate([np.linspace(1e-9, 1 - 1e-9, 4001), 0.5 ** np.arange(1, 33)])
    found = _poisson(torch.full((len(uniform),), rate).double(), torch.from_numpy(uniform))
    np.testing.assert_array_equal(found.numpy(), stats.poisson.ppf(uniform, rate))


@EACH
@BOTH
def test_impulse_noise(numbers: ParameterSet, severity: int) -> None:
    found = drawn("impulse-noise", numbers, severity, 0.5)
    (share,) = LEVELS[numbers]["impulse-noise"][severity - 1]
    assert set(found.flatten().tolist()) == {0.0, 0.5, 1.0}
    spread = (share / found.numel()) ** 0.5
    for value in (0.0, 1.0):
        assert float((found == value).double().mean()) == pytest.approx(share / 2, abs=4 * spread)


def test_black_gets_no_shot_noise() -> None:
    assert float(drawn("shot-noise", "imagenet-c", 5, 0.0).max()) == 0
