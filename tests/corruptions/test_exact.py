"""Sums that do not depend on their order, against scipy and numpy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from robustkit.corruptions import exact
from robustkit.errors import BadInput


@pytest.mark.parametrize(("sigma", "truncate"), [(0.25, 4.0), (1.5, 4.0), (5.0, 3.0), (40.0, 3.0)])
@pytest.mark.parametrize(
    ("edges", "mode"), [("nearest", "nearest"), ("symmetric", "reflect"), ("mirror", "mirror")]
)
def test_a_gaussian_blur_is_that_of_scipy(
    sigma: float, truncate: float, edges: exact.Edges, mode: str
) -> None:
    images = torch.rand(2, 3, 17, 11)
    rows = exact.gaussian(17, sigma, truncate, edges)
    columns = exact.gaussian(11, sigma, truncate, edges)
    expected = ndimage.gaussian_filter(
        images.double().numpy(), (0, 0, sigma, sigma), mode=mode, truncate=truncate
    )
    found = exact.along(images, rows, columns)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_grey_stays_grey_to_the_last_bit() -> None:
    grey = torch.full((1, 1, 60, 60), 100 / 256)
    for weights in (
        exact.gaussian(60, 7.7, 4.0, "mirror"),
        exact.boxes(37, 60) @ exact.boxes(60, 37),
    ):
        assert torch.equal(exact.along(grey, weights, weights), grey)


def test_sums_are_exact() -> None:
    """In any order of the pixels, and as Python's whole numbers have it."""
    images = torch.rand(1, 1, 50, 40)
    mean = exact.mean(images)
    shuffled = images.flatten()[torch.randperm(2000)].reshape(1, 1, 40, 50)
    assert torch.equal(mean, exact.mean(shuffled))
    whole = sum(round(float(value) * 2**24) for value in images.flatten())
    assert float(mean) == float(np.float32(whole / (2000 * 2**24)))


def test_an_image_is_read_between_its_pixels_as_by_scipy() -> None:
    images = torch.rand(2, 3, 9, 7)
    y, x = torch.rand(2, 5, 6) * 40 - 20, torch.rand(2, 5, 6) * 40 - 20
    modes = {
        "symmetric": "reflect",
        "mirror": "mirror",
        "nearest": "nearest",
        "wrap": "grid-wrap",
    }
    for edges, mode in modes.items():
        found = exact.sampled(images, y, x, edges)  # type: ignore[arg-type]
        for image, channel in ((0, 0), (1, 2)):
            expected = ndimage.map_coordinates(
                images[image, channel].double().numpy(),
                (y[image].double().numpy(), x[image].double().numpy()),
                order=1,
                mode=mode,
            )
            np.testing.assert_allclose(found[image, channel].numpy(), expected, atol=1e-5)


def test_unknown_edges_are_refused() -> None:
    with pytest.raises(BadInput, match="nearest, symmetric, mirror or wrap"):
        exact.folded(torch.arange(3), 3, "zero")  # type: ignore[arg-type]
