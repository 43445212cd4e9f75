"""What a module must be so that its weights can be read and changed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from metaprune_pl.errors import NetworkError


def plain_module(network: Any, name: str) -> nn.Module:
    """Take off the wrappers of `torch.compile` and `DataParallel`.

    A module that has no weights of its own is refused.

    Args:
        network: What a builder gave.
        name: The builder's name, for errors.

    Raises:
        NetworkError: It is no module, a TorchScript module, quantised, not initialised, or holds
            pruning masks or weights that it computes.
    """
    while isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(
        network, "_orig_mod"
    ):
        network = network.module if hasattr(network, "module") else network._orig_mod
    if not isinstance(network, nn.Module):
        raise NetworkError(
            f"network '{name}' gave {type(network).__name__}, not a torch.nn.Module."
        )
    check_layers(network, f"network '{name}'")
    for path, module in network.named_modules():
        _check_computed(path, module)
    return network


def check_layers(network: nn.Module, name: str) -> None:
    """Refuse a network whose layers cannot be read and changed.

    Args:
        network: The network.
        name: What it is called in errors.

    Raises:
        NetworkError: It is a TorchScript module, quantised, or not initialised.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise NetworkError(
            f"{name} is a TorchScript module. Give the Python module that it was made from."
        )
    for path, module in network.named_modules():
        _check_layer(path, module)


def to_plain_weight(parameter: str) -> str:
    """Tell what makes a weight plain that is computed from a parameter of such a name."""
    if ".parametrizations." in parameter:
        return "torch.nn.utils.parametrize.remove_parametrizations"
    if parameter.endswith("_v"):
        return "torch.nn.utils.remove_weight_norm"
    if parameter.endswith("_orig"):
        return "torch.nn.utils.remove_spectral_norm"
    return "a parameter in its place"


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


def _check_computed(path: str, module: nn.Module) -> None:
    """Refuse weights that are masked, or computed and kept, as those cannot be copied."""
    own = module._parameters.keys()
    if masked := [key for key in module._buffers if f"{key.removesuffix('_mask')}_orig" in own]:
        key = masked[0].removesuffix("_mask")
        raise NetworkError(
            f"layer '{path}' has a pruning mask on its {key}. Make it permanent first: "
            f"torch.nn.utils.prune.remove(layer, '{key}')."
        )
    names = [f"{key}{end}" for key in vars(module) for end in ("_v", "_orig")]
    if names := [name for name in names if name in own]:
        key = names[0].rpartition("_")[0]
        raise NetworkError(
            f"layer '{path}' computes its {key} anew in each pass, and keeps it. Make it permanent "
            f"first ({to_plain_weight(names[0])}), or take that of torch.nn.utils.parametrizations."
        )
    for key, value in vars(module).items():
        if isinstance(value, Tensor) and not value.is_leaf:
            raise NetworkError(
                f"layer '{path}' has computed its '{key}' once, and no file would hold it. Let its "
                "forward compute it."
            )
