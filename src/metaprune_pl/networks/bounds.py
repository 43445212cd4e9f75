"""How much memory building and loading may take, known before it is taken."""

import math
import os
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metaprune_pl.errors import StorageError

_BYTES = 4


def memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Bounded(TorchDispatchMode):
    """Stops what builds a network beyond a size, before its memory is taken.

    Args:
        name: What says how large it is, for errors.
        largest: Bytes of all that is made.
        operations: Number of operations.

    Raises:
        StorageError: It would become larger, or take more operations.
    """

    def __init__(self, name: str, *, largest: float, operations: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = name
        self._left = largest
        self._operations = operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operation, and run it if it is within bounds."""
        self._operations -= 1
        needed = _BYTES * _largest(args)
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(args)):
            self._left -= needed
        if self._operations < 0 or needed > self._left or self._left < 0:
            raise StorageError(
                f"{self._name} describes a network that is far larger than its weights. Make the "
                "network again."
            )
        return func(*args, **(kwargs or {}))


def _largest(args: tuple[Any, ...]) -> float:
    """Return how many numbers an operation makes at most: of a shape, a range, or broadcast."""
    sizes: list[float] = [0]
    for part in args:
        is_list = isinstance(part, list | tuple | torch.Size)
        if is_list and all(type(size) is int for size in part):
            sizes.append(math.prod(map(abs, part)))
    shapes = [part.shape for part in args if isinstance(part, Tensor)]
    if not shapes:
        sizes += [abs(part) for part in args if isinstance(part, int | float)]
    try:
        sizes.append(math.prod(torch.broadcast_shapes(*shapes)))
    except RuntimeError:
        pass
    return float(max(sizes))
