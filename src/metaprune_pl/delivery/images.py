"""Images of a person's own, as a delivered network reads them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metaprune_pl.data.files import SUFFIXES, read_image
from metaprune_pl.delivery.base import Facts
from metaprune_pl.errors import ConfigError, DataError


def read_images(source: Path, facts: Facts, count: int) -> Tensor:
    """Return images of a folder, evenly spread over it, or that of one file.

    Args:
        source: The folder, at any depth of which there are images, or the file.
        facts: What is done to an image before.
        count: Number of images at most.

    Returns:
        Images [B, C, H, W], normalised.

    Raises:
        ConfigError: Nobody has told what is to be done to an image.
        DataError: There are none, or one cannot be read.
    """
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = [path for path in paths if path.is_file()]  # a pipe never ends
    if not paths:
        raise DataError(f"no images in '{source}'.")
    step = max(1, len(paths) // count)
    return torch.stack([read_one(path, facts) for path in paths[::step][:count]])


def read_one(path: Path, facts: Facts) -> Tensor:
    """Return an image as a network reads it, [C, H, W].

    Raises:
        ConfigError: Nobody has told what is to be done to an image.
        DataError: It cannot be read.
    """
    told = facts.preprocessing
    if told is None:
        raise ConfigError(
            "the network does not tell its preprocessing (an older version stored it). Train or "
            "prune it again, or leave --images out."
        )
    channels, height, width = facts.input_shape
    image = read_image(path, "L" if channels == 1 else "RGB")
    if told.crop is not None:
        image = middle(image, (round(width / told.crop), round(height / told.crop)))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    else:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
    normal = (pixels - np.array(told.mean, np.float32)) / np.array(told.std, np.float32)
    return torch.from_numpy(normal.transpose(2, 0, 1).copy())


def middle(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an image, proportions kept, so that it just covers a size (width, height)."""
    scale = max(size[0] / image.width, size[1] / image.height)
    sides = (round(image.width * scale), round(image.height * scale))
    return image.resize(sides, Image.Resampling.BILINEAR)
