"""The weights alone, for programs that build the network themselves."""

import copy
from pathlib import Path
from typing import ClassVar

from safetensors.torch import load_file
from torch import Tensor, nn

from metaprune_pl.delivery.base import KEY, Facts, Format, Forward
from metaprune_pl.errors import StorageError
from metaprune_pl.files import write_tensors
from metaprune_pl.networks.widths import all_tensors, set_tensors


class Safetensors(Format):
    """Weights by name; their shapes are the widths of the layers."""

    name: ClassVar[str] = "safetensors"
    suffix: ClassVar[str] = ".safetensors"
    program: ClassVar[str] = "a copy with these weights"
    example: ClassVar[None] = None

    def write(self, network: nn.Module, facts: Facts, path: Path, batch: int | None) -> None:
        """Write the weights: see `Format.write`."""
        tensors = all_tensors(network).items()
        copies = {name: value.detach().contiguous().clone() for name, value in tensors}
        write_tensors(path, copies, {KEY: facts.text})

    def load(self, path: Path, threads: int) -> tuple[Forward, Facts]:
        """Refuse: see `Format.load`."""
        raise StorageError(f"{path} holds weights alone, no network that can be run.")

    def scores(self, path: Path, network: nn.Module, images: Tensor) -> Tensor:
        """Return what the network makes of images with the weights of a file."""
        copied = copy.deepcopy(network)
        set_tensors(copied, load_file(path))
        scores: Tensor = copied(images)
        return scores
