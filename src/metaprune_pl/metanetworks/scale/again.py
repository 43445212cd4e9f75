"""Compute a piece of the edges again in the backward pass, rather than keep what it computed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from metaprune_pl.metanetworks.scale.wiring import Piece


def again(
    function: Callable[..., tuple[Tensor, ...]],
    piece: Piece,
    modules: Sequence[nn.Module],
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    """Call a function of a piece, and call it again in the backward pass.

    A piece that is a whole connection is small: what it computed is kept.

    Args:
        function: Takes the piece and the inputs.
        piece: Some edges.
        modules: What the function takes its parameters from.
        inputs: Whatever else it depends on.
    """
    if piece.whole or not torch.is_grad_enabled():
        return function(piece, *inputs)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    result: tuple[Tensor, ...] = _Again.apply(
        function,
        piece,
        len(inputs),
        *inputs,
        *parameters,
    )
    return result


class _Again(Function):
    """A function that keeps its inputs only."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Any], piece: Piece, count: int, *tensors: Tensor
    ) -> Any:
        ctx.function = function
        ctx.piece = piece
        ctx.count = count
        ctx.save_for_backward(*tensors)
        return function(piece, *tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        with torch.enable_grad():
            inputs = []
            for tensor, need in zip(tensors[: ctx.count], needed, strict=False):
                inputs.append(tensor.detach().requires_grad_(need))
            outputs = ctx.function(ctx.piece, *inputs)
        leaves = [*inputs, *tensors[ctx.count :]]
        wanted = [leaf for leaf, need in zip(leaves, needed, strict=True) if need]
        results = torch.autograd.grad(
            outputs,
            wanted,
            gradients,
            allow_unused=True,
        )
        remaining = iter(results)
        own = [next(remaining) if need else None for need in needed]
        return None, None, None, *own
