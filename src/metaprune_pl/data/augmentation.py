"""Augmentation of whole batches on the device: windows, mirroring, and mixing of images."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from metaprune_pl.errors import ConfigError


def cut(images: Tensor, size: tuple[int, int], draws: Tensor, *, flip: bool) -> Tensor:
    """Cut a window out of each image, and mirror half of them.

    Args:
        images: [B, C, H, W].
        size: Height h and width w of the windows.
        draws: Uniform in [0, 1), [B, 3]: down, right, mirrored.
        flip: Whether any are mirrored.

    Returns:
        [B, C, h, w].
    """
    count, channels, rows, columns = images.shape
    height, width = size
    down = (draws[:, 0] * (rows - height + 1)).long()
    right = (draws[:, 1] * (columns - width + 1)).long()
    index = torch.arange(count, device=images.device)
    if flip:  # windows of mirrored images, counted from the other side
        mirrored = draws[:, 2] >= 0.5
        index = index + count * mirrored
        right = torch.where(mirrored, columns - width - right, right)
        images = torch.cat([images, images.flip(3)])
    channel = torch.arange(channels, device=images.device)
    row = torch.arange(height, device=images.device)
    maps = (index * channels)[:, None] + channel  # index of each map, [B, C]
    first_rows = maps * rows + down[:, None]
    window_rows = first_rows[:, :, None] + row  # index of each row of a window, [B, C, h]
    starts = window_rows * columns + right[:, None, None]  # index of its first pixel
    pieces = images.reshape(-1).unfold(0, width, 1)  # a view of all pieces of w pixels
    return pieces.index_select(0, starts.flatten()).view(count, channels, height, width)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to training images.

    Attributes:
        shift: Largest shift in each direction, in pixels; pixels without image are zero.
        flip: Mirror half of the images.
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ConfigError(
                f"augmentation.shift is {self.shift}; it is a number of pixels, at least 0."
            )

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment a batch: [B, C, H, W] and uniform numbers [B, 3] -> [B, C, H, W]."""
        if not (self.shift or self.flip):
            return images
        height, width = images.shape[2:]
        return cut(
            F.pad(images, [self.shift] * 4),
            (height, width),
            draws,
            flip=self.flip,
        )


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixing of two images and their labels; where both kinds are on, each batch gets one of them.

    Attributes:
        mixup: Alpha of mixup (Zhang et al., 2018); 0 is none.
        cutmix: Alpha of cutmix (Yun et al., 2019); 0 is none.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= alpha < math.inf for alpha in (self.mixup, self.cutmix)):
            raise ConfigError("mixing: mixup and cutmix are at least 0, and finite.")

    def __call__(
        self, images: Tensor, labels: Tensor, draws: Tensor, num_classes: int
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch of images [B, C, H, W] and labels [B] -> images and class shares [B, K].

        Without mixing the labels stay [B].
        """
        kinds = (v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)
        choices = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
        if not choices:
            return images, labels
        with torch.random.fork_rng(devices=[]):  # torchvision draws on the CPU
            torch.default_generator.manual_seed(int(draws[0, 2] * 2**24))
            mixed: tuple[Tensor, Tensor] = v2.RandomChoice(choices)(images, labels)
        return mixed
