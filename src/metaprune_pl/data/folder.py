"""A folder of class folders of images, decoded once into a uint8 cache."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from rich.markup import escape
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metaprune_pl.data.augmentation import Augmentation, Mixing
from metaprune_pl.data.files import (
    check_classes,
    check_image_size,
    check_shares,
    class_names,
    contents_of,
    list_images,
    path_of,
    read_image,
    share,
)
from metaprune_pl.data.images import Normalization, OfNetwork
from metaprune_pl.data.memory import ImageSet, MemoryImages, Splits
from metaprune_pl.errors import ConfigError, DataError, StorageError
from metaprune_pl.files import at_home, cache_folder, check_file, whole_file, write_tensors

SEEN = 20
"""Images that are looked at to know the size of all."""
USUAL_SIZE = 224


class ImageFolder(MemoryImages):
    """Images in one folder per class.

    With `FOLDER/train/CLASS/*.jpg` and `FOLDER/test/CLASS/*.jpg` the test set is `test`, and the
    validation set is a share of `train`; with `FOLDER/CLASS/*.jpg` both are shares of the whole.
    Shares are drawn class by class, always the same way. Images are decoded once into a cache file.
    Images that do not fit into memory: `StreamedImageFolder`.

    Args:
        folder: Where the images are.
        image_size: Pixels that both sides are resized to; `network` takes what the network was made
            for, and None takes them as they are, all of one size.
        grayscale: One channel instead of three.
        exif: Turn images as their cameras noted (EXIF orientation).
        validation_share: Share of the training images kept for validation.
        test_share: Share of all images kept for the test, where there is no `test` folder.
        fraction: Share of the remaining training images that is used, class by class: the same ones
            for every seed.
        cache: Folder for decoded images; None is the user's cache folder.
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`.
        augmentation: What is done to training images.
        mixing: How training images are mixed.
        normalization: What the network expects; `network` takes what it tells of itself, and None
            mean and deviation of the training images, before a fraction of them is drawn. A network
            that was trained elsewhere needs the normalisation that it was trained with.
        seed: Seed of order and augmentation.

    Raises:
        ConfigError: A share is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        folder: str,
        image_size: int | OfNetwork | None = None,
        grayscale: bool = False,
        exif: bool = True,
        validation_share: float = 0.1,
        test_share: float = 0.2,
        fraction: float = 1.0,
        cache: str | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        global_batch: int | None = None,
        augmentation: Augmentation = Augmentation(shift=4, flip=True),  # noqa: B008  (frozen)
        mixing: Mixing = Mixing(),  # noqa: B008  (frozen)
        normalization: Normalization | OfNetwork | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            augmentation=augmentation,
            mixing=mixing,
            normalization=None if normalization == "network" else normalization,
            fraction=fraction,
            seed=seed,
        )
        check_shares(validation_share=validation_share, test_share=test_share)
        check_image_size(image_size)
        self.folder = at_home(folder)
        self.image_size = image_size
        self._follows = normalization == "network"
        self.grayscale = grayscale
        self.exif = exif
        self.validation_share = validation_share
        self.test_share = test_share
        self.cache = at_home(cache) if cache else cache_folder()

    @property
    def num_classes(self) -> int:
        """K, which takes no image to know."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """C, which takes no image to know."""
        return 1 if self.grayscale else 3

    @property
    def follows_network(self) -> bool:
        """Whether the size or normalisation is still left to the network."""
        return self.image_size == "network" or self._follows

    def follow(
        self, size: int | None, normal: tuple[tuple[float, ...], tuple[float, ...]] | None
    ) -> None:
        """Take what is left to the network: see `ImageDataModule.follow`."""
        if self.image_size == "network":
            self.image_size = self._usual_size() if size is None else size
        if self._follows and normal is not None and len(normal[0]) == self.channels:
            self._given = Normalization(mean=normal[0], std=normal[1])
        self._follows = False
        self.batch_size = min(self.batch_size, self.count("train"))

    def _usual_size(self) -> int | None:
        """Return None where images are of one square size, as some of them tell, or else 224."""
        train = self.folder / "train"
        root = train if train.is_dir() else self.folder
        names, _ = list_images(root)
        some = names[:: max(1, len(names) // SEEN)]
        sizes = {read_image(path_of(root, name), exif=self.exif).size for name in some}
        width, height = next(iter(sizes))
        return None if len(sizes) == 1 and width == height else USUAL_SIZE

    @property
    def class_names(self) -> list[str]:
        """Names of the class folders."""
        train = self.folder / "train"
        return class_names(train if train.is_dir() else self.folder)

    @property
    def contents(self) -> str:
        """Number of the images, and a digest: see `ImageDataModule.contents`."""
        parts = [self.folder / name for name in ("train", "test")]
        return contents_of(parts if parts[0].is_dir() else [self.folder])

    def load(self) -> Splits:
        """Return the images, from the cache where it fits the folder as it is now.

        Raises:
            DataError: The folder, a class or images are missing, or an image is damaged.
        """
        if self.follows_network:
            raise ConfigError(
                "data.image_size and data.normalization are left to the network, which is not "
                "known here: give a number, and mean and std."
            )
        if not self.folder.is_dir():
            raise DataError(
                f"no folder '{self.folder}'. Set data.init_args.folder to a folder of class "
                "folders."
            )
        train = self.folder / "train"
        if not train.is_dir():
            _, labels = list_images(self.folder)
            test, rest = share(labels, self.test_share, least=3, names=self.class_names)
            images = self._read(self.folder)
            images, held = images.pick(rest), images.pick(test)
        else:
            images = self._read(train)
            held = self._read(self.folder / "test")
            check_classes(train, self.folder / "test")
            sizes = ["x".join(map(str, part.images.shape[2:])) for part in (images, held)]
            if sizes[0] != sizes[1]:
                raise DataError(
                    f"'{self.folder}': images in train are {sizes[0]}, and in test {sizes[1]}. "
                    "Set image_size."
                )
        validation, rest = share(
            images.labels, self.validation_share, least=2, names=self.class_names
        )
        return Splits(images.pick(rest), images.pick(validation), held)

    def _read(self, folder: Path) -> ImageSet:
        names, labels = list_images(folder)
        files = [path_of(folder, name) for name in names]
        path = self.cache / f"{folder.name[:40]}-{self._key(names, files)}.safetensors"
        images = _cached(path, len(files))
        if images is None:
            images = self._decode(files)
            try:
                with whole_file(path) as new:
                    write_tensors(new, {"images": images})
            except StorageError as error:
                rank_zero_info(f"Decoded images are not kept: {error}")
        return ImageSet(images, labels)

    def _key(self, names: np.ndarray, files: list[Path]) -> str:
        """Digest of what decoded images follow from."""
        digest = hashlib.sha256(repr((self.image_size, self.grayscale, self.exif)).encode())
        for name, file in zip(names, files, strict=True):
            try:
                facts = file.stat()
            except OSError as error:
                raise DataError(f"cannot read the image {file}: {error.strerror}.") from error
            digest.update(b"\n%s %d %d" % (name, facts.st_size, facts.st_mtime_ns))
        return digest.hexdigest()[:16]

    def _decode(self, files: list[Path]) -> Tensor:
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(self._decode_one, files)
            title = os.fsencode(files[0].parents[1]).decode(errors="replace")
            images = list(track(decoded, f"Decoding {escape(title)}", len(files)))
        for path, image in zip(files, images, strict=True):
            if image.shape != images[0].shape:
                sizes = " and ".join(
                    "x".join(map(str, shape[:2])) for shape in (images[0].shape, image.shape)
                )
                raise DataError(
                    f"images differ in size: {files[0]} and {path} ({sizes}). Set image_size."
                )
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _decode_one(self, path: Path) -> np.ndarray:
        image = read_image(path, "L" if self.grayscale else "RGB", exif=self.exif)
        if self.image_size is not None:
            assert isinstance(self.image_size, int)
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[:, :, None] if self.grayscale else pixels


def _cached(path: Path, count: int) -> Tensor | None:
    """So many decoded images from a cache file; None where it has none or others."""
    try:
        check_file(path)
        images = load_file(path)["images"]
    except (StorageError, OSError, SafetensorError, KeyError):
        return None
    fits = images.dtype == torch.uint8 and images.dim() == 4 and len(images) == count
    return images if fits else None
