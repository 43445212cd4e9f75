"""Networks as files that other programs run, and what those files tell of themselves."""

from metaprune_pl.delivery.base import Facts, Format, Forward
from metaprune_pl.delivery.onnx import Onnx
from metaprune_pl.delivery.pt2 import Pt2
from metaprune_pl.delivery.safetensors import Safetensors
from metaprune_pl.delivery.torchscript import TorchScript

FORMATS: dict[str, Format] = {
    format_.name: format_ for format_ in (Onnx(), Pt2(), TorchScript(), Safetensors())
}
"""Formats by the names that `--format` takes."""

__all__ = ["FORMATS", "Facts", "Format", "Forward"]
