"""A network as an exported program of ATen operators."""

import contextlib
import io
import re
from typing import Any

import torch
from torch import Tensor, nn

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.wrapped import inline
from metaprune_pl.networks.examples import Example, arguments, shape_text, single, tensors_of
from metaprune_pl.networks.frozen_norms import thaw_batch_norms
from metaprune_pl.networks.trust import line_of
from metaprune_pl.networks.widths import copy_network

ERRORS = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError, KeyError)
"""What an export raises that cannot follow a network."""


def export(network: nn.Module, example: Example) -> Any:
    """Export a network in evaluation mode; its outputs are all tensors of its output, in order.

    Args:
        network: Left as it is.
        example: One input as a batch.

    Raises:
        TraceError: The network cannot be exported.
    """
    clean = copy_network(network)
    thaw_batch_norms(clean)  # their arithmetic would not be known as a norm
    clean.eval().requires_grad_(True)
    clean.register_forward_hook(_leaves)
    positional, by_name = arguments(single(example))
    try:
        with (
            torch.no_grad(),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # it prints what it could not follow
            program = torch.export.export(
                clean,
                positional,
                by_name,
                strict=False,
            )
    except ERRORS as error:
        raise TraceError(f"{explanation(error, network, example)}{_part(network)}") from error
    inline(program.graph_module)
    return program


def _leaves(_: nn.Module, __: Any, output: Any) -> tuple[Tensor, ...]:
    return tuple(tensor for _, tensor in tensors_of(output))


def explanation(error: Exception, network: nn.Module, example: Example) -> str:
    """Tell what went wrong in an export, in one or two sentences.

    Where a value decides what runs, they name the line of the user's code.

    Args:
        error: What the export has raised.
        network: The network.
        example: Its input.
    """
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    shape = shape_text(example)
    message = f"the network cannot be exported with an input of {shape}: {reason.rstrip('.')}."
    if re.search(r"dtype|scalar type|type \(", text):
        own = next(network.parameters(), torch.zeros(())).dtype
        kinds = {t.dtype for _, t in tensors_of(example)}
        kinds = {kind for kind in kinds if kind.is_floating_point} or kinds
        return (
            f"{message} The input is of {', '.join(map(str, kinds))}, the network of {own}: give "
            "both the same."
        )
    if "data-dependent" not in text.lower():
        return message
    line = line_of(error)
    return (
        "the network's forward pass decides by the values of its input"
        f"{f' ({line})' if line else ''}, so that its operations are not the same for every input. "
        "Write it with torch.where or torch.cond, or give the part that is a plain network."
    )


def _part(network: nn.Module) -> str:
    """Name the part of a detector that is a plain network."""
    if not isinstance(getattr(network, "backbone", None), nn.Module):
        return ""
    return (
        " Its `backbone` is a part that can be pruned by itself: "
        "network.backbone = metaprune_pl.prune(network.backbone, example=image)."
    )


def aliases_of(network: nn.Module) -> dict[str, str]:
    """Further names of shared parameters and buffers, to their first name."""
    tensors = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    for name, value in tensors:
        first.setdefault(id(value), name)
    return {name: first[id(value)] for name, value in tensors if first[id(value)] != name}
