"""Multiply-accumulates of a forward pass, the same on every device and with every torch version.

Counted are products of matrices and convolutions, that of attention and of recurrent layers
included; element-wise products, norms and pooling are not, as everywhere in the literature.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Size, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from metaprune_pl.networks.examples import Example, call, single

aten = torch.ops.aten


def _matrix_vector(matrix: Size, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _added_matrix_vector(_: Size, matrix: Size, *__: Any, **___: Any) -> int:
    return 2 * math.prod(matrix)


def _trilinear(
    left: Size,
    weight: Size,
    right: Size,
    expand_left: list[int],
    expand_weight: list[int],
    expand_right: list[int],
    *_: Any,
    **__: Any,
) -> int:
    """Every element of the broadcast product of three, as `nn.Bilinear` computes it."""
    rank = len(left) + len(expand_left)
    extents = [1] * rank
    for shape, expanded in (
        (left, expand_left),
        (weight, expand_weight),
        (right, expand_right),
    ):
        sizes = iter(shape)
        for dim in range(rank):
            if dim not in expanded:
                extents[dim] = max(extents[dim], next(sizes))
    return 2 * math.prod(extents)


def _onednn_lstm_layer(
    inputs: Size,
    to_gates: Size,
    from_state: Size,
    *_: Any,
    **__: Any,
) -> int:
    """One layer in one direction; `inputs` are [T, B, D]."""
    return 2 * math.prod(inputs[:-1]) * (math.prod(to_gates) + math.prod(from_state))


def _fused_recurrent(
    inputs: Size,
    weights: list[Size],
    *_: Any,
    **__: Any,
) -> int:
    """All layers and directions; `inputs` are [T, B, D], or [tokens, D] of packed sequences."""
    matrices = [shape for shape in weights if len(shape) == 2]
    return 2 * math.prod(inputs[:-1]) * sum(math.prod(shape) for shape in matrices)


_FLOPS: dict[Any, Callable[..., int]] = {
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.vdot: _matrix_vector,
    aten.addmv: _added_matrix_vector,
    aten._trilinear: _trilinear,
    aten.mkldnn_rnn_layer: _onednn_lstm_layer,
    aten._cudnn_rnn: _fused_recurrent,
    aten.miopen_rnn: _fused_recurrent,
}
"""Operators that PyTorch's counter has no formula for, from shapes to floating-point operations."""


@contextmanager
def _written_out() -> Iterator[None]:
    """Let attention run as products of matrices, not as one of its many fused operators."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@torch.no_grad()
def count_macs(network: nn.Module, example: Example) -> int:
    """Count multiply-accumulates for one input over all operators, functional ones included.

    Args:
        network: Any network; counted in evaluation mode and left as it was.
        example: A batch, such as images [B, C, H, W], the first of which is counted.
    """
    training = network.training
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:  # the counter wants gradients of those that are handed to modules
        parameter.requires_grad_(False)
    try:
        with _written_out(), FlopCounterMode(display=False, custom_mapping=_FLOPS) as counter:
            call(network.eval(), single(example))
    finally:
        network.train(training)
        for parameter in trained:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops()) // 2
