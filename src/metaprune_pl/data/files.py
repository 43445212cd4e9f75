"""Class folders: which images there are, and shares of them that have all classes."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from metaprune_pl.errors import ConfigError, DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def check_shares(**shares: float) -> None:
    """Refuse shares of the images that are none.

    Raises:
        ConfigError: A share is not between 0 and 1; `fraction` may be 1.
    """
    for name, share in shares.items():
        if not (0 < share < 1 or (name == "fraction" and share == 1)):
            raise ConfigError(f"data.{name} is {share:g}; it lies between 0 and 1.")


def class_names(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, sorted.

    Raises:
        DataError: There are fewer than two.
    """
    if not folder.is_dir():
        raise DataError(
            f"no folder '{folder}'. An image folder has 'train' and 'test', or class folders alone."
        )
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(names) < 2:
        raise DataError(
            f"'{folder}' has {len(names)} class folders; at least two are needed: "
            f"{folder}/CLASS/*.jpg."
        )
    return names


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

    Args:
        folder: Where the class folders are.

    Returns:
        Paths within the folder as an array of bytes, which workers share without copying, [n]; and
        labels [n].

    Raises:
        DataError: A folder or images are missing.
    """
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(class_names(folder)):
        found = [
            os.path.join(os.path.relpath(place, folder), file)
            for place, _, inside in os.walk(folder / name, followlinks=True)
            for file in inside
            if file.lower().endswith(SUFFIXES)
        ]
        if not found:
            raise DataError(
                f"the class folder '{folder / name}' has no images. Add some or remove the folder."
            )
        files += map(os.fsencode, sorted(found))
        labels += [label] * len(found)
    return np.array(files), torch.tensor(labels)


def path_of(folder: Path, name: bytes) -> Path:
    """Return the path of an image that `list_images` found."""
    return folder / os.fsdecode(name)


def read_image(path: Path, mode: str = "RGB") -> Image.Image:
    """Decode an image.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with Image.open(path) as file:
            return file.convert(mode)
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"cannot read the image {path}: {error}. Replace or remove it.") from error


def share(labels: Tensor, size: float, *, seed: int = 0, least: int = 1) -> tuple[Tensor, Tensor]:
    """Split images class by class, always the same way for a seed.

    Args:
        labels: [n].
        size: Share of each class that is taken; at least one image is taken and one left, if there
            are two.
        seed: Seed of the choice.
        least: Number of images that every class must have.

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
            raise DataError(
                f"class number {label} has {len(members)} images; at least {least} are needed to "
                "split."
            )
        if len(members) > 1:
            chosen[members[: max(1, min(len(members) - 1, round(size * len(members))))]] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()


def fraction_of(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return the numbers of a class-balanced fraction of images, always the same for a seed."""
    return torch.arange(len(labels)) if fraction == 1 else share(labels, 1 - fraction, seed=seed)[1]
