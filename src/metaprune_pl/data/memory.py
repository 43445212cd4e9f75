"""Images held in memory as uint8 tensors, augmented as whole batches on the device."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from metaprune_pl.data.augmentation import Augmentation, Mixing
from metaprune_pl.data.files import check_shares, fraction_of
from metaprune_pl.data.images import ImageDataModule, Normalization, Split
from metaprune_pl.data.loader import Batch, Order, TensorLoader


class ImageSet(NamedTuple):
    """Images uint8 [n, C, H, W] and labels int64 [n]."""

    images: Tensor
    labels: Tensor

    def pick(self, indices: Tensor) -> "ImageSet":
        """Return the images of these indices."""
        return ImageSet(self.images[indices], self.labels[indices])


class Splits(NamedTuple):
    """The three parts of a data set; validation is taken from the training data, not the test's."""

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
            images, before a fraction of them is drawn.
        fraction: Share of the training images that is used, class by class: the same ones
            for every seed.
        seed: Seed of order and augmentation.

    Raises:
        ConfigError: `fraction` is not between 0 and 1, or a batch size is below 1.
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
        fraction: float,
        seed: int,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            mixing=mixing,
            seed=seed,
        )
        check_shares(fraction=fraction)
        self.augmentation = augmentation
        self.fraction = fraction
        self._splits: Splits | None = None
        self._given = normalization
        self._normalization: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def load(self) -> Splits:
        """Return the images, with all that may be trained on. Called once in each process.

        Raises:
            DataError: They are missing or cannot be read.
        """

    @property
    def splits(self) -> Splits:
        """The images, loaded when first asked for."""
        if self._splits is None:
            splits = self.load()
            if self._given is None:
                self._normalization = _mean_and_deviation(splits.train.images)
            if self.fraction < 1:
                used = fraction_of(splits.train.labels, self.fraction)
                splits = splits._replace(train=splits.train.pick(used))
            self._splits = splits
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
        channels = self.input_shape[0]
        if self._normalization is None:
            assert self._given is not None
            self._normalization = self._given.for_bytes(channels)
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


def _mean_and_deviation(images: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, over some thousand images from all over: they may lie class by class."""
    some = images[:: max(1, len(images) // 5000)].float()
    mean = some.mean((0, 2, 3))
    std = some.std((0, 2, 3)).clamp(min=1)
    return mean[:, None, None], std[:, None, None]
