"""How much published images differ from their originals."""

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.data import LabelledImages
from robustkit.errors import BadInput, ShapeMismatch
from robustkit.report.unlearnable import Distortion, Spread

WINDOW = 7
_K1, _K2 = 0.01, 0.03
# Values of images that are compared together.
_VALUES = 2**20


def distortion(
    clean: LabelledImages,
    published: LabelledImages,
    changed: Tensor,
    *,
    device: torch.device | str = "cpu",
) -> Distortion:
    """Compare published images with their originals, a few at a time.

    Args:
        clean: The originals.
        published: The same number of images of the same shape, in the same order.
        changed: (N,) bool: which are to be compared.
        device: Where to compute.

    Raises:
        ShapeMismatch: The sets do not belong together.
    """
    if len(clean) != len(published) or clean.shape != published.shape:
        raise ShapeMismatch(f"{clean!r} and {published!r} do not have the same number and shape.")
    parts: list[Tensor] = []
    identical = 0
    step = max(1, _VALUES // torch.Size(clean.shape).numel())
    for rows in torch.split(changed.nonzero()[:, 0], step):
        pair = (clean.inputs(rows).to(device), published.inputs(rows).to(device))
        differ = (pair[0] != pair[1]).flatten(1).any(1)
        identical += int((~differ).sum())
        old, new = (images[differ] for images in pair)
        parts.append(torch.stack([psnr(old, new), ssim(old, new), linf(old, new)]).cpu())
    values = torch.cat(parts, dim=1) if parts else torch.empty(3, 0)
    spreads = [Spread.of(row) if len(row) else None for row in values]
    return Distortion(
        n=values.shape[1],
        identical=identical,
        psnr=spreads[0],
        ssim=spreads[1],
        linf=spreads[2],
    )


def linf(clean: Tensor, changed: Tensor) -> Tensor:
    """(N,) float64: the largest difference of a value in each image."""
    return (changed.double() - clean.double()).abs().flatten(1).amax(1)


def psnr(clean: Tensor, changed: Tensor) -> Tensor:
    """(N,) float64: peak signal-to-noise ratio in decibels; infinite for identical images.

    Args:
        clean: (N, C, H, W) in [0, 1].
        changed: Like `clean`.

    Example:
        >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1)).round(decimals=4).tolist()
        [20.0]
    """
    error = (changed.double() - clean.double()).square().flatten(1).mean(1)
    return -10 * error.log10()


def ssim(clean: Tensor, changed: Tensor) -> Tensor:
    """(N,) float64: the mean structural similarity of each image, over windows and channels.

    Windows are 7 x 7, evenly weighted, and lie wholly inside the image; variances are those of
    samples. Images with a shorter side get the largest odd window that fits.

    Args:
        clean: (N, C, H, W) in [0, 1].
        changed: Like `clean`.

    Raises:
        BadInput: Images of fewer than 3 pixels a side have no windows.

    Reference:
        Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to
        structural similarity. IEEE Transactions on Image Processing, 2004.

    Differs from the reference:
        Theirs are windows of 11 x 11 with Gaussian weights of width 1.5, which do not fit the
        smallest images here; even windows of 7 x 7 are the other common choice.
    """
    shortest = min(clean.shape[2:])
    window = min(WINDOW, shortest - 1 + shortest % 2)
    if window < 3:
        raise BadInput(f"Images of {shortest} pixels are too small for structural similarity.")

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, stride=1)

    old, new = clean.double(), changed.double()
    means = mean(old), mean(new)
    count = window**2
    unbiased = count / (count - 1)
    variances = [
        unbiased * (mean(a * b) - c * d)
        for a, b, c, d in (
            (old, old, means[0], means[0]),
            (new, new, means[1], means[1]),
            (old, new, means[0], means[1]),
        )
    ]
    luminance = (2 * means[0] * means[1] + _K1**2) / (means[0] ** 2 + means[1] ** 2 + _K1**2)
    structure = (2 * variances[2] + _K2**2) / (variances[0] + variances[1] + _K2**2)
    return (luminance * structure).flatten(1).mean(1)
