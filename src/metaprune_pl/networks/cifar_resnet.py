"""Residual networks for small images: depth 6n + 2, three stages (He et al., 2016, section 4.2).

Shortcuts between stages are 1x1 convolutions with batch norm (option B), as in the paper's
experiments, or zero-padded (option A), as in many public checkpoints.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.errors import NetworkError

Shortcut = Literal["conv", "pad"]
"""The shortcut to a wider output: a 1x1 convolution with batch norm (option B), or padding with
zeros (option A)."""


class PaddedShortcut(nn.Module):
    """Takes each second row and column, and pads as many channels before the input as after it.

    The padding is zeros.

    Shapes: [B, in, H, W] -> [B, in + 2 * padding, H / stride, W / stride].
    """

    def __init__(self, padding: int, stride: int) -> None:
        super().__init__()
        self.padding = padding
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the shortcut."""
        smaller = x[:, :, :: self.stride, :: self.stride]
        return F.pad(smaller, (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Shapes: [B, in, H, W] -> [B, out, H / stride, W / stride].
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if in_channels != out_channels and shortcut == "pad":
            self.shortcut = nn.Sequential(PaddedShortcut((out_channels - in_channels) // 2, stride))
        elif in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


def _stage(in_channels: int, out_channels: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, out_channels // in_channels, shortcut)
    rest = (BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


class CifarResNet(nn.Module):
    """Residual network for small images.

    Args:
        depth: Number of weighted layers on the main path, 6n + 2.
        width: Channels of the first stage; the second has twice, the third four times as many.
        num_classes: Number of classes K.
        in_channels: Channels C of the images.
        shortcut: Shortcut between stages, see `Shortcut`.
        patch: The first convolution reads 3x3 blocks of so many pixels a side, with this stride: 2
            makes the network four times faster.

    Shapes: [B, C, H, W] -> [B, K].

    Raises:
        NetworkError: The depth is not 6n + 2, a size is below 1, or the shortcut is none for it.
    """

    input_size = (3, 32, 32)

    def __init__(
        self,
        *,
        depth: int = 56,
        width: int = 16,
        num_classes: int = 10,
        in_channels: int = 3,
        shortcut: Shortcut = "conv",
        patch: int = 1,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise NetworkError(
                f"cifar_resnet: depth {depth} is not 6n + 2. Take 8, 14, 20, 32, 44, 56 or 110."
            )
        if min(width, num_classes, in_channels, patch) < 1:
            raise NetworkError(
                "cifar_resnet: width, num_classes, in_channels and patch must be at least 1."
            )
        if shortcut not in get_args(Shortcut) or (shortcut == "pad" and width % 2):
            raise NetworkError("cifar_resnet: shortcut is 'conv', or 'pad' with an even width.")
        self.conv1 = nn.Conv2d(in_channels, width, 3 * patch, patch, patch, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(width, width, blocks, shortcut)
        self.layer2 = _stage(width, 2 * width, blocks, shortcut)
        self.layer3 = _stage(
            2 * width,
            4 * width,
            blocks,
            shortcut,
        )
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]
