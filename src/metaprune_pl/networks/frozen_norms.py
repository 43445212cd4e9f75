"""Frozen batch norms, as detectors have them: parameters and statistics are buffers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def freeze_batch_norms(network: nn.Module) -> None:
    """Replace batch norms, in place, by frozen ones of the same values."""
    _replace(
        network, nn.BatchNorm2d, lambda norm: FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    )


def thaw_batch_norms(network: nn.Module) -> None:
    """Replace frozen batch norms, in place, by ordinary ones, which do the same in evaluation.

    Parameters get the names that the buffers had.
    """
    _replace(
        network, FrozenBatchNorm2d, lambda norm: nn.BatchNorm2d(len(norm.weight), eps=norm.eps)
    )


@contextmanager
def thawed(network: nn.Module) -> Iterator[None]:
    """Make frozen batch norms ordinary ones for a while, and then take over their values."""
    modules = network.named_modules()
    frozen = {name: norm for name, norm in modules if isinstance(norm, FrozenBatchNorm2d)}
    thaw_batch_norms(network)
    try:
        yield
    finally:
        for name, norm in frozen.items():
            state = network.get_submodule(name).state_dict()
            norm.load_state_dict(state, strict=False)
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, norm)


def _replace(network: nn.Module, kind: Any, make: Callable[[Any], nn.Module]) -> None:
    for module in list(network.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, kind):
                new = make(norm).to(norm.weight.device)
                state = norm.state_dict()
                new.load_state_dict(state, strict=False)  # a frozen norm counts no batches
                setattr(module, name, new)
