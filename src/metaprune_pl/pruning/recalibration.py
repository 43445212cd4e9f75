"""Batch-norm statistics from images of now, after weights were rewritten or channels removed."""

from collections.abc import Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metaprune_pl.errors import ConfigError


@torch.no_grad()
def recalibrate(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Replace the running statistics of a network's batch norms by those of images.

    Each batch is normalised by itself on its way, as in training. Mean and unbiased variance are
    those of all images of all processes together, from sums in float64: which process sees which
    batch makes no difference.

    Args:
        network: Changed in place, and left in evaluation mode.
        images: Batches of this process, normalised, on the network's device, [B, C, H, W] each.

    Raises:
        ConfigError: There is no image.
    """
    modules = network.eval().modules()
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    names = ("running_mean", "running_var")
    statistics = [tuple(norm.get_buffer(name) for name in names) for norm in norms]
    totals = [mean.new_zeros(3, len(mean), dtype=torch.float64) for mean, _ in statistics]
    hooks = [
        norm.register_forward_pre_hook(partial(_add, total))
        for norm, total in zip(norms, totals, strict=True)
    ]
    try:
        for norm in norms:  # without running statistics a norm takes those of its batch
            norm.running_mean = norm.running_var = None
        for batch in images:
            network(batch)
    finally:
        for norm, hook, (mean, variance) in zip(norms, hooks, statistics, strict=True):
            norm.running_mean = mean
            norm.running_var = variance
            hook.remove()
    if dist.is_available() and dist.is_initialized():
        for total in totals:
            dist.all_reduce(total)
    if not bool(torch.stack([total[0, 0] for total in totals]).all()):
        raise ConfigError("statistics of batch norms need at least one image.")
    for (mean, variance), (count, values, squares) in zip(statistics, totals, strict=True):
        average = values / count
        mean.copy_(average)
        variance.copy_((squares - count * average.square()) / (count - 1).clamp(min=1))


def _add(total: Tensor, norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """Add count, sum and sum of squares of each channel of a norm's inputs [B, C, ...], [3, C]."""
    values = inputs[0].double().transpose(0, 1).flatten(1)
    total[0] += values.shape[1]
    total[1] += values.sum(1)
    total[2] += values.square().sum(1)
