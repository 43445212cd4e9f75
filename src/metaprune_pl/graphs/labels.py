"""Which neuron each element of a tensor belongs to.

Labels have as many dimensions as their tensor; dimensions along which they do not vary have length 1, so the labels
of a feature map are [1, C, 1, 1]. Operations that only move data are run on the labels themselves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NOBODY = -1
"""Label of elements that are constant, such as zero padding."""


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter or buffer met on the walk, perhaps moved.

    Attributes:
        name: Its name.
        shape: Its own shape.
        moved: Which of its elements each element of the tensor is; None where nothing was moved.
    """

    name: str
    shape: tuple[int, ...]
    moved: Tensor | None = None

    @property
    def elements(self) -> Tensor:
        """Which of the parameter's elements each element of the tensor is."""
        return torch.arange(math.prod(self.shape)).reshape(self.shape) if self.moved is None else self.moved


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor met on the walk.

    Attributes:
        labels: Node number of each element, broadcastable to the tensor.
        owner: Name of the neuron group whose fresh output this is: all its neurons in order, with no other reader.
    """

    labels: Tensor
    owner: str | None = None


def shrink(labels: Tensor) -> Tensor:
    """Reduce every dimension along which the labels do not vary to length 1."""
    for dim in range(labels.dim()):
        first = labels.narrow(dim, 0, 1)
        if labels.shape[dim] > 1 and bool((labels == first).all()):
            labels = first
    return labels.contiguous()


def moved(activation: Activation, shape: torch.Size, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Run an operation that only moves data on the labels of a tensor of the given shape."""
    return shrink(move(activation.labels.expand(shape)))


def channels(labels: Tensor, dim: int, shape: torch.Size) -> Tensor | None:
    """Return the labels along one dimension of a tensor of the given shape, [C], or None where they vary elsewhere."""
    dim %= labels.dim()
    return labels.flatten().expand(shape[dim]) if labels.numel() == labels.shape[dim] else None
