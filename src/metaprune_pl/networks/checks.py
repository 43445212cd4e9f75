"""What a module must be so that its weights can be read and changed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from metaprune_pl.errors import NetworkError


def plain_module(network: Any, name: str) -> nn.Module:
    """Take off the wrappers of `torch.compile` and `DataParallel`.

    A module that has no weights of its own is refused.

    Args:
        network: What a builder gave.
        name: The builder's name, for errors.

    Raises:
        NetworkError: It is no module, a TorchScript module, quantised, not initialised, or computes
            its weights anew.
    """
    while isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(
        network, "_orig_mod"
    ):
        network = network.module if hasattr(network, "module") else network._orig_mod
    if isinstance(network, torch.jit.ScriptModule):
        raise NetworkError(
            f"network '{name}' is a TorchScript module. Give the Python module that it was made "
            "from."
        )
    if not isinstance(network, nn.Module):
        raise NetworkError(
            f"network '{name}' gave {type(network).__name__}, not a torch.nn.Module."
        )
    for path, module in network.named_modules():
        _check_layer(path, module)
    return network


def _check_layer(path: str, module: nn.Module) -> None:
    tensors = [
        t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None
    ]
    where = f"layer '{path}' is a {type(module).__name__}"
    if any(is_lazy(tensor) for tensor in tensors):
        raise NetworkError(
            f"the network is not initialised ({where}). Let its builder run it once on an image."
        )
    kinds = " ".join(type(thing).__module__ for thing in (module, *tensors))
    if "quantized" in kinds or "torchao" in kinds or any(tensor.is_quantized for tensor in tensors):
        raise NetworkError(f"the network is quantised ({where}). Prune it before quantisation.")
    computed = [
        key
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
        and (not value.is_leaf or {f"{key}_orig", f"{key}_v"} & module._parameters.keys())
    ]
    if is_parametrized(module):
        computed += list(module.parametrizations)  # type: ignore[arg-type]
    if computed:
        raise NetworkError(
            f"layer '{path}' computes its {computed[0]} anew in each pass (pruning masks, weight "
            "or spectral norm). "
            "Make it permanent first: torch.nn.utils.prune.remove, or "
            "parametrize.remove_parametrizations."
        )
