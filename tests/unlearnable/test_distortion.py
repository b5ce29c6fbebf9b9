"""Measures of distortion against answers that are known, and against a slow twin."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.errors import BadInput, ShapeMismatch
from robustkit.unlearnable.distortion import distortion, linf, psnr, ssim


def images(n: int, shape: tuple[int, int, int] = (3, 12, 9), *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)


def slow_ssim(old: np.ndarray, new: np.ndarray, window: int) -> float:
    """One image, window by window, with NumPy's own means and covariances."""
    found = []
    for a, b in zip(old, new, strict=True):
        for y in range(a.shape[0] - window + 1):
            for x in range(a.shape[1] - window + 1):
                p, q = (m[y : y + window, x : x + window].ravel() for m in (a, b))
                (var_p, cov), (_, var_q) = np.cov(p, q)
                upper = (2 * p.mean() * q.mean() + 0.01**2) * (2 * cov + 0.03**2)
                lower = (p.mean() ** 2 + q.mean() ** 2 + 0.01**2) * (var_p + var_q + 0.03**2)
                found.append(upper / lower)
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("shape", "window"), [((3, 12, 9), 7), ((1, 8, 8), 7), ((1, 6, 9), 5), ((2, 5, 5), 5)]
)
def test_ssim_is_that_of_a_slow_twin(shape: tuple[int, int, int], window: int) -> None:
    old, new = images(3, shape) / 255, images(3, shape, seed=1) / 255
    near = (old + 0.1 * new) / 1.1
    for other in (new, near):
        values = ssim(old, other)
        for row in range(3):
            expected = slow_ssim(old[row].double().numpy(), other[row].double().numpy(), window)
            assert float(values[row]) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_flat_images_is_their_luminance_term() -> None:
    a, b = 0.25, 0.75
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    value = ssim(torch.full((1, 1, 9, 9), a), torch.full((1, 1, 9, 9), b))
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_ssim_is_one_for_the_same_image_and_symmetric() -> None:
    old, new = images(4) / 255, images(4, seed=1) / 255
    torch.testing.assert_close(ssim(old, old), torch.ones(4).double())
    torch.testing.assert_close(ssim(old, new), ssim(new, old))
    assert float(ssim(old, 1 - old).max()) < 0


def test_psnr_and_linf_are_known() -> None:
    old = torch.zeros(2, 1, 2, 2)
    new = old.clone()
    new[0] = 0.1
    new[1, 0, 0, 0] = 1.0
    torch.testing.assert_close(psnr(old, new), torch.tensor([20.0, 10 * math.log10(4)]).double())
    torch.testing.assert_close(linf(old, new), torch.tensor([0.1, 1.0]).double())
    assert psnr(old, old).tolist() == [math.inf] * 2


def test_images_without_windows_are_refused() -> None:
    with pytest.raises(BadInput, match="too small"):
        ssim(torch.zeros(1, 1, 2, 9), torch.zeros(1, 1, 2, 9))


def pair(changed: Tensor) -> tuple[LabelledImages, LabelledImages]:
    before = images(len(changed))
    after = torch.where(changed[:, None, None, None], 255 - before, before)
    labels = torch.zeros(len(changed), dtype=torch.int64)
    return LabelledImages.from_tensors(before, labels), LabelledImages.from_tensors(after, labels)


def test_the_spread_is_over_the_images_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = torch.arange(50) % 3 == 0
    clean, published = pair(changed)
    asked = changed.clone()
    asked[1] = True  # said to be changed, and came out as it was
    found = distortion(clean, published, asked)
    assert (found.n, found.identical) == (17, 1)
    values = psnr(clean.inputs(changed), published.inputs(changed)).numpy()
    assert found.psnr is not None
    assert found.psnr.mean == pytest.approx(values.mean())
    assert found.psnr.median == pytest.approx(np.quantile(values, 0.5))
    assert found.psnr.q05 == pytest.approx(np.quantile(values, 0.05))
    assert found.psnr.q95 == pytest.approx(np.quantile(values, 0.95))
    monkeypatch.setattr("robustkit.unlearnable.distortion._VALUES", 1)
    assert distortion(clean, published, asked) == found


def test_where_nothing_differs_there_is_nothing_to_measure() -> None:
    clean, published = pair(torch.zeros(5, dtype=torch.bool))
    found = distortion(clean, published, torch.ones(5, dtype=torch.bool))
    assert (found.n, found.identical, found.psnr, found.ssim, found.linf) == (
        0,
        5,
        None,
        None,
        None,
    )
    none = distortion(clean, published, torch.zeros(5, dtype=torch.bool))
    assert (none.n, none.identical) == (0, 0)


def test_sets_that_do_not_belong_together_are_refused() -> None:
    clean, published = pair(torch.ones(5, dtype=torch.bool))
    with pytest.raises(ShapeMismatch):
        distortion(clean, published.first(4), torch.ones(5, dtype=torch.bool))
