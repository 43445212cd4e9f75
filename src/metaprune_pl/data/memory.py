"""Images held in memory as uint8 tensors, augmented as whole batches on the device."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from metaprune_pl.data.augmentation import Augmentation, Mixing
from metaprune_pl.data.images import ImageDataModule, Normalization, Split
from metaprune_pl.data.loader import Batch, Order, TensorLoader


class ImageSet(NamedTuple):
    """Images uint8 [n, C, H, W] and labels int64 [n]."""

    images: Tensor
    labels: Tensor

    def pick(self, numbers: Tensor) -> "ImageSet":
        """Return the images of these numbers."""
        return ImageSet(self.images[numbers], self.labels[numbers])


class Splits(NamedTuple):
    """The three parts of a data set; validation is a part of the training data, not of the test data."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


class MemoryImages(ImageDataModule):
    """Base of data modules whose images are held in memory.

    Args:
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`.
        augmentation: What is done to training images.
        mixing: How training images are mixed.
        normalization: What the network expects; None takes mean and deviation of the training
            images.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int,
        global_batch: int | None,
        augmentation: Augmentation,
        mixing: Mixing = Mixing(),  # noqa: B008  (frozen)
        normalization: Normalization | None = None,
        seed: int,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            mixing=mixing,
            seed=seed,
        )
        self.augmentation = augmentation
        self._splits: Splits | None = None
        self._given = normalization
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
        """Mean and standard deviation of images in [0, 255], each [C, 1, 1].

        As given, or of some thousand.
        """
        if self._normalization is None and self._given is not None:
            self._normalization = self._given.for_bytes(self.input_shape[0])
        if self._normalization is None:
            images = self.splits.train.images
            images = images[
                :: max(1, len(images) // 5000)
            ].float()  # from all over: they may lie class by class
            mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3)).clamp(min=1)
            self._normalization = mean[:, None, None], std[:, None, None]
        return self._normalization

    def count(self, split: Split) -> int:
        """Return the number of images of a part."""
        return len(self._part(split).labels)

    def loader(self, split: Split, order: Order) -> TensorLoader:
        """Return batches of a part of the data."""
        return TensorLoader(*self._part(split), order)

    def _part(self, split: Split) -> ImageSet:
        part: ImageSet = getattr(self.splits, split)
        return part

    def transform(self, batch: Batch, *, train: bool) -> Tensor:
        """Augment images [B, C, H, W] in training."""
        return self.augmentation(batch.images, batch.draws) if train else batch.images
