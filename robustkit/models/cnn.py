"""A small convolutional network for work on a CPU."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from robustkit.models.layers import activation as new_activation
from robustkit.models.layers import check_sizes, initialize, normalization, seeded


class CNN(nn.Sequential):
    """Four 3x3 convolutions with batch norm, then the mean over the image and a linear layer.

    Made for 28 and 32 px on a CPU: 66,410 parameters at the default sizes. The second and the
    fourth convolution halve the image. Takes (N, channels, H, W) images of any size, gives
    (N, classes) logits.

    Reference:
        Jost Tobias Springenberg, Alexey Dosovitskiy, Thomas Brox, Martin Riedmiller: "Striving for
        Simplicity: The All Convolutional Net", ICLR 2015 workshop.

    Differs from the reference:
        Four layers in place of nine, with batch norm and without dropout, and a linear layer behind
        the mean: it is meant to be small, not to be accurate.
    """

    def __init__(
        self,
        *,
        classes: int = 10,
        channels: int = 3,
        width: int = 32,
        activation: str = "relu",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        """Build it with new weights.

        Args:
            classes: Number of logits.
            channels: Channels of the images.
            width: Channels of the first two convolutions; the other two have twice as many.
            activation: `relu` or `silu`.
            mean: Of a `Normalize` layer in front; None for none.
            std: Of that layer.
            seed: Of the new weights.
        """
        check_sizes(classes=classes, channels=channels, width=width)
        with seeded(seed):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["normalize"] = normalization(channels, mean, std)
            before = channels
            for number, (after, stride) in enumerate(
                ((width, 1), (width, 2), (2 * width, 1), (2 * width, 2)), start=1
            ):
                layers[f"conv{number}"] = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
                layers[f"bn{number}"] = nn.BatchNorm2d(after)
                layers[f"activation{number}"] = new_activation(activation)
                before = after
            layers["pool"] = nn.AdaptiveAvgPool2d(1)
            layers["flatten"] = nn.Flatten()
            layers["linear"] = nn.Linear(before, classes)
            super().__init__(layers)
            initialize(self)
