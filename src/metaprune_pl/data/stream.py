"""Images that do not fit into memory.

Read, cut and mirrored by worker processes, batch by batch.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from metaprune_pl.data.augmentation import Mixing
from metaprune_pl.data.files import (
    check_classes,
    check_image_size,
    check_shares,
    class_names,
    fraction_of,
    list_images,
    path_of,
    read_image,
    share,
)
from metaprune_pl.data.images import IMAGENET, ImageDataModule, Normalization, Split
from metaprune_pl.data.loader import Batch, ImageLoader, Order
from metaprune_pl.errors import DataError
from metaprune_pl.files import at_home

_LONGEST = 16
"""How many times as long as wide images are at most."""
CROP = 0.875
"""Share of a resized image that the middle has which is evaluated (He et al. 2015: 224 of 256)."""


class FileSet(NamedTuple):
    """Images of class folders.

    Attributes:
        folder: Where the class folders are.
        names: Paths within it, bytes [n].
        labels: int64 [n].
    """

    folder: Path
    names: np.ndarray
    labels: Tensor

    def pick(self, indices: Tensor) -> "FileSet":
        """Return the images of these indices."""
        return FileSet(self.folder, self.names[indices.numpy()], self.labels[indices])


class Reader(Dataset[Any], ABC):
    """Reads a batch, given (epoch, images before). Runs in the workers.

    A `DataError` is returned, not raised: what a worker raises arrives wrapped in a page of
    traceback.

    Args:
        order: Which images are in which batch.
    """

    def __init__(self, order: Order) -> None:
        self.order = order

    @abstractmethod
    def read(self, indices: Tensor, draws: Tensor) -> Any:
        """Read the batch of these images, [B], whose random numbers are these, [B, 3]."""

    def __getitem__(self, start: tuple[int, int]) -> Any:
        with torch.random.fork_rng(devices=[]):
            try:
                return self.read(*self.order.chosen(*start))
            except DataError as error:
                return error


class _FileReader(Reader):
    """Reads images of class folders."""

    def __init__(self, files: FileSet, order: Order, transform: v2.Compose, *, exif: bool) -> None:
        super().__init__(order)
        self.files = files
        self.transform = transform
        self.exif = exif

    def read(self, indices: Tensor, draws: Tensor) -> Batch:
        pairs = zip(indices.tolist(), draws.tolist(), strict=True)
        images = [self._image(*pair) for pair in pairs]
        return Batch(torch.stack(images), self.files.labels[indices], draws)

    def _image(self, index: int, draws: list[float]) -> Tensor:
        """Read an image [3, size, size]; what is random about it follows from its draws."""
        torch.default_generator.manual_seed((int(draws[0] * 2**24) << 24) + int(draws[1] * 2**24))
        image = read_image(path_of(self.files.folder, self.files.names[index]), exif=self.exif)
        transformed: Tensor = self.transform(_without_far_ends(image))
        return transformed


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut what lies far from the middle of a ribbon: its resized copy would take gigabytes."""
    longest = _LONGEST * min(image.size)
    width, height = (min(side, longest) for side in image.size)
    left = (image.width - width) // 2
    top = (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class _Starts:
    """The starts of the batches that the workers shall read next, in order."""

    def __init__(self) -> None:
        self.next: Iterable[tuple[int, int]] = ()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.next)


