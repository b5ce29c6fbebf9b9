"""An autoencoder whose encoder is Lipschitz-bounded, with a code of two values in between."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from robustkit.errors import BadInput, ShapeMismatch
from robustkit.models.layers import check_sizes, seeded
from robustkit.randomness import Streams

Code = Literal["hard", "straight-through", "soft"]
# What an image can be put together from: a code, or what the code is on average over draws.
Kind = Code | Literal["average", "average-through"]
# The code is so many times smaller than the image, along each side.
SHRINKS = 4
# How steeply the soft code passes from -1 to 1, for squares of the latent numbers.
_STEEPNESS = 500.0
_SLOPE = 0.2


class LipschitzFilter(nn.Module):
    """Takes images apart into numbers that are -1 or 1, and puts images together from them.

    The encoder gives, for each number of the code, a mean and the logarithm of a variance. Each
    layer on the way to the mean is divided by its spectral norm, so that a change of the image of
    length d moves the mean by at most `lipschitz` d, both in l2; `bound` says by how much at most
    with the weights as they are. The numbers of the code are 1 where the mean, or what is drawn
    around it, lies within a window around zero, and -1 elsewhere.

    Attributes:
        channels: Of the images.
        lipschitz: The bound that the layers are scaled to.
        window: Half the width of the window.
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int = 16,
        codes: int = 32,
        lipschitz: float = 4.0,
        window: float = 0.1,
        seed: int = 0,
    ) -> None:
        """Build it with new weights.

        Args:
            channels: Of the images.
            width: Channels of the first layer; the second one has twice as many.
            codes: Numbers of the code for each patch of 4 x 4 pixels.
            lipschitz: The bound on the encoder's mean.
            window: Half the width of the window around zero.
            seed: Of the new weights.

        Raises:
            BadInput: Sizes below 1, or a bound or a window that is not above 0.
        """
        super().__init__()
        check_sizes(classes=codes, channels=channels, width=width)
        if not (0 < lipschitz < float("inf") and 0 < window < float("inf")):
            raise BadInput(
                f"The filter's lipschitz is {lipschitz} and its window {window}; give numbers "
                "above 0."
            )
        self.channels = channels
        self.lipschitz = lipschitz
        self.window = window
        with seeded(seed):
            self.first = _divided(nn.Conv2d(channels, width, 4, 2, 1))
            self.second = _divided(nn.Conv2d(width, 2 * width, 4, 2, 1))
            self.mean = _divided(nn.Conv2d(2 * width, codes, 1))
            # Where the code changes its mind, and learning moves it: in the middle of the window
            # the soft code has no slope.
            nn.init.constant_(self.mean.get_parameter("bias"), window / lipschitz)
            self.log_variance = nn.Conv2d(2 * width, codes, 1)
            self.decoder = nn.Sequential(
                nn.Conv2d(codes, 4 * width, 3, padding=1),
                nn.LeakyReLU(_SLOPE),
                nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1),
                nn.LeakyReLU(_SLOPE),
                nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
                nn.LeakyReLU(_SLOPE),
                nn.Conv2d(width, channels, 3, padding=1),
                nn.Sigmoid(),
            )

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (N, codes, H / 4, W / 4).

        Raises:
            ShapeMismatch: No images of these channels, or sides that 4 does not divide.
        """
        shape = inputs.shape
        if len(shape) != 4 or shape[1] != self.channels or any(s % SHRINKS for s in shape[2:]):
            raise ShapeMismatch(
                f"The filter was given images of shape {tuple(shape)}; it takes (N, "
                f"{self.channels}, H, W) with sides that {SHRINKS} divides."
            )
        hidden = inputs
        for layer in (self.first, self.second):
            hidden = F.leaky_relu(layer(hidden) / _overlap(layer), _SLOPE)
        return self.lipschitz * self.mean(hidden), self.log_variance(hidden)

    def drawn(self, mean: Tensor, log_variance: Tensor, streams: Streams) -> Tensor:
        """Numbers around the mean, half a window times the deviation away."""
        noise = streams.normal(tuple(mean.shape[1:]))
        return mean + self.window / 2 * (log_variance / 2).exp() * noise

    def code(self, latent: Tensor, kind: Code) -> Tensor:
        """The code of some latent numbers, of the same shape.

        Args:
            latent: Any shape.
            kind: `hard` is -1 or 1, and its gradient is zero; `soft` lies in between;
                `straight-through` is the hard code with the gradient of the soft one.
        """
        inside = self.window**2 - latent.square()
        soft = F.softsign(_STEEPNESS * inside)
        if kind == "soft":
            return soft
        # Zero itself belongs to the window.
        hard = inside.sign() + (inside == 0).to(inside.dtype)
        return hard if kind == "hard" else soft + (hard - soft).detach()

    def average(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """What the hard code of drawn numbers is on average: smooth, and without any noise."""
        spread = self.window / 2 * (log_variance / 2).exp()
        inside = torch.special.ndtr((self.window - mean) / spread) - torch.special.ndtr(
            (-self.window - mean) / spread
        )
        code: Tensor = 2 * inside - 1
        return code

    def decode(self, code: Tensor) -> Tensor:
        """(N, C, H, W) images in [0, 1] of a code."""
        images: Tensor = self.decoder(code)
        return images

    def forward(
        self, inputs: Tensor, streams: Streams | None = None, *, kind: Kind = "hard"
    ) -> Tensor:
        """Images as they come back.

        Args:
            inputs: (N, C, H, W) in [0, 1].
            streams: One per image to draw the latent numbers; None takes their means.
            kind: See `code`; or `average`, where the code is what it is on average over draws, or
                `average-through`, the hard code with the gradient of that.

        Raises:
            ShapeMismatch: See `encode`.
        """
        mean, log_variance = self.encode(inputs)
        if kind == "average":
            return self.decode(self.average(mean, log_variance))
        latent = mean if streams is None else self.drawn(mean, log_variance, streams)
        if kind == "average-through":
            smooth = self.average(mean, log_variance)
            return self.decode(smooth + (self.code(latent, "hard") - smooth).detach())
        return self.decode(self.code(latent, kind))

    @torch.no_grad()
    def bound(self) -> float:
        """By how much the mean moves at most, in l2, per unit that the image moves in l2.

        The product of the layers' largest singular values, computed afresh and not taken from
        training. A convolution's is at most that of its kernel as a matrix, times the root of the
        number of patches that a pixel lies in.
        """
        found = self.lipschitz
        for layer in (self.first, self.second, self.mean):
            matrix = layer.weight.detach().double().flatten(1)
            # The overlap has been divided away before.
            found *= float(torch.linalg.matrix_norm(matrix, ord=2))
        return found


def _divided(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, whose kernel as a matrix is divided by its largest singular value."""
    spectral_norm(layer)
    return layer


def _overlap(layer: nn.Conv2d) -> float:
    """The root of the number of patches in which a pixel lies at most."""
    pairs = zip(layer.kernel_size, layer.stride, strict=True)
    return math.sqrt(math.prod(-(-size // step) for size, step in pairs))
