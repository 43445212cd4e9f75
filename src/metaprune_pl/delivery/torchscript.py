"""TorchScript, for programs of C++ and phones that read no other format yet."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.jit._trace import TracerWarning

from metaprune_pl.delivery.base import (
    KEY,
    Facts,
    Format,
    Forward,
    example_images,
    not_written,
    reading,
)
from metaprune_pl.graphs.export import ERRORS


class TorchScript(Format):
    """`torch.jit.trace`, which PyTorch keeps for what is there and develops no further."""

    name: ClassVar[str] = "torchscript"
    suffix: ClassVar[str] = ".torchscript"
    program: ClassVar[str] = "TorchScript"
    example: ClassVar[str] = """\
import torch

told = {"metaprune": ""}
network = torch.jit.load(path, _extra_files=told)
facts = json.loads(told["metaprune"])


def run(images):
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()
"""

    def write(self, network: nn.Module, facts: Facts, path: Path, batch: int | None) -> None:
        """Write a traced network: see `Format.write`."""
        images = example_images(facts, batch)
        with _quiet(), torch.no_grad():
            try:
                traced = torch.jit.trace(network, images, check_trace=False)
            except ERRORS as error:
                raise not_written(error, batch) from error
            whole = io.BytesIO()  # a full disk would end this process within PyTorch
            torch.jit.save(traced, whole, _extra_files={KEY: facts.text})
        path.write_bytes(whole.getbuffer())

    def load(self, path: Path, threads: int) -> tuple[Forward, Facts]:
        """Load a traced network: see `Format.load`."""
        told = {KEY: ""}
        with _quiet(), reading(path):
            network = torch.jit.load(path, _extra_files=told)
        text = told[KEY]
        return network, Facts.parse(text.decode() if isinstance(text, bytes) else text, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch from saying that there are newer formats: the person has chosen."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit")
        yield
