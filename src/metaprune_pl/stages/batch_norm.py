"""Batch norm over the batches of all devices, on the CPU as well.

`--trainer.sync_batchnorm true` asks for it.
"""

from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorms(TorchSyncBatchNorm):
    """Makes a network's batch norms those of the global batch for the time of a fit.

    torch's SyncBatchNorm runs on GPUs only; on CPUs the layers get another forward pass.
    """

    on_cpu = False

    def apply(self, model: nn.Module) -> nn.Module:
        """Exchange them."""
        if not self.on_cpu:
            return super().apply(model)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.forward = partial(synced_batch_norm, module)  # type: ignore[method-assign]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Change them back."""
        if not self.on_cpu:
            return super().revert(model)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                vars(module).pop("forward", None)
        return model


def synced_batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Normalise over the batches of all processes, which are of the same size.

    [B, C, ...] -> [B, C, ...].
    """
    if not norm.training:
        own = norm.running_mean is None
        return F.batch_norm(
            x,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            training=own,
            eps=norm.eps,
        )
    axes = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    ranks = dist.get_world_size()
    mean = all_reduce(x.mean(axes)) / ranks
    centred = x - mean.reshape(shape)
    variance = all_reduce(centred.square().mean(axes)) / ranks
    if (
        norm.running_mean is not None
        and norm.running_var is not None
        and norm.num_batches_tracked is not None
    ):
        count = ranks * x.numel() // x.shape[1]
        with torch.no_grad():
            norm.num_batches_tracked += 1
            factor = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, factor)
            norm.running_var.lerp_(variance * count / max(count - 1, 1), factor)  # unbiased
    y: Tensor = centred * (variance + norm.eps).rsqrt().reshape(shape)
    return y if norm.weight is None else y * norm.weight.reshape(shape) + norm.bias.reshape(shape)
