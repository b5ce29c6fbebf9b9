"""Residual networks with pre-activation, wide ones among them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from robustkit.errors import BadInput
from robustkit.models.layers import activation as new_activation
from robustkit.models.layers import check_sizes, initialize, normalization, seeded


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and activation, added to their input."""

    def __init__(
        self, before: int, after: int, *, stride: int, activation: str, dropout: float
    ) -> None:
        """Lead from `before` channels to `after`."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.activation = new_activation(activation)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, after, H / stride, W / stride)."""
        active = self.activation(self.bn1(inputs))
        # A projection starts from the activated input, an identity from the raw one.
        kept = inputs if self.shortcut is None else self.shortcut(active)
        hidden = self.dropout(self.activation(self.bn2(self.conv1(active))))
        outputs: Tensor = self.conv2(hidden) + kept
        return outputs


class PreActResNet(nn.Sequential):
    """A residual network in which batch norm and activation come before each convolution.

    Each stage after the first halves the image. `PreActResNet.wide` builds wide residual networks.
    Takes (N, channels, H, W) images of any size, gives (N, classes) logits.

    Reference:
        Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun: "Identity Mappings in Deep Residual
        Networks", ECCV 2016.
        Sergey Zagoruyko, Nikos Komodakis: "Wide Residual Networks", BMVC 2016.
        With SiLU: Sven Gowal, Chongli Qin, Jonathan Uesato, Timothy Mann, Pushmeet Kohli:
        "Uncovering the Limits of Adversarial Training against Norm-Bounded Adversarial Examples",
        arXiv 2020.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        widths: Sequence[int],
        stem: int,
        classes: int = 10,
        channels: int = 3,
        activation: str = "relu",
        dropout: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        """Build it with new weights.

        Args:
            depths: Blocks per stage.
            widths: Channels per stage.
            stem: Channels of the first convolution.
            classes: Number of logits.
            channels: Channels of the images.
            activation: `relu` or `silu`.
            dropout: Probability, between the convolutions of a block; training only.
            mean: Of a `Normalize` layer in front; None for none.
            std: Of that layer.
            seed: Of the new weights.
        """
        check_sizes(classes=classes, channels=channels, width=min(widths))
        with seeded(seed):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["normalize"] = normalization(channels, mean, std)
            layers["conv1"] = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
            before = stem
            for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
                blocks = []
                for index in range(depth):
                    stride = 2 if stage > 0 and index == 0 else 1
                    blocks.append(
                        PreActBlock(
                            before, width, stride=stride, activation=activation, dropout=dropout
                        )
                    )
                    before = width
                layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
            layers["bn"] = nn.BatchNorm2d(before)
            layers["activation"] = new_activation(activation)
            layers["pool"] = nn.AdaptiveAvgPool2d(1)
            layers["flatten"] = nn.Flatten()
            layers["linear"] = nn.Linear(before, classes)
            super().__init__(layers)
            initialize(self)

    @classmethod
    def wide(
        cls,
        depth: int,
        factor: int,
        *,
        classes: int = 10,
        channels: int = 3,
        activation: str = "relu",
        dropout: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> Self:
        """The wide residual network WRN-depth-factor.

        Args:
            depth: 6 n + 4 for n blocks in each of the three stages.
            factor: Widens the stages of 16, 32 and 64 channels.
            classes: Number of logits.
            channels: Channels of the images.
            activation: `relu` or `silu`.
            dropout: Probability, between the convolutions of a block; training only.
            mean: Of a `Normalize` layer in front; None for none.
            std: Of that layer.
            seed: Of the new weights.

        Raises:
            BadInput: There is no network of that depth.
        """
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise BadInput(
                f"A wide ResNet of depth {depth} was asked for; give 10, 16, 22, 28, ..."
            )
        return cls(
            (blocks,) * 3,
            widths=(16 * factor, 32 * factor, 64 * factor),
            stem=16,
            classes=classes,
            channels=channels,
            activation=activation,
            dropout=dropout,
            mean=mean,
            std=std,
            seed=seed,
        )
