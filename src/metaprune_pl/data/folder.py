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
from safetensors.torch import load_file, save_file
from torch import Tensor

from metaprune_pl.data.augmentation import Augmentation, Mixing
from metaprune_pl.data.files import (
    check_classes,
    check_shares,
    list_images,
    path_of,
    read_image,
    share,
)
from metaprune_pl.data.images import Normalization
from metaprune_pl.data.memory import ImageSet, MemoryImages, Splits
from metaprune_pl.errors import DataError, StorageError
from metaprune_pl.files import cache_folder, check_file, whole_file


class ImageFolder(MemoryImages):
    """Images in one folder per class.

    With `FOLDER/train/CLASS/*.jpg` and `FOLDER/test/CLASS/*.jpg` the test set is `test`, and the
    validation set is a share of `train`; with `FOLDER/CLASS/*.jpg` both are shares of the whole.
    Shares are drawn class by class, always the same way. Images are decoded once into a cache file.
    Images that do not fit into memory: `StreamedImageFolder`.

    Args:
        folder: Where the images are.
        image_size: Pixels that both sides are resized to; None takes them as they are, all of one
            size.
        grayscale: One channel instead of three.
        exif: Turn images as their cameras noted (EXIF orientation).
        validation_share: Share of the training images kept for validation.
        test_share: Share of all images kept for the test, where there is no `test` folder.
        fraction: Share of the remaining training images that is used, class by class.
        cache: Folder for decoded images; None is the user's cache folder.
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`.
        augmentation: What is done to training images.
        mixing: How training images are mixed.
        normalization: What the network expects; None takes mean and deviation of the training
            images, before a fraction of them is drawn. A network that was trained elsewhere needs
            the normalisation that it was trained with.
        seed: Seed of order, augmentation and `fraction`.

    Raises:
        ConfigError: A share is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        folder: str,
        image_size: int | None = None,
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
        normalization: Normalization | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            augmentation=augmentation,
            mixing=mixing,
            normalization=normalization,
            fraction=fraction,
            seed=seed,
        )
        check_shares(validation_share=validation_share, test_share=test_share)
        self.folder = Path(folder).expanduser()
        self.image_size = image_size
        self.grayscale = grayscale
        self.exif = exif
        self.validation_share = validation_share
        self.test_share = test_share
        self.cache = Path(cache).expanduser() if cache else cache_folder()

    def load(self) -> Splits:
        """Return the images, from the cache where it fits the folder as it is now.

        Raises:
            DataError: The folder, a class or images are missing, or an image is damaged.
        """
        if not self.folder.is_dir():
            raise DataError(
                f"no folder '{self.folder}'. Set data.init_args.folder to a folder of class "
                "folders."
            )
        train = self.folder / "train"
        if not train.is_dir():
            images = self._read(self.folder)
            test, rest = share(images.labels, self.test_share, least=3)
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
        validation, rest = share(images.labels, self.validation_share, least=2)
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
                    save_file({"images": images}, new)
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
