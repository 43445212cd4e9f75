"""Inputs and outputs of any structure: tensors, ids, masks, dictionaries, dataclasses."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""One input as a batch: a tensor, a tuple of positional arguments, or keyword arguments by name."""


def arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return an example as positional and keyword arguments."""
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example), {}


def call(network: nn.Module, example: Example) -> Any:
    """Run a network on an example."""
    positional, by_name = arguments(example)
    return network(*positional, **by_name)


def convert(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: convert(part, function) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [convert(part, function) for part in value]
        return type(value)(parts)
    return value


def to_device(example: Example, device: torch.device) -> Example:
    """Return an example on a device."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    moved: Example = convert(example, move)
    return moved


def single(example: Example) -> Example:
    """Return the first input of a batch, as a batch of one.

    How large the batch is, the first tensor tells. Of a batch of one everything stays, tensors
    without a batch too, such as a table of positions.

    Raises:
        ConfigError: Another tensor is of another batch.
    """
    sizes = [len(tensor) for _, tensor in tensors_of(example) if tensor.dim()]
    if not sizes or sizes[0] == 1:
        return example
    if not set(sizes) <= {sizes[0], 1} or not sizes[0]:
        raise ConfigError(
            f"example: the first dimensions of its tensors are {', '.join(map(str, sizes))}, not "
            "of one batch. Give one input, as a batch of one."
        )

    def first(tensor: Tensor) -> Tensor:
        return tensor[:1] if tensor.dim() else tensor

    alone: Example = convert(example, first)
    return alone


def random_like(example: Example, generator: torch.Generator) -> Example:
    """Draw what is a real number anew from a normal distribution; ids and masks stay."""

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        values = torch.randn(tensor.shape, generator=generator)
        return values.to(tensor)

    drawn: Example = convert(example, draw)
    return drawn


def shape_text(example: Example) -> str:
    """Shape of each tensor of an example without the batch, for errors."""
    shapes = [tensor.shape[1:] for _, tensor in tensors_of(example)]
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def tensors_of(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Give every tensor of an input or output, each with its path (`scores`, `0.boxes`)."""
    if isinstance(value, Tensor):
        yield path, value
        return
    parts: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        parts = value
    elif isinstance(value, tuple | list):
        parts = dict(enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
    for name, part in parts.items():
        inner = f"{path}.{name}".lstrip(".")
        yield from tensors_of(part, inner)
