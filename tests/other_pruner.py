"""torch-pruning's graph and pruner, for comparisons."""

import math
import time

import torch
import torch_pruning
from torch import nn

from metaprune_pl.networks.examples import Example, call, tensors_of

ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What it raises where it cannot follow a network."""


def prune_with_torch_pruning(
    network: nn.Module, example: Example, steps: int, seconds: float = math.inf
) -> float:
    """Build torch-pruning's graph, let its pruner take steps to 2x, and return the speed-up.

    Args:
        network: Changed in place.
        example: One input as a batch.
        steps: Number of steps until nothing would be left.
        seconds: CPU seconds after which no further step begins.
    """
    count = torch_pruning.utils.count_ops_and_params
    heads = {m: m.num_heads for m in network.modules() if isinstance(m, nn.MultiheadAttention)}
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    *_, last = (module for module in network.modules() if isinstance(module, layers))
    pruner = torch_pruning.pruner.GroupNormPruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.9,  # of a layer, as ours; it fails on more networks without a floor
        iterative_steps=steps,
        ignored_layers=[last],
        num_heads=heads,
    )
    speed_up = 1.0
    before, end = count(network, example)[0], time.process_time() + seconds
    for _ in range(steps):
        if time.process_time() > end:
            raise ValueError(f"not done after {seconds:g} s, at {speed_up:.2f}x")
        pruner.step()
        if (speed_up := before / count(network, example)[0]) >= 2:
            return float(speed_up)
    raise ValueError(f"at most {speed_up:.2f}x")


@torch.no_grad()
def result_of_torch_pruning(network: nn.Module, example: Example) -> str:
    """Say how far torch-pruning prunes a network, or how it fails."""
    shapes = [tensor.shape for _, tensor in tensors_of(call(network.eval(), example))]
    try:
        with torch.enable_grad():
            speed_up = prune_with_torch_pruning(network, example, 20)
        after = [tensor.shape for _, tensor in tensors_of(call(network, example))]
    except ERRORS as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:80]}"
    return f"{speed_up:.2f}x" if after == shapes else "outputs of other shapes"
