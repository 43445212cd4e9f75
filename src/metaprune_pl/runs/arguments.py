"""A call's arguments as plain values, as a config would have them."""

import functools
import hashlib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError

_LIGHTNINGS = {"trainer", *vars(LightningModule()), *vars(LightningDataModule())}
"""Attributes that are not settings."""
_DEEPEST = 20

_private: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Private attributes of modules as they were first seen: later ones may hold what was loaded."""


def plain(value: Any, depth: int = 0) -> Any:
    """Return an argument as plain values, which are equal for equal arguments.

    An object is its class with its attributes, and the numbers of a tensor are a digest.

    Args:
        value: The argument.
        depth: Objects that it lies in.

    Raises:
        ConfigError: It holds itself, or nests too deep.
    """
    if depth > _DEEPEST:
        raise ConfigError(f"an argument nests too deep, with {type(value).__name__} in it.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, depth + 1) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(part, depth + 1) for part in value), key=str)
    if isinstance(value, Tensor):
        return _digest(value)
    if isinstance(value, functools.partial):
        return plain([value.func, value.args, value.keywords], depth + 1)
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Path | Enum) or not hasattr(value, "__dict__"):
        return str(value)
    return _object(value, depth)


def _object(value: Any, depth: int) -> dict[str, Any]:
    own = {name: part for name, part in vars(value).items() if name not in _LIGHTNINGS}
    public = {name: part for name, part in own.items() if not name.startswith("_")}
    private = plain({name: own[name] for name in own.keys() - public.keys()}, depth + 1)
    if isinstance(value, LightningModule | LightningDataModule):
        private = _private.setdefault(value, private)
    if isinstance(value, nn.Module):
        public["state"] = value.state_dict()
    kind = type(value)
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": {**plain(public, depth + 1), **private},
    }


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(content.numpy().data).hexdigest()
    return f"{tensor.dtype} {list(tensor.shape)} {digest[:20]}"
