"""CIFAR-10, CIFAR-100 and SVHN: 32x32 pixels, from the files that their authors publish."""

import pickle
import urllib.error
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive, download_url

from metaprune_pl.data.augmentation import Augmentation, Mixing, cut
from metaprune_pl.data.files import UNREADABLE, check_image_size, check_shares, share
from metaprune_pl.data.images import Normalization
from metaprune_pl.data.loader import Batch
from metaprune_pl.data.memory import ImageSet, MemoryImages, Splits
from metaprune_pl.errors import DataError
from metaprune_pl.files import at_home

_MARGIN = 8 / 7
"""Enlarged images are this much larger than what is cut out of them: 256 for 224."""


class PublicImages(MemoryImages):
    """Base of the public data sets of small images: how they are found, downloaded and split.

    Args:
        root: Folder where the data set's files are, or shall be.
        download: Fetch them where they are missing.
        image_size: Pixels of both sides of the windows that are cut out of enlarged images on the
            device, at random in training and from the middle otherwise; None leaves images as they
            are.
        grayscale: One channel instead of three.
        validation_share: Share of the training images kept for validation.
        fraction: Share of the remaining training images that is used, class by class: the same ones
            for every seed.
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`.
        augmentation: What is done to training images; None is what the paper does.
        mixing: How training images are mixed.
        normalization: What the network expects; None takes mean and deviation of the training
            images, before a fraction of them is drawn.
        seed: Seed of order and augmentation.

    Raises:
        ConfigError: A share is not between 0 and 1.
    """

    classes: ClassVar[int] = 10
    augmented: ClassVar[Augmentation] = Augmentation(shift=4, flip=True)

    def __init__(
        self,
        *,
        root: str = "datasets",
        download: bool = False,
        image_size: int | None = None,
        grayscale: bool = False,
        validation_share: float = 0.1,
        fraction: float = 1.0,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        global_batch: int | None = None,
        augmentation: Augmentation | None = None,
        mixing: Mixing = Mixing(),  # noqa: B008  (frozen)
        normalization: Normalization | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            augmentation=augmentation or self.augmented,
            mixing=mixing,
            normalization=normalization,
            fraction=fraction,
            seed=seed,
        )
        check_shares(validation_share=validation_share)
        check_image_size(image_size)
        self.root = at_home(root)
        self.download = download
        self.image_size = image_size
        self.grayscale = grayscale
        self.validation_share = validation_share

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """The files that hold the images."""

    @abstractmethod
    def fetch(self) -> None:
        """Download the files."""

    @abstractmethod
    def read(self, *, train: bool) -> ImageSet:
        """Read the files of one part."""

    @property
    def num_classes(self) -> int:
        """K."""
        return self.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = super().input_shape
        return channels, self.image_size or height, self.image_size or width

    def load(self) -> Splits:
        """Return the images, fetched before where that is wanted.

        Raises:
            DataError: Files are missing, cannot be downloaded or cannot be read.
        """
        name = type(self).__name__
        if self.download and not all(path.is_file() for path in self.files):
            try:
                self.fetch()
            except (OSError, RuntimeError, urllib.error.URLError) as error:
                raise DataError(
                    f"cannot download {name} to '{self.root}': {error}. Put its files there."
                ) from error
        for path in self.files:
            if not path.is_file():
                raise DataError(
                    f"no {name} in '{self.root}': there is no {path.relative_to(self.root)}. Set "
                    "data.init_args.download to true to fetch it, or data.init_args.root to the "
                    "folder that has it."
                )
        train, test = (self.read(train=train) for train in (True, False))
        if self.grayscale:
            train, test = (part._replace(images=grey(part.images)) for part in (train, test))
        validation, rest = share(train.labels, self.validation_share)
        return Splits(train.pick(rest), train.pick(validation), test)

    def transform(self, batch: Batch, *, train: bool) -> Tensor:
        """Augment images [B, C, H, W] in training, and enlarge them where asked."""
        images = super().transform(batch, train=train)
        if self.image_size is None:
            return images
        enlarged = F.interpolate(images.float(), round(self.image_size * _MARGIN), mode="bilinear")
        draws = batch.draws if train else torch.full_like(batch.draws, 0.5)
        return cut(
            enlarged,
            (self.image_size, self.image_size),
            draws,
            flip=False,
        )


