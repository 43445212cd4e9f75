"""What a network takes as input, as flags, configs and network.json write it."""

import math
import re
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import ConfigError
from metaprune_pl.networks.examples import Example

Shape = tuple[int, ...] | str
"""Shape of one input without the batch, (C, H, W) of an image or (C, L) of a series; or a text of
one or several inputs: see `example_of`."""
KINDS: dict[str, tuple[torch.dtype, int]] = {
    "": (torch.float32, 0),
    "ids": (torch.int64, 0),
    "mask": (torch.int64, 1),
    "flags": (torch.bool, 0),
}
"""Kind of an input to the type and value of its elements."""
_PLAIN = re.compile(r"[\[(]?\s*(\d{1,6}(?:\s*[,x]\s*\d{1,6})*)\s*[\])]?")
_WORD = re.compile(r"(?:([A-Za-z_]\w*)=)?((?:\d{1,6}(?:,\d{1,6})*)?)(?::(\w+))?")
_HELP = (
    "give channels, height and width, as in 3,224,224; or a word for each input, "
    "[NAME=]SIZES[:ids|:mask|:flags], as in 'input_ids=128:ids attention_mask=128:mask'"
)


def read_shape(text: str) -> Shape:
    """Return the shape that a text is of: plain sizes, or the text itself where it says more.

    Raises:
        ConfigError: It is no such text.
    """
    plain = _PLAIN.fullmatch(text.strip())
    sizes = tuple(map(int, re.split("[,x]", plain[1]))) if plain else ()
    if sizes and min(sizes) > 0:
        return sizes
    _words(text)
    return " ".join(text.split())


def example_of(shape: Shape, device: torch.device | str | None = None) -> Example:
    """Return an input as a batch of one.

    Each word of a text is an input: `NAME=` where it is given by name, its sizes without the batch,
    and `:ids` (whole numbers, all 0), `:mask` (whole numbers, all 1) or `:flags` (all false) where
    it holds no real numbers. A number alone for each of a batch has no sizes: `timestep=:ids`.

    Args:
        shape: Sizes of one tensor of real numbers, or a text.
        device: Where it is to be.

    Raises:
        ConfigError: The text says something else.
    """
    words = _words(shape) if isinstance(shape, str) else [("", shape, "")]
    tensors = [_tensor(sizes, kind, device) for _, sizes, kind in words]
    names = [name for name, _, _ in words]
    if all(names):
        return dict(zip(names, tensors, strict=True))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def numbers_in(shape: Shape) -> int:
    """Count the numbers of one input."""
    words = _words(shape) if isinstance(shape, str) else [("", shape, "")]
    return sum(math.prod(sizes) for _, sizes, _ in words)


def shape_as_text(shape: Shape) -> str:
    """Write a shape for people."""
    return shape if isinstance(shape, str) else "x".join(map(str, shape))


def _tensor(sizes: tuple[int, ...], kind: str, device: Any) -> Tensor:
    dtype, value = KINDS[kind]
    return torch.full((1, *sizes), value, dtype=dtype, device=device)


def _words(text: str) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, sizes and kind of each input."""
    words = []
    for word in text.split():
        match = _WORD.fullmatch(word)
        kind = (match and match[3]) or ""
        sizes = tuple(int(part) for part in match[2].split(",") if part) if match else ()
        if match is None or kind not in KINDS or 0 in sizes or not (sizes or kind):
            raise ConfigError(f"input_shape '{text}': {_HELP}.")
        words.append((match[1] or "", sizes, kind))
    names = [name for name, _, _ in words if name]
    if not words or (names and len(set(names)) < len(words)):
        raise ConfigError(f"input_shape '{text}': {_HELP}. Each input has a name, or none has.")
    return words
