"""PyTorch's own exported program: runs with PyTorch alone."""

import io
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from metaprune_pl.delivery.base import KEY, Facts, Format, Forward, exported, reading


class Pt2(Format):
    """`torch.export`: the whole network in a file that needs no code of its own."""

    name: ClassVar[str] = "pt2"
    suffix: ClassVar[str] = ".pt2"
    program: ClassVar[str] = "PyTorch"
    example: ClassVar[str] = """\
import torch

told = {"metaprune": ""}
network = torch.export.load(path, extra_files=told).module()
facts = json.loads(told["metaprune"])


def run(images):
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()
"""

    def write(self, network: nn.Module, facts: Facts, path: Path, batch: int | None) -> None:
        """Write a program: see `Format.write`."""
        program = exported(network, facts, batch)
        whole = io.BytesIO()  # a full disk would end this process within PyTorch
        torch.export.save(program, whole, extra_files={KEY: facts.text})
        path.write_bytes(whole.getbuffer())

    def load(self, path: Path, threads: int) -> tuple[Forward, Facts]:
        """Load a program: see `Format.load`."""
        told = {KEY: ""}
        with reading(path):
            network = torch.export.load(path, extra_files=told).module()
        return network, Facts.parse(told[KEY], path)
