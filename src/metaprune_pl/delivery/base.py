"""What every format of a delivered network has in common."""

import io
import json
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from metaprune_pl.errors import NetworkError, StorageError
from metaprune_pl.files import check_file
from metaprune_pl.graphs.export import ERRORS
from metaprune_pl.networks import NetworkCard
from metaprune_pl.networks.preprocessing import Preprocessing
from metaprune_pl.networks.storage import LARGEST_IMAGE
from metaprune_pl.records import as_record

KEY = "metaprune"
"""Name under which a file's metadata hold what it tells of itself."""

Forward = Callable[[Tensor], Tensor]
"""From images [B, C, H, W] to scores [B, K]."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a delivered file tells of itself.

    Attributes:
        input_shape: (C, H, W) of an image.
        preprocessing: What is done to images before; None where nobody has told.
        batch: Images that it takes at once; None is any number.
    """

    input_shape: tuple[int, ...]
    preprocessing: Preprocessing | None = None
    batch: int | None = None

    @classmethod
    def of(cls, card: NetworkCard) -> Self:
        """Return what is known of a stored network."""
        return cls(input_shape=card.image_shape, preprocessing=card.preprocessing)

    @property
    def text(self) -> str:
        """JSON for a file's metadata."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def parse(cls, text: str, path: Path) -> Self:
        """Return what a file's metadata hold.

        Raises:
            StorageError: They are not ours, or damaged.
        """
        if not text:
            raise StorageError(f"{path} was not written by `metaprune export`.")
        try:
            facts = as_record(cls, json.loads(text), path)
        except (ValueError, RecursionError) as error:
            raise StorageError(f"{path} is damaged ({error}). Export the network again.") from error
        shape = facts.input_shape
        if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > LARGEST_IMAGE:
            raise StorageError(f"{path} is damaged (input_shape is {shape}).")
        return facts


class Format(ABC):
    """A kind of file that a network is delivered as.

    Attributes:
        name: What `--format` calls it.
        suffix: Ending of its files.
        program: What runs them, for people.
        example: Lines of Python that make `facts` and a function `run` of `path`; None where the
            network itself is not in the file.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    program: ClassVar[str]
    example: ClassVar[str | None]

    @abstractmethod
    def write(self, network: nn.Module, facts: Facts, path: Path, batch: int | None) -> None:
        """Write a network.

        Args:
            network: In evaluation mode on the CPU; left as it is.
            facts: What the file tells of itself.
            path: Where to.
            batch: Images of every batch; None is any number of them.

        Raises:
            NetworkError: The network cannot be written in this format.
        """

    @abstractmethod
    def load(self, path: Path, threads: int) -> tuple[Forward, Facts]:
        """Load a file, ready to run on the CPU.

        Args:
            path: The file.
            threads: Threads of a runtime that does not follow PyTorch's.

        Raises:
            StorageError: It cannot be read.
        """

    def scores(self, path: Path, network: nn.Module, images: Tensor) -> Tensor:
        """Return what a file makes of images, [B, C, H, W] -> [B, K].

        Args:
            path: The file.
            network: The network that it was written of.
            images: The images.
        """
        return self.load(path, torch.get_num_threads())[0](images)

    def missing(self) -> str | None:
        """Return the name of a package that `load` needs and that is not installed."""
        return None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line that a file of PyTorch's cannot be read.

    Raises:
        StorageError: It is none, or damaged.
    """
    check_file(path)
    if not zipfile.is_zipfile(path):
        raise StorageError(f"cannot read {path}: it is damaged, or another kind of file.")
    try:
        yield
    except ERRORS as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StorageError(f"cannot read {path}: {reason}") from error


def example_images(facts: Facts, batch: int | None) -> Tensor:
    """Return random images as a batch that an export is traced with: two stand for any number."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch or 2, *facts.input_shape, generator=generator)


def exported(network: nn.Module, facts: Facts, batch: int | None) -> ExportedProgram:
    """Return a network as a program of PyTorch's operators.

    Args:
        network: In evaluation mode on the CPU.
        facts: Shape of its images.
        batch: Images of every batch; None is any number.

    Raises:
        NetworkError: PyTorch cannot follow it, or it takes one number of images alone.
    """
    images = example_images(facts, batch)
    shapes = None if batch else ({0: Dim("batch", min=1)},)
    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):
            return torch.export.export(network, (images,), dynamic_shapes=shapes)
    except ERRORS as error:
        raise not_written(error, batch) from error


def not_written(error: Exception, batch: int | None) -> NetworkError:
    """Return what a person is told of a network that does not go into a format."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    way_out = "" if batch else " It may take one size of batch alone: try --batch 1."
    return NetworkError(f"the network cannot be exported: {reason}{way_out}")
