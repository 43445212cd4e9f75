"""Image data modules: uint8 tensors in memory, augmented as whole batches on the device."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from torch import Tensor

from metaprune_pl.data.loader import Batch, TensorLoader
from metaprune_pl.errors import ConfigError

Split = Literal["train", "validation", "test"]


class ImageSet(NamedTuple):
    """Images uint8 [n, C, H, W] and labels int64 [n]."""

    images: Tensor
    labels: Tensor


class Splits(NamedTuple):
    """The three parts of a data set; validation is a part of the training data, not of the test data."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to training images.

    Attributes:
        shift: Largest shift in each direction, in pixels; places without image are zero.
        flip: Mirror half of the images.
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ConfigError(f"augmentation.shift is {self.shift}; it is a number of pixels, at least 0.")

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment a batch: [B, C, H, W] and uniform numbers [B, 3] -> [B, C, H, W]."""
        height, width = images.shape[2:]
        rows = torch.arange(height, device=images.device).expand(len(images), -1)
        columns = torch.arange(width, device=images.device).expand(len(images), -1)
        if self.flip:
            columns = torch.where(draws[:, 2:] < 0.5, columns, width - 1 - columns)
        if self.shift:
            images = F.pad(images, [self.shift] * 4)
            offsets = (draws[:, :2] * (2 * self.shift + 1)).long()
            rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
        elif not self.flip:
            return images
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        return images[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


class ImageDataModule(LightningDataModule, ABC):
    """Base of image data modules.

    Args:
        batch_size: Training images per batch and device.
        eval_batch_size: Images per batch and device in validation and test.
        augmentation: What is done to training images.
        seed: Seed of order and augmentation.

    Raises:
        ConfigError: A batch size is below 1.
    """

    def __init__(self, *, batch_size: int, eval_batch_size: int, augmentation: Augmentation, seed: int) -> None:
        super().__init__()
        if min(batch_size, eval_batch_size) < 1:
            raise ConfigError("data: batch_size and eval_batch_size must be at least 1.")
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.augmentation = augmentation
        self._splits: Splits | None = None
        self._normalization: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def load(self) -> Splits:
        """Return the images. Called once in each process.

        Raises:
            DataError: They are missing or cannot be read.
        """

    @property
    def splits(self) -> Splits:
        """The images, loaded when first asked for."""
        if self._splits is None:
            self._splits = self.load()
        return self._splits

    @property
    def num_classes(self) -> int:
        """K."""
        return int(max(part.labels.max() for part in self.splits)) + 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.splits.train.images.shape[1:]
        return channels, height, width

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training images in [0, 255], each [C, 1, 1]."""
        if self._normalization is None:
            images = self.splits.train.images[:5000].float()
            mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3)).clamp(min=1)
            self._normalization = mean[:, None, None], std[:, None, None]
        return self._normalization

    def normalize(self, images: Tensor) -> Tensor:
        """Bring images to mean 0 and deviation 1: uint8 [B, C, H, W] -> float32 [B, C, H, W]."""
        mean, std = (value.to(images.device) for value in self.normalization)
        return (images.float() - mean) / std

    def setup(self, stage: str) -> None:
        """Load the images."""
        _ = self.splits

    def train_loader(self) -> TensorLoader:
        """Return batches of the training images for this rank."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return TensorLoader(
            *self.splits.train, batch_size=self.batch_size, train=True, seed=self.seed, rank=rank, ranks=ranks
        )

    def eval_loader(self, split: Split, *, rank: int = 0, ranks: int = 1) -> TensorLoader:
        """Return batches of a part of the data, in order and without augmentation."""
        images: ImageSet = getattr(self.splits, split)
        return TensorLoader(*images, batch_size=self.eval_batch_size, train=False, seed=0, rank=rank, ranks=ranks)

    def train_dataloader(self) -> TensorLoader:
        """Lightning's hook."""
        return self.train_loader()

    def val_dataloader(self) -> TensorLoader:
        """Lightning's hook."""
        return self._eval_dataloader("validation")

    def test_dataloader(self) -> TensorLoader:
        """Lightning's hook."""
        return self._eval_dataloader("test")

    def _eval_dataloader(self, split: Split) -> TensorLoader:
        assert self.trainer is not None
        return self.eval_loader(split, rank=self.trainer.global_rank, ranks=self.trainer.world_size)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment (in training) and normalise on the device: Batch -> (images, labels)."""
        return self.finish(batch, train=bool(self.trainer and self.trainer.training))

    def finish(self, batch: Batch, *, train: bool) -> tuple[Tensor, Tensor]:
        """Augment (in training) and normalise a batch; returns images [B, C, H, W] and labels [B]."""
        images = self.augmentation(batch.images, batch.draws) if train else batch.images
        return self.normalize(images), batch.labels

    def evaluation(self, split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Give a part of the data as normalised batches on a device."""
        for batch in self.eval_loader(split):
            yield self.finish(Batch(*(value.to(device) for value in batch)), train=False)
