"""Which neuron each element of a tensor belongs to.

Labels have as many dimensions as their tensor; dimensions along which they do not vary have length
1, so the labels of a feature map are [1, C, 1, 1]. Operations that only move data are run on the
labels themselves.
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
    """A parameter or buffer met on the walk, perhaps moved, or computed from element by element.

    Attributes:
        name: Its name.
        shape: Its own shape.
        moved: Which of its elements each element of the tensor is; None where nothing was moved.
        companions: Smaller parameters that took part in its computation (a gain), broadcastable to
            the tensor.
        normalized: Statistics of it took part in its computation (weight standardisation).
        norm: The batch norm that did it, and which of its elements each of that norm's operand is.
        constant: It is a buffer, which no training changes.
        gain: Name of the companion that is the length of each of its rows (weight normalisation).
        node: The operation that gives the tensor.
    """

    name: str
    shape: tuple[int, ...]
    moved: Tensor | None = None
    companions: tuple["Parameter", ...] = ()
    normalized: bool = False
    norm: tuple[torch.fx.Node, Tensor] | None = None
    constant: bool = False
    gain: str = ""
    node: torch.fx.Node | None = None

    @property
    def elements(self) -> Tensor:
        """Which of the parameter's elements each element of the tensor is."""
        return (
            torch.arange(math.prod(self.shape)).reshape(self.shape)
            if self.moved is None
            else self.moved
        )

    @property
    def in_order(self) -> bool:
        """Whether the tensor holds each element once, in the parameter's order."""
        flat = self.elements.flatten()
        return self.moved is None or torch.equal(flat, torch.arange(math.prod(self.shape)))


@dataclass(frozen=True, eq=False)
class Joined:
    """Parameters and constants side by side, such as the biases of queries, keys and values.

    Attributes:
        parts: Each with its number of elements; None is a constant.
    """

    parts: tuple[tuple[Parameter | None, int], ...]


@dataclass(frozen=True, eq=False)
class Statistic:
    """A mean, variance or length of a parameter."""


@dataclass(frozen=True, eq=False)
class Unfollowed:
    """One or several tensors whose elements are not known: all neurons that they depend on stay."""


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor met on the walk.

    Attributes:
        labels: Node number of each element, broadcastable to the tensor.
        owner: Name of the neuron group whose fresh output this is: all its neurons in order, with
            no other reader.
        partners: Further labels, where an element belongs to several neurons (a product of channels
            with channels).
    """

    labels: Tensor
    owner: str | None = None
    partners: tuple[Tensor, ...] = ()

    @property
    def all_labels(self) -> tuple[Tensor, ...]:
        """Labels and partners."""
        return (self.labels, *self.partners)


def nobody(rank: int) -> Activation:
    """A tensor of so many dimensions that depends on the image and belongs to no neuron."""
    return Activation(torch.full([1] * rank, NOBODY))


def is_nobody(labels: Tensor) -> bool:
    """Whether no element belongs to a neuron."""
    return bool((labels == NOBODY).all())


def varying(labels: Tensor) -> set[int]:
    """Return the dimensions along which the neuron changes."""
    return {dim for dim, size in enumerate(labels.shape) if size > 1}


def shrink(labels: Tensor) -> Tensor:
    """Reduce every dimension along which the labels do not vary to length 1."""
    if not labels.numel():
        return labels
    for dim in range(labels.dim()):
        first = labels.narrow(dim, 0, 1)
        if labels.shape[dim] > 1 and bool((labels == first).all()):
            labels = first
    return labels.contiguous()


def moved(activation: Activation, shape: torch.Size, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Run an operation that only moves data on the labels of a tensor of the given shape."""
    return shrink(move(activation.labels.expand(shape)))


def channels(labels: Tensor, dim: int, shape: torch.Size) -> Tensor | None:
    """Return the labels along one dimension of a tensor, [C], or None where they vary elsewhere."""
    dim %= labels.dim()
    return labels.flatten().expand(shape[dim]) if labels.numel() == labels.shape[dim] else None
