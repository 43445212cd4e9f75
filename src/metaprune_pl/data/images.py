"""What all image data modules share: uint8 batches that are finished on the device."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metaprune_pl.data.augmentation import Mixing
from metaprune_pl.data.batches import SteppedDataModule
from metaprune_pl.data.loader import Batch, ImageLoader, Order
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks.expected import IMAGENET_MEAN, IMAGENET_STD
from metaprune_pl.networks.preprocessing import Preprocessing

OfNetwork = Literal["network"]
"""What is left to the network that reads the images."""

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What a network expects of its images: take off a mean and divide by a deviation.

    Attributes:
        mean: Of each channel, for pixels in [0, 1].
        std: The same of the deviation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not finite or not 0 < len(self.mean) == len(self.std) or min(self.std) <= 0:
            raise ConfigError(
                "normalization: mean and std have a finite number for each channel, std above 0."
            )

    def for_bytes(self, channels: int) -> tuple[Tensor, Tensor]:
        """Return mean and deviation for pixels in [0, 255], each [C, 1, 1].

        Raises:
            ConfigError: The images have another number of channels.
        """
        if channels != len(self.mean):
            raise ConfigError(
                f"normalization: the images' channels are {channels}, those of mean and std "
                f"{len(self.mean)}."
            )
        mean, std = (255 * torch.tensor(value)[:, None, None] for value in (self.mean, self.std))
        return mean, std


IMAGENET = Normalization(mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""What pretrained networks expect, torchvision's and most of timm's."""


class ImageDataModule(SteppedDataModule, ABC):
    """Base of image data modules.

    Args:
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`.
        mixing: How training images are mixed.
        seed: Seed of order and augmentation.

    Raises:
        ConfigError: A batch size is below 1.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int,
        global_batch: int | None,
        mixing: Mixing,
        seed: int,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            seed=seed,
        )
        self.mixing = mixing

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """K."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""

    @property
    @abstractmethod
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of images in [0, 255], each [C, 1, 1]."""

    @property
    def channels(self) -> int:
        """C."""
        return self.input_shape[0]

    @property
    def follows_network(self) -> bool:
        """Whether something about the images is still left to the network that reads them."""
        return False

    def follow(
        self, size: int | None, normal: tuple[tuple[float, ...], tuple[float, ...]] | None
    ) -> None:
        """Have images be as a network expects them, where that is left to it.

        Args:
            size: Pixels of both sides; None where the network does not tell.
            normal: Mean and deviation for pixels in [0, 1]; None likewise.
        """

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their labels; empty where they have none."""
        return []

    @property
    def contents(self) -> str:
        """What tells these images from others of the same settings; empty where they stay."""
        return ""

    @property
    def crop(self) -> float | None:
        """Share of a resized image that its middle has: see `Preprocessing`."""
        return None

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to an image before a network reads it."""
        mean, std = (
            tuple(round(value / 255, 6) for value in part.flatten().tolist())
            for part in self.normalization
        )
        return Preprocessing(mean=mean, std=std, crop=self.crop, classes=self.class_names)

    @abstractmethod
    def count(self, split: Split) -> int:
        """Return the number of images of a part."""

    @abstractmethod
    def loader(self, split: Split, order: Order) -> ImageLoader:
        """Return batches of a part of the data."""

    @abstractmethod
    def transform(self, batch: Batch, *, train: bool) -> Tensor:
        """Return a batch's images, augmented in training and not yet normalised."""

    def prepare_data(self) -> None:
        """Find, download or decode the images on one process, before the others look for them."""
        self.count("train")

    def setup(self, stage: str) -> None:
        """Find the images, and divide the steps of a fit over the devices."""
        self.count("train")
        if stage == "fit":
            self.divide_steps()

    def train_loader(self) -> ImageLoader:
        """Return batches of the training images for this rank."""
        return self.loader("train", self.train_order(self.count("train")))

    def eval_loader(self, split: Split, *, rank: int = 0, ranks: int = 1) -> ImageLoader:
        """Return batches of a part of the data, in order and without augmentation."""
        order = Order(
            self.count(split), batch_size=self.eval_batch_size, train=False, rank=rank, ranks=ranks
        )
        return self.loader(split, order)

    def sample(self, split: Split, images: int) -> Order:
        """Return the order of so many images of a part, evenly spread over it."""
        size = min(self.eval_batch_size, images)
        return Order(self.count(split), batch_size=size, train=False, sample=images)

    def train_dataloader(self) -> ImageLoader:
        """Lightning's hook."""
        return self.train_loader()

    def val_dataloader(self) -> ImageLoader:
        """Lightning's hook."""
        return self._eval_dataloader("validation")

    def test_dataloader(self) -> ImageLoader:
        """Lightning's hook."""
        return self._eval_dataloader("test")

    def _eval_dataloader(self, split: Split) -> ImageLoader:
        assert self.trainer is not None
        return self.eval_loader(split, rank=self.trainer.global_rank, ranks=self.trainer.world_size)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment (in training) and normalise on the device: Batch -> (images, labels)."""
        return self.finish(batch, train=bool(self.trainer and self.trainer.training))

    def finish(self, batch: Batch, *, train: bool) -> tuple[Tensor, Tensor]:
        """Augment (in training) and normalise a batch.

        Returns:
            Images [B, C, H, W], and labels [B] or, where images are mixed, shares of the classes
            [B, K].
        """
        images = self.normalize(self.transform(batch, train=train))
        return (
            self.mixing(images, batch.labels, batch.draws, self.num_classes)
            if train
            else (images, batch.labels)
        )

    def normalize(self, images: Tensor) -> Tensor:
        """Bring images to mean 0 and deviation 1.

        [B, C, H, W] of 0 to 255 -> float32 [B, C, H, W].
        """
        mean, std = (value.to(images.device) for value in self.normalization)
        return torch.sub(images, mean).div_(std)

    def evaluation(
        self, split: Split, device: torch.device, order: Order | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give a part of the data as normalised batches on a device.

        An order picks some of its images.
        """
        for batch in self.eval_loader(split) if order is None else self.loader(split, order):
            yield self.finish(Batch(*(value.to(device) for value in batch)), train=False)
