"""Corruptions by noise, independent in every value of an image."""

import torch
from torch import Tensor

from robustkit.randomness import Streams

# So many steps at most lie between the first guess of a Poisson quantile and the quantile.
_CORRECTIONS = 40


def gaussian_noise(images: Tensor, streams: Streams, scale: float) -> Tensor:
    """Normal noise, as in bad light.

    Args:
        images: (N, C, H, W) float32 in [0, 1]; so for all corruptions.
        streams: One per image; so for all corruptions.
        scale: Standard deviation.
    """
    return images + streams.normal(tuple(images.shape[1:])) * scale


def shot_noise(images: Tensor, streams: Streams, photons: float) -> Tensor:
    """The noise of counting light: a Poisson number of photons stands for each value.

    Args:
        images: (N, C, H, W).
        streams: One per image.
        photons: How many of them make the value 1.
    """
    uniform = (streams.bits(tuple(images.shape[1:])).double() + 0.5) / 2**32
    return (_poisson(images.double() * photons, uniform) / photons).float()


def impulse_noise(images: Tensor, streams: Streams, share: float) -> Tensor:
    """Salt and pepper: some values become 0 or 1.

    Args:
        images: (N, C, H, W).
        streams: One per image.
        share: How many values are replaced; half of them by 1.
    """
    shape = tuple(images.shape[1:])
    hit = streams.fork("where").uniform(shape) < share
    salt = streams.fork("salt").uniform(shape) < 0.5
    return torch.where(hit, salt.to(images.dtype), images)


def _poisson(rate: Tensor, uniform: Tensor) -> Tensor:
    """The Poisson quantile of each number in (0, 1): the smallest k with P(X <= k) > u."""
    rate = rate.clamp_min(1e-300)
    normal = torch.special.ndtri(uniform)
    # The expansion of Cornish and Fisher, to the skewness.
    guess: Tensor = (rate + rate.sqrt() * normal + (normal**2 - 1) / 6).floor().clamp_min(0)
    # Of rare events it knows nothing; there the search begins at none.
    guess = guess.where(rate >= 1, torch.zeros_like(guess))
    below = torch.special.gammaincc(guess, rate).where(guess > 0, torch.zeros_like(guess))
    term = (guess * rate.log() - rate - torch.lgamma(guess + 1)).exp()
    for _ in range(_CORRECTIONS):
        up, down = uniform >= below + term, uniform < below
        if not bool((up | down).any()):
            break
        previous = term * guess / rate
        below = torch.where(up, below + term, torch.where(down, below - previous, below))
        term = torch.where(up, term * rate / (guess + 1), torch.where(down, previous, term))
        guess = guess + up.double() - down.double()
    return guess
