"""What a network runs in, so that its time counts as it will in the end."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from metaprune_pl.delivery.base import Facts, Forward
from metaprune_pl.delivery.onnx import Onnx
from metaprune_pl.pruning.cost.latency import EAGER, Runtime


def compiled(network: nn.Module, images: Tensor) -> Forward:
    """Return a network that torch.compile has made ready for such images."""
    forward: Forward = torch.compile(network)
    forward(images)
    return forward


def in_onnx_runtime(network: nn.Module, images: Tensor) -> Forward:
    """Return a network that ONNX Runtime has loaded, on the processor."""
    facts = Facts(input_shape=tuple(images.shape[1:]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        Onnx().write(copy.deepcopy(network).cpu(), facts, file, len(images))
        return Onnx().load(file, torch.get_num_threads())[0]


RUNTIMES = {
    "eager": EAGER,
    "compiled": Runtime("torch.compile", compiled),
    "onnx": Runtime("ONNX Runtime", in_onnx_runtime),
}
"""Runtimes by the names that `--runtime` takes."""
