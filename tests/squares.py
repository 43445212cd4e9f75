"""Images with a square each, masks of where it is, and a network that finds it."""

from functools import partial

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Squares(LightningDataModule):
    """Grey images with a bright square each, and masks of where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.train_dataloader = partial(squares, 0)
        self.test_dataloader = partial(squares, 1)


def squares(seed: int) -> DataLoader[tuple[Tensor, ...]]:
    """Images [1, 12, 12] and masks [12, 12]."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(64, 1, 12, 12, generator=generator)
    masks = torch.zeros(64, 12, 12, dtype=torch.long)
    corners = torch.randint(0, 7, (64, 2), generator=generator).tolist()
    for image, mask, (row, column) in zip(images, masks, corners, strict=True):
        image[:, row : row + 5, column : column + 5] += 1
        mask[row : row + 5, column : column + 5] = 1
    return DataLoader(TensorDataset(images, masks), batch_size=16)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 2, 1),
    )


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 2, 1),
    )
