"""Class folders: which images there are, and shares of them that have all classes."""

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from metaprune_pl.errors import ConfigError, DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    ZeroDivisionError,
    struct.error,
    Image.DecompressionBombError,
)
"""What the readers of damaged files raise."""
LARGEST_SIDE = 8192
"""Pixels of a side at most."""
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


def check_shares(**shares: float) -> None:
    """Refuse shares of the images that are none.

    Raises:
        ConfigError: A share is not between 0 and 1; `fraction` may be 1.
    """
    for name, share in shares.items():
        if not (0 < share < 1 or (name == "fraction" and share == 1)):
            raise ConfigError(f"data.{name} is {share:g}; it lies between 0 and 1.")


def check_image_size(size: object) -> None:
    """Refuse a number of pixels that no image has.

    Raises:
        ConfigError: It is not from 1 to `LARGEST_SIDE`.
    """
    if isinstance(size, int) and not 1 <= size <= LARGEST_SIDE:
        raise ConfigError(f"data.image_size is {size}: give 1 to {LARGEST_SIDE} pixels.")


def class_names(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, sorted.

    Raises:
        DataError: There are fewer than two.
    """
    if not folder.is_dir():
        raise DataError(
            f"no folder '{folder}'. An image folder has 'train' and 'test', or class folders alone."
        )
    names = sorted(entry.name for entry in _entries(folder) if _leads_to(entry.is_dir))
    if len(names) < 2:
        raise DataError(
            f"'{folder}' has {len(names)} class folders; at least two are needed: "
            f"{folder}/CLASS/*.jpg."
        )
    return names


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, without what editors and systems hide there (`.ipynb_checkpoints`)."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"cannot read the folder '{folder}': {error.strerror}.") from error
    return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]


def _leads_to(kind: Callable[[], bool]) -> bool:
    """Whether an entry is a file, or a folder; a link to itself is neither."""
    try:
        return kind()
    except OSError:
        return False


def check_classes(train: Path, test: Path) -> None:
    """Refuse two folders of class folders that are not alike.

    Raises:
        DataError: A class is in one of them alone, or one has fewer than two.
    """
    sides = ((train, test), (test, train))
    alone = [(one, sorted({*class_names(one)} - {*class_names(other)})) for one, other in sides]
    said = [
        f"{', '.join(names[:3])}{', ...' if names[3:] else ''} only in '{one}'"
        for one, names in alone
        if names
    ]
    if said:
        raise DataError(
            f"train and {test.name} differ in their classes: {'; '.join(said)}. Make them alike."
        )


def list_images(folder: Path) -> tuple[np.ndarray, Tensor]:
    """Find the images of class folders, sorted.

    Folders that links lead to are entered once: no image is counted twice, and loops end.

    Args:
        folder: Where the class folders are.

    Returns:
        Paths within the folder as an array of bytes, which workers share without copying, [n]; and
        labels [n].

    Raises:
        DataError: A folder or images are missing, or an image is no file.
    """
    files: list[bytes] = []
    labels: list[int] = []
    names = class_names(folder)
    root = folder.resolve()
    entered = {_identity(path) for path in (root, *root.parents)}
    entered |= {_identity(folder / name) for name in names}
    for label, name in enumerate(names):
        paths = sorted(_images_below(folder / name, name, entered))
        if not paths:
            raise DataError(
                f"the class folder '{folder / name}' has no images. Add some or remove the folder."
            )
        files += map(os.fsencode, paths)
        labels += [label] * len(paths)
    return np.array(files), torch.tensor(labels)


def _images_below(folder: Path, name: str, entered: set[tuple[int, int]]) -> Iterator[str]:
    """Give the images below a folder, as paths that begin with its name."""
    for entry in _entries(folder):
        path = f"{name}/{entry.name}"
        if _leads_to(entry.is_dir):
            identity = _identity(entry.path)
            if identity not in entered:
                entered.add(identity)
                yield from _images_below(folder / entry.name, path, entered)
        elif entry.name.lower().endswith(SUFFIXES):
            if not _leads_to(entry.is_file):
                raise DataError(
                    f"the image {entry.path} is no file, or a link that leads to none. Remove it."
                )
            yield path


def _identity(path: str | Path) -> tuple[int, int]:
    entry = os.stat(path)
    return entry.st_dev, entry.st_ino


def contents_of(folders: Iterable[Path]) -> str:
    """Return the number of images in class folders, with a digest of their names and sizes.

    Raises:
        DataError: As of `list_images`.
    """
    digest, count = hashlib.sha256(), 0
    for folder in folders:
        names, _ = list_images(folder)
        for name in names:
            digest.update(b"%s %d\n" % (name, path_of(folder, name).stat().st_size))
        count += len(names)
    return f"{count} of digest {digest.hexdigest()[:8]}"


def path_of(folder: Path, name: bytes) -> Path:
    """Return the path of an image that `list_images` found."""
    return folder / os.fsdecode(name)


def read_image(path: Path, mode: str = "RGB", *, exif: bool = True) -> Image.Image:
    """Decode an image.

    Args:
        path: File of the image.
        mode: What it is converted to: `RGB`, or `L` for grey.
        exif: Turn it as its camera noted (EXIF orientation).

    Raises:
        DataError: It cannot be read.
    """
    try:
        with Image.open(path) as file:
            turn = _TURNS.get(file.getexif().get(_ORIENTATION, 1)) if exif else None
            image = _eight_bits(file).convert(mode)
            return image if turn is None else image.transpose(turn)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"cannot read the image {path}: {reason}. Replace or remove it.") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey images of more bits by the range of their type, which Pillow would cut off.

    Raises:
        ValueError: The type has no range that images keep to.
    """
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;16"):
        return image
    pixels = np.asarray(image)
    white = 1.0 if image.mode == "F" else 65535.0
    if not (pixels.min() >= 0 and pixels.max() <= white):
        raise ValueError(f"grey goes from 0 to {white:g}, and this one's does not")
    _tell_scaled(white)
    return Image.fromarray(np.rint(pixels * (255 / white)).astype(np.uint8))


@cache
def _tell_scaled(white: float) -> None:
    worker = get_worker_info()
    if worker is None or worker.id == 0:
        rank_zero_info(f"Grey images of 0 to {white:g} are scaled to 0 to 255.")


def share(
    labels: Tensor, size: float, *, seed: int = 0, least: int = 1, names: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Split images class by class, always the same way for a seed.

    Args:
        labels: [n].
        size: Share of each class that is taken; at least one image is taken and one left, if there
            are two.
        seed: Seed of the choice.
        least: Number of images that every class must have.
        names: Those of the classes, for errors.

    Returns:
        Numbers of the share's images and of the others, increasing.

    Raises:
        DataError: A class has too few images.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]  # class after class
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, members in enumerate(order.split(torch.bincount(labels).tolist())):
        if 0 < len(members) < least:
            name = f"'{names[label]}'" if names else f"number {label}"
            raise DataError(
                f"class {name} is too small to split: at least {least} images are needed, and it "
                f"has {len(members)}."
            )
        if len(members) > 1:
            chosen[members[: max(1, min(len(members) - 1, round(size * len(members))))]] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()


def fraction_of(labels: Tensor, fraction: float) -> Tensor:
    """Return the numbers of a class-balanced fraction of images, always the same."""
    return torch.arange(len(labels)) if fraction == 1 else share(labels, 1 - fraction)[1]