def grey(images: Tensor) -> Tensor:
    """Turn colours into grey, as Pillow does (ITU-R 601): uint8 [n, 3, H, W] -> [n, 1, H, W]."""
    weights = (19595, 38470, 7471)  # of 65536
    total = torch.full_like(images[:, :1], 32768, dtype=torch.int32)
    for channel, weight in enumerate(weights):
        total += images[:, channel : channel + 1].int() * weight
    return (total >> 16).to(torch.uint8)


class CIFAR10(PublicImages):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test images.

    They are in `ROOT/cifar-10-batches-py`.
    """

    source: ClassVar[Any] = datasets.CIFAR10

    def _files(self, *, train: bool) -> list[Path]:
        names = self.source.train_list if train else self.source.test_list
        return [self.root / self.source.base_folder / name for name, _ in names]

    @property
    def files(self) -> list[Path]:
        """The files that hold the images."""
        return self._files(train=True) + self._files(train=False)

    def fetch(self) -> None:
        """Download the archive and unpack it."""
        source = self.source
        download_and_extract_archive(
            source.url, self.root, filename=source.filename, md5=source.tgz_md5
        )

    def read(self, *, train: bool) -> ImageSet:
        """Read the files of one part."""
        parts = [_read_batch(path) for path in self._files(train=train)]
        return ImageSet(
            torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
        )


class CIFAR100(CIFAR10):
    """CIFAR-100 (Krizhevsky, 2009): 50,000 training and 10,000 test images.

    They are in `ROOT/cifar-100-python`.
    """

    classes = 100
    source = datasets.CIFAR100


class SVHN(PublicImages):
    """Street View House Numbers (Netzer et al., 2011).

    `ROOT/train_32x32.mat` and `ROOT/test_32x32.mat`.

    73,257 training images, without the extra ones, and 26,032 test images. Digits are not mirrored.
    """

    augmented = Augmentation(shift=4)

    def _file(self, *, train: bool) -> tuple[str, Path, str]:
        url, name, md5 = datasets.SVHN.split_list["train" if train else "test"]
        return url, self.root / name, md5

    @property
    def files(self) -> list[Path]:
        """The files that hold the images."""
        return [self._file(train=train)[1] for train in (True, False)]

    def fetch(self) -> None:
        """Download the files."""
        for train in (True, False):
            url, path, md5 = self._file(train=train)
            download_url(url, self.root, path.name, md5)

    def read(self, *, train: bool) -> ImageSet:
        """Read the file of one part; the digit 0 is stored as 10."""
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        path = self._file(train=train)[1]
        try:
            content = loadmat(path)
            images = content["X"].transpose(3, 2, 0, 1)
            labels = content["y"].flatten() % 10
        except (MatReadError, zlib.error, *UNREADABLE) as error:
            raise _damaged(path, error) from error
        return ImageSet(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays, and calls nothing else that a file names."""

    allowed: ClassVar = {"_reconstruct", "_frombuffer", "ndarray", "dtype", "encode"}

    def find_class(self, module: str, name: str) -> Any:
        """Return what is needed for arrays.

        Raises:
            pickle.UnpicklingError: The file asks for anything else.
        """
        if module.split(".")[0] not in {"numpy", "_codecs"} or name not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _read_batch(path: Path) -> ImageSet:
    """Read one of CIFAR's files, a pickled dictionary of arrays and lists."""
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
        images = np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(
            content["labels"] if "labels" in content else content["fine_labels"], np.int64
        )
    except (pickle.UnpicklingError, *UNREADABLE) as error:
        raise _damaged(path, error) from error
    return ImageSet(torch.from_numpy(images.copy()), torch.from_numpy(labels))


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"cannot read {path}: {error}. Remove it and fetch it again with data.init_args.download."
    )
