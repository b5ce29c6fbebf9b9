"""Residual networks for small images."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from robustkit.models.layers import activation as new_activation
from robustkit.models.layers import check_sizes, initialize, normalization, seeded


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential:
    """What lets `before` channels be added to `after`: nothing, or a strided 1x1 convolution."""
    if stride == 1 and before == after:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int, activation: str) -> None:
        """Lead from `before` channels to `width`."""
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(before, width, stride)
        self.activation = new_activation(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, width, H / stride, W / stride)."""
        hidden = self.activation(self.bn1(self.conv1(inputs)))
        outputs: Tensor = self.activation(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))
        return outputs


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, added to their input."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int, activation: str) -> None:
        """Lead from `before` channels to `4 * width`."""
        super().__init__()
        after = self.expansion * width
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.shortcut = _shortcut(before, after, stride)
        self.activation = new_activation(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, 4 * width, H / stride, W / stride)."""
        hidden = self.activation(self.bn1(self.conv1(inputs)))
        hidden = self.activation(self.bn2(self.conv2(hidden)))
        outputs: Tensor = self.activation(self.bn3(self.conv3(hidden)) + self.shortcut(inputs))
        return outputs


class ResNet(nn.Sequential):
    """A residual network whose first convolution keeps the image's size.

    Each stage after the first halves the image and doubles the width; the mean over the image leads
    to one linear layer. Takes (N, channels, H, W) images of any size, gives (N, classes) logits.

    Reference:
        Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun: "Deep Residual Learning for Image
        Recognition", CVPR 2016.

    Differs from the reference:
        For small images: a 3x3 first convolution with stride 1 and no max pooling, as is usual for
        CIFAR. Where a stage changes the shape, the shortcut is a 1x1 convolution (the paper's
        option B). In a bottleneck, the 3x3 convolution has the stride, not the first 1x1.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        classes: int = 10,
        channels: int = 3,
        width: int = 64,
        activation: str = "relu",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        """Build it with new weights.

        Args:
            block: What the stages are made of.
            depths: Blocks per stage.
            classes: Number of logits.
            channels: Channels of the images.
            width: Of the first stage.
            activation: `relu` or `silu`.
            mean: Of a `Normalize` layer in front; None for none.
            std: Of that layer.
            seed: Of the new weights.
        """
        check_sizes(classes=classes, channels=channels, width=width)
        with seeded(seed):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["normalize"] = normalization(channels, mean, std)
            layers["conv1"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers["bn1"] = nn.BatchNorm2d(width)
            layers["activation"] = new_activation(activation)
            before = width
            for stage, depth in enumerate(depths):
                blocks = []
                for index in range(depth):
                    stride = 2 if stage > 0 and index == 0 else 1
                    blocks.append(block(before, width * 2**stage, stride, activation))
                    before = block.expansion * width * 2**stage
                layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
            layers["pool"] = nn.AdaptiveAvgPool2d(1)
            layers["flatten"] = nn.Flatten()
            layers["linear"] = nn.Linear(before, classes)
            super().__init__(layers)
            initialize(self)
