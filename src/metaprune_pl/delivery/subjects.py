"""Stored networks and exported files as programs that can be timed."""

import contextlib
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from metaprune_pl.delivery import FORMATS
from metaprune_pl.delivery.base import Forward
from metaprune_pl.errors import ConfigError, StorageError
from metaprune_pl.graphs.export import ERRORS
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning import count_macs
from metaprune_pl.pruning.cost.timing import Timing, time_in_turn
from metaprune_pl.reports.benchmarked import Benchmarked, Setup, Subject


@dataclass(frozen=True, kw_only=True)
class Program:
    """Something that makes scores of images.

    Attributes:
        subject: What it is, for people.
        input_shape: (C, H, W) of an image.
        load: Gives it ready to run, for a number of threads.
        batch: Images that it takes at once; None is any number.
    """

    subject: Subject
    input_shape: tuple[int, ...]
    load: Callable[[int], Forward]
    batch: int | None = None

    def check(self, batch: int) -> None:
        """Refuse a number of images that it does not take.

        Raises:
            ConfigError: It was exported for another one.
        """
        if self.batch not in (None, batch):
            raise ConfigError(
                f"{self.subject.name} was exported for {self.batch} images at once: give --batches "
                f"{self.batch}, or export it without --batch."
            )


def open_program(path: str, compiled: bool) -> Program:
    """Return a stored network or an exported file.

    Args:
        path: Folder or file.
        compiled: Whether a stored network is compiled.

    Raises:
        StorageError: It is neither, or cannot be read.
    """
    if Path(path).is_dir():
        return _stored(path, compiled)
    kind = next((k for k in FORMATS.values() if path.endswith(k.suffix)), None)
    if kind is None:
        endings = ", ".join(kind.suffix for kind in FORMATS.values())
        raise StorageError(f"'{path}' is no folder of a network, and no file of {endings}.")
    file = Path(path)
    facts = kind.load(file, 1)[1]
    subject = Subject(
        name=path,
        program=kind.program,
        bytes=file.stat().st_size,
        macs=None,
    )
    return Program(
        subject=subject,
        input_shape=facts.input_shape,
        load=lambda threads: kind.load(file, threads)[0],
        batch=facts.batch,
    )


def _stored(path: str, compiled: bool) -> Program:
    network, card = load_network(path), read_card(path)
    subject = Subject(
        name=path,
        program="PyTorch, compiled" if compiled else "PyTorch",
        bytes=(Path(path) / "weights.safetensors").stat().st_size,
        macs=count_macs(network, card.example()),
    )
    forward: Forward = torch.compile(network) if compiled else network
    return Program(subject=subject, input_shape=card.image_shape, load=lambda _: forward)


def compare_times(
    programs: Sequence[Program], batches: Sequence[int], threads: Sequence[int], seconds: float
) -> Benchmarked:
    """Time programs in turn, for each number of images and threads.

    Args:
        programs: What is timed; all take the same images.
        batches: Numbers of images in a pass.
        threads: Numbers of threads.
        seconds: How long to measure each at least.

    Raises:
        ConfigError: They take different images.
        StorageError: A file does not run on its images.
    """
    shape = programs[0].input_shape
    for other in programs:
        if other.input_shape != shape:
            sizes = ("x".join(map(str, each.input_shape)) for each in (programs[0], other))
            names = f"{programs[0].subject.name} and {other.subject.name}"
            raise ConfigError(f"{names} take images of {' and '.join(sizes)}: compare like ones.")
    for program, batch in product(programs, batches):
        program.check(batch)
    before, setups = torch.get_num_threads(), []
    try:
        for number in threads:
            torch.set_num_threads(number)
            labels = [program.subject.name for program in programs]
            forwards = [program.load(number) for program in programs]
            for batch in batches:
                times = _times(forwards, labels, torch.randn(batch, *shape), seconds)
                named = dict(zip(labels, times, strict=True))
                setups.append(Setup(batch=batch, threads=number, times=named))
    finally:
        torch.set_num_threads(before)
    subjects = [program.subject for program in programs]
    return Benchmarked(machine=machine(), subjects=subjects, setups=setups)


@torch.inference_mode()
def _times(
    forwards: Sequence[Forward], names: Sequence[str], images: Tensor, seconds: float
) -> list[Timing]:
    def pass_of(forward: Forward) -> Callable[[], object]:
        return lambda: forward(images)

    for forward, name in zip(forwards, names, strict=True):
        try:
            forward(images)
        except ERRORS as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            size = "x".join(map(str, images.shape))
            raise StorageError(f"cannot run {name} on images of {size}: {reason}") from error
    return time_in_turn([pass_of(forward) for forward in forwards], seconds=seconds)


def machine() -> str:
    """Name the processor."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        name = next(iter(models), name)
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