class StreamLoader(ImageLoader):
    """Batches of images that worker processes read ahead.

    The workers stay for as long as the loader.

    Args:
        reader: Reads a batch.
        workers: Number of worker processes; 0 reads in this one.
    """

    def __init__(self, reader: Reader, workers: int) -> None:
        super().__init__(reader.order)
        self._starts = _Starts()
        self._batches: DataLoader[Any] = DataLoader(
            reader,
            batch_size=None,
            sampler=self._starts,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def serve(self, starts: Iterable[tuple[int, int]]) -> Iterator[Any]:
        """Serve the batches that start there."""
        self._starts.next = starts
        for batch in self._batches:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class StreamedImageFolder(ImageDataModule):
    """Any number of images of any size, in one folder per class.

    They are `FOLDER/train/CLASS/*.jpg` and `FOLDER/val/CLASS/*.jpg`.

    The test set is `test`, or `val` where there is none; the validation set is a share of `train`,
    drawn class by class, always the same way. Training images are windows of random size and place,
    resized and mirrored at random (torchvision's RandomResizedCrop); otherwise the middle of the
    resized image is taken.

    Args:
        folder: Where the images are.
        image_size: Pixels of both sides.
        exif: Turn images as their cameras noted (EXIF orientation).
        validation_share: Share of the training images kept for validation.
        fraction: Share of the remaining training images that is used, class by class: the same ones
            for every seed.
        workers: Processes that read images, at most one per core; 0 reads in the training process.
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`.
        mixing: How training images are mixed.
        normalization: What the network expects; ImageNet's is that of most pretrained ones.
        seed: Seed of order and augmentation.

    Raises:
        ConfigError: A share is not between 0 and 1.
    """

    way_out: ClassVar[str] = (
        "Set data.init_args.folder to a folder with 'train' and 'val' of class folders."
    )

    def __init__(
        self,
        *,
        folder: str,
        image_size: int = 224,
        exif: bool = True,
        validation_share: float = 0.02,
        fraction: float = 1.0,
        workers: int = 8,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        global_batch: int | None = None,
        mixing: Mixing = Mixing(),  # noqa: B008  (frozen)
        normalization: Normalization = IMAGENET,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            mixing=mixing,
            seed=seed,
        )
        check_shares(validation_share=validation_share, fraction=fraction)
        check_image_size(image_size)
        self.folder = at_home(folder)
        self.image_size = image_size
        self.exif = exif
        self._normalization = normalization
        self.validation_share = validation_share
        self.fraction = fraction
        self.workers = min(workers, len(os.sched_getaffinity(0)))
        self._parts: dict[Split, FileSet] = {}
        self._evaluated: dict[tuple[Split, int, int, int], StreamLoader] = {}

    @property
    def parts(self) -> dict[Split, FileSet]:
        """The images of each part, listed when first asked for.

        Raises:
            DataError: A folder, a class or images are missing.
        """
        if not self._parts:
            test = next(
                (path for name in ("test", "val") if (path := self.folder / name).is_dir()),
                self.folder / "val",
            )
            for needed in (self.folder / "train", test):
                if not needed.is_dir():
                    raise DataError(
                        f"no {type(self).__name__} in '{self.folder}': there is no '{needed}'. "
                        f"{self.way_out}"
                    )
            check_classes(self.folder / "train", test)
            train = FileSet(self.folder / "train", *list_images(self.folder / "train"))
            validation, rest = share(train.labels, self.validation_share)
            used = rest[fraction_of(train.labels[rest], self.fraction)]
            self._parts = {
                "train": train.pick(used),
                "validation": train.pick(validation),
                "test": FileSet(test, *list_images(test)),
            }
        return self._parts

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.parts["test"].labels[-1]) + 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return 3, self.image_size, self.image_size

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of images in [0, 255], each [3, 1, 1]."""
        return self._normalization.for_bytes(3)

    @property
    def class_names(self) -> list[str]:
        """Names of the class folders."""
        return class_names(self.folder / "train")

    @property
    def contents(self) -> str:
        """Number of the images, and a digest of their names: see `ImageDataModule.contents`."""
        names = [part.names for part in self.parts.values()]
        digest = hashlib.sha256(b"".join(each.tobytes() for each in names)).hexdigest()
        return f"{sum(map(len, names))} of digest {digest[:8]}"

    @property
    def crop(self) -> float:
        """Share of a resized image that its middle has."""
        return CROP

    def count(self, split: Split) -> int:
        """Return the number of images of a part."""
        return len(self.parts[split].labels)

    def loader(self, split: Split, order: Order) -> StreamLoader:
        """Return batches of a part of the data.

        Those of evaluation are kept, and their workers with them.
        """
        size = self.image_size
        if order.train:
            window = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        else:
            window = [v2.Resize(round(size / CROP)), v2.CenterCrop(size)]
        loaders = {} if order.train else self._evaluated
        key = split, order.rank, order.ranks, order.sampled
        if key not in loaders:
            transform = v2.Compose([*window, v2.PILToTensor()])
            reader = _FileReader(
                self.parts[split],
                order,
                transform,
                exif=self.exif,
            )
            loaders[key] = StreamLoader(reader, self.workers)
        return loaders[key]

    def transform(self, batch: Batch, *, train: bool) -> Tensor:
        """Return the images as they are: the workers have augmented them."""
        return batch.images


class ImageNet(StreamedImageFolder):
    """ImageNet's 1,000 classes (ILSVRC 2012); the published validation images are the test set."""

    way_out = (
        "Ask for ILSVRC 2012 at image-net.org, unpack it so that train/CLASS/*.JPEG and "
        "val/CLASS/*.JPEG are there, "
        "and set data.init_args.folder."
    )
