"""A folder of class folders of images, decoded once into a uint8 cache."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from metaprune_pl.data.augmentation import Augmentation, Mixing
from metaprune_pl.data.files import (
    check_classes,
    check_shares,
    fraction_of,
    list_images,
    path_of,
    read_image,
    share,
)
from metaprune_pl.data.images import Normalization
from metaprune_pl.data.memory import ImageSet, MemoryImages, Splits
from metaprune_pl.errors import DataError
from metaprune_pl.files import whole_file


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
            images. A network that was trained elsewhere wants what it was trained with.
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
            seed=seed,
        )
        check_shares(validation_share=validation_share, test_share=test_share, fraction=fraction)
        self.folder, self.image_size, self.grayscale = (
            Path(folder).expanduser(),
            image_size,
            grayscale,
        )
        self.validation_share, self.test_share, self.fraction = (
            validation_share,
            test_share,
            fraction,
        )
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.cache = Path(cache).expanduser() if cache else Path(home) / "metaprune_pl"

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
            images, held = self._read(train), self._read(self.folder / "test")
            check_classes(train, self.folder / "test")
            sizes = ["x".join(map(str, part.images.shape[2:])) for part in (images, held)]
            if sizes[0] != sizes[1]:
                raise DataError(
                    f"'{self.folder}': images in train are {sizes[0]}, and in test {sizes[1]}. "
                    "Set image_size."
                )
        validation, rest = share(images.labels, self.validation_share, least=2)
        used = rest[fraction_of(images.labels[rest], self.fraction, self.seed)]
        return Splits(images.pick(used), images.pick(validation), held)

    def _read(self, folder: Path) -> ImageSet:
        names, labels = list_images(folder)
        stats = [os.stat(os.path.join(os.fsencode(folder), name)) for name in names]
        facts = [
            f"{os.fsdecode(n)} {s.st_size} {s.st_mtime_ns}"
            for n, s in zip(names, stats, strict=True)
        ]
        key = hashlib.sha256(
            "\n".join([str(self.image_size), str(self.grayscale), *facts]).encode()
        ).hexdigest()[:16]
        path = self.cache / f"{folder.parent.name}-{folder.name}-{key}.safetensors"
        try:
            return ImageSet(load_file(path)["images"], labels)
        except (OSError, SafetensorError, KeyError):
            images = self._decode([path_of(folder, name) for name in names])
        with whole_file(path) as new:
            save_file({"images": images}, new)
        return ImageSet(images, labels)

    def _decode(self, files: list[Path]) -> Tensor:
        with ThreadPoolExecutor() as pool:
            found = list(
                track(
                    pool.map(self._decode_one, files), f"Decoding {files[0].parents[1]}", len(files)
                )
            )
        for path, image in zip(files, found, strict=True):
            if image.shape != found[0].shape:
                sizes = " and ".join(
                    "x".join(map(str, shape[:2])) for shape in (found[0].shape, image.shape)
                )
                raise DataError(
                    f"images differ in size: {files[0]} and {path} ({sizes}). Set image_size."
                )
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()

    def _decode_one(self, path: Path) -> np.ndarray:
        image = read_image(path, "L" if self.grayscale else "RGB")
        if self.image_size is not None:
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[:, :, None] if self.grayscale else pixels
