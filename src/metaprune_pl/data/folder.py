"""A folder of class folders of images, decoded once into a uint8 cache."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from metaprune_pl.data.images import Augmentation, ImageDataModule, ImageSet, Splits
from metaprune_pl.errors import ConfigError, DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


class ImageFolder(ImageDataModule):
    """Images in one folder per class.

    With `FOLDER/train/CLASS/*.jpg` and `FOLDER/test/CLASS/*.jpg` the test set is `test`, and the validation set is a
    share of `train`; with `FOLDER/CLASS/*.jpg` both are shares of the whole. Shares are drawn class by class, always
    the same way. Images are decoded once into a cache file.

    Args:
        folder: Where the images are.
        image_size: Pixels that both sides are resized to; None takes them as they are, all of one size.
        grayscale: One channel instead of three.
        validation_share: Share of the training images kept for validation.
        test_share: Share of all images kept for the test, where there is no `test` folder.
        cache: Folder for decoded images; None is the user's cache folder.
        batch_size: Training images per batch and device.
        eval_batch_size: Images per batch and device in validation and test.
        augmentation: What is done to training images.
        seed: Seed of order and augmentation.

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
        cache: str | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        augmentation: Augmentation = Augmentation(shift=4, flip=True),  # noqa: B008  (frozen)
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, augmentation=augmentation, seed=seed)
        if not (0 < validation_share < 1 and 0 < test_share < 1):
            raise ConfigError("data: validation_share and test_share lie between 0 and 1.")
        self.folder, self.image_size, self.grayscale = Path(folder).expanduser(), image_size, grayscale
        self.validation_share, self.test_share = validation_share, test_share
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.cache = Path(cache).expanduser() if cache else Path(home) / "metaprune_pl"

    def prepare_data(self) -> None:
        """Decode the images on one process, before the others look for them."""
        _ = self.splits

    def load(self) -> Splits:
        """Return the images, from the cache where it fits the folder as it is now.

        Raises:
            DataError: The folder, a class or images are missing, or an image is damaged.
        """
        if not self.folder.is_dir():
            raise DataError(f"no folder '{self.folder}'. Set data.init_args.folder to a folder of class folders.")
        if not (self.folder / "train").is_dir():
            images, labels = self._read(self.folder)
            test, rest = _share(labels, self.test_share)
            held = ImageSet(images[test], labels[test])
            images, labels = images[rest], labels[rest]
        else:
            images, labels = self._read(self.folder / "train")
            held = self._read(self.folder / "test")
            if held.images.shape[1:] != images.shape[1:] or _classes(self.folder / "train") != _classes(
                self.folder / "test"
            ):
                raise DataError(f"'{self.folder}': train and test differ in their classes or image sizes.")
        validation, train = _share(labels, self.validation_share)
        return Splits(
            ImageSet(images[train], labels[train]), ImageSet(images[validation], labels[validation]), held
        )  # fmt: skip

    def _read(self, folder: Path) -> ImageSet:
        files, labels = _list_images(folder)
        facts = [f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
        key = hashlib.sha256("\n".join([str(self.image_size), str(self.grayscale), *facts]).encode()).hexdigest()[:16]
        path = self.cache / f"{folder.parent.name}-{folder.name}-{key}.safetensors"
        try:
            return ImageSet(load_file(path)["images"], labels)
        except (OSError, SafetensorError, KeyError):
            images = self._decode(files)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        save_file({"images": images}, new)
        os.replace(new, path)
        return ImageSet(images, labels)

    def _decode(self, files: Sequence[Path]) -> Tensor:
        with ThreadPoolExecutor() as pool:
            found = list(track(pool.map(self._decode_one, files), f"Decoding {files[0].parents[1]}", len(files)))
        for path, image in zip(files, found, strict=True):
            if image.shape != found[0].shape:
                sizes = " and ".join("x".join(map(str, shape[:2])) for shape in (found[0].shape, image.shape))
                raise DataError(f"images differ in size: {files[0]} and {path} ({sizes}). Set image_size.")
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()

    def _decode_one(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path) as file:
                image = file.convert("L" if self.grayscale else "RGB")
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise DataError(f"cannot read the image {path}: {error}. Replace or remove it.") from error
        if self.image_size is not None:
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[:, :, None] if self.grayscale else pixels


def _classes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list_images(folder: Path) -> tuple[list[Path], Tensor]:
    if not folder.is_dir():
        raise DataError(f"no folder '{folder}'. An image folder has 'train' and 'test', or class folders alone.")
    names = _classes(folder)
    if len(names) < 2:
        raise DataError(f"'{folder}' has {len(names)} class folders; at least two are needed: {folder}/CLASS/*.jpg.")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"the class folder '{folder / name}' has no images. Add some or remove the folder.")
        files += found
        labels += [label] * len(found)
    return files, torch.tensor(labels)


def _share(labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Split indices class by class: (a share of at least one image of each class, the rest)."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        if len(members) < 3:
            raise DataError(
                f"class number {int(label)} has {len(members)} images; at least 3 are needed to split them."
            )
        chosen[members[: max(1, round(share * len(members)))]] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
