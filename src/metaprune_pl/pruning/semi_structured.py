"""Networks with 2:4 masks on sparse tensor cores, by torch's semi-structured tensors.

See https://docs.pytorch.org/docs/stable/sparse.html#sparse-semi-structured-tensors.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from metaprune_pl.errors import PruningError

ROWS = 32
COLUMNS = 64
"""Weights of half precision have a multiple of so many outputs and inputs; cuSPARSELt would take
less than CUTLASS."""
LEAST_CAPABILITY = (8, 0)
"""First compute capability with sparse tensor cores (Ampere)."""


class SemiStructured(NamedTuple):
    """A network whose linear layers use sparse tensor cores.

    Attributes:
        network: For inference only; its other layers are as they were.
        converted: Layers that use them.
        left: Other linear layers and convolutions, and why they do not.
    """

    network: nn.Module
    converted: tuple[str, ...]
    left: dict[str, str]


@torch.no_grad()
def semi_structured(network: nn.Module) -> SemiStructured:
    """Return a copy of a network whose linear layers with 2:4 masks are stored and run as such.

    Args:
        network: In half precision (float16 or bfloat16) on a CUDA device with sparse tensor cores.

    Raises:
        PruningError: The device has none, the network is of another precision, or no layer has such
            a mask.
    """
    weight = next(network.parameters(), torch.zeros(()))
    if weight.dtype not in {torch.float16, torch.bfloat16}:
        raise PruningError(
            f"sparse tensor cores take half precision, and the network is {weight.dtype}: call "
            ".half()."
        )
    _check_device(weight.device)
    converted, left = layers_to_convert(network)
    if not converted:
        raise PruningError(
            "no linear layer of the network has a 2:4 mask of the right size: " + _reasons(left)
        )
    result = copy.deepcopy(network).eval()
    for name in converted:
        layer = result.get_submodule(name)
        dense = layer.get_parameter("weight").detach().contiguous()
        try:
            layer.weight = nn.Parameter(to_sparse_semi_structured(dense), requires_grad=False)
        except (
            RuntimeError,
            NotImplementedError,
        ) as error:  # built without the kernels, or not for this device
            reason = str(error).strip().partition("\n")[0]
            raise PruningError(
                f"this build of PyTorch cannot use sparse tensor cores here: {reason}"
            ) from error
    return SemiStructured(result, tuple(converted), left)


def layers_to_convert(network: nn.Module) -> tuple[list[str], dict[str, str]]:
    """Return the linear layers that sparse tensor cores take, and why not the other layers."""
    converted: list[str] = []
    left: dict[str, str] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            left[name] = "convolutions have no such kernels"
        elif isinstance(layer, nn.Linear):
            rows, columns = layer.weight.shape
            if type(layer) is not nn.Linear:
                left[name] = f"a {type(layer).__name__} is not read by itself alone"
            elif not is_two_of_four(layer.weight):
                left[name] = "more than two of four weights in a row are not zero"
            elif rows % ROWS or columns % COLUMNS:
                left[name] = f"{rows}x{columns} weights are no multiple of {ROWS}x{COLUMNS}"
            else:
                converted.append(name)
    return converted, left


def is_two_of_four(weight: Tensor) -> bool:
    """Whether at most two of each four consecutive weights of a row are not zero, [O, I]."""
    return weight.shape[1] % 4 == 0 and bool(((weight.reshape(-1, 4) != 0).sum(1) <= 2).all())


def _check_device(device: torch.device) -> None:
    need = "sparse tensor cores need a CUDA device of compute capability 8.0 or more"
    if device.type != "cuda":
        raise PruningError(
            f"{need}, and the network is on {device}: call .cuda() on such a machine."
        )
    if (capability := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
        raise PruningError(
            f"{need}, and {torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}."
        )


def _reasons(left: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in list(left.items())[:3]) + "."
