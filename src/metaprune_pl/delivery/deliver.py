"""A stored network as a file of a format, checked against the network that it came from."""

from dataclasses import replace
from mmap import ACCESS_READ, mmap
from pathlib import Path

import torch
from torch import Tensor, nn

from metaprune_pl.delivery.base import KEY, Facts, Format
from metaprune_pl.delivery.images import read_images
from metaprune_pl.delivery.predict import check_script, write_predict
from metaprune_pl.errors import ConfigError, NetworkError, StorageError
from metaprune_pl.files import check_file, check_new, whole_file
from metaprune_pl.reports.delivered import Delivered

IMAGES = 8
"""Images that a file is checked on."""
TOLERANCE = 1e-4
"""Largest difference of scores, as a share of the largest score where that is above 1."""


def deliver(
    network: nn.Module,
    facts: Facts,
    kind: Format,
    file: Path,
    *,
    batch: int | None = None,
    images: Path | None = None,
) -> Delivered:
    """Write a network, and compare what the file makes of images with what the network does.

    Args:
        network: In evaluation mode on the CPU; left as it is.
        facts: What the file tells of itself.
        kind: The format.
        file: Where to.
        batch: Images of every batch; None is any number.
        images: Folder or file of real images to compare on; None takes random ones.

    Raises:
        DataError: The images cannot be read.
        NetworkError: The network cannot be written in this format, or the file gives other scores.
        StorageError: A package is missing, the file cannot be written, or would replace another.
    """
    has_script = kind.example is not None and facts.preprocessing is not None
    _check_target(file, kind)
    if has_script:
        check_script(file, kind)
    sample = _sample(images, facts, batch)
    with whole_file(file) as new:
        kind.write(network, replace(facts, batch=batch), new, batch)
        difference = None if kind.missing() else _difference(network, kind, new, sample, batch)
    script = write_predict(file, kind) if has_script else None
    return Delivered(
        file=str(file),
        format=kind.name,
        program=kind.program,
        bytes=file.stat().st_size,
        images=len(sample),
        source=None if images is None else str(images),
        difference=difference,
        missing=kind.missing(),
        script=None if script is None else str(script),
    )


def _sample(source: Path | None, facts: Facts, batch: int | None) -> Tensor:
    """Return images to compare on, [B, C, H, W]."""
    count = batch or IMAGES
    if source is None:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(count, *facts.input_shape, generator=generator)
    images = read_images(source, facts, count)
    return images[torch.arange(count) % len(images)] if batch else images


def _check_target(file: Path, kind: Format) -> None:
    """Refuse to replace anything but an earlier export.

    Raises:
        ConfigError: The name is not one of the format's.
        StorageError: Another file has it, or a stored network is there.
    """
    if file.suffix != kind.suffix:
        raise ConfigError(f"file '{file}': the name of such a file ends in {kind.suffix}.")
    if (file.parent / "network.json").exists():
        raise StorageError(f"'{file.parent}' is a stored network. Choose another folder.")
    if not file.is_symlink() and file.is_file() and _is_export(file):
        return
    check_new(file)


def _is_export(file: Path) -> bool:
    """Whether a file tells of itself what an export does."""
    check_file(file)
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as whole:
        return whole.find(KEY.encode()) >= 0 and whole.find(b"input_shape") >= 0


@torch.no_grad()
def _difference(
    network: nn.Module, kind: Format, file: Path, images: Tensor, batch: int | None
) -> float:
    """Return the largest difference of scores, for all images at once and for one.

    Raises:
        NetworkError: It is too large.
    """
    largest = 0.0
    for some in (images,) if batch else (images, images[:1]):
        expected = network(some)
        if not bool(expected.isfinite().all()):
            raise NetworkError(
                "the network gives NaN or infinity: it is not exported. Was its training ruined?"
            )
        scale = max(1.0, float(expected.abs().max()))
        given = kind.scores(file, network, some)
        difference = float((given - expected).abs().max()) / scale
        if not difference <= TOLERANCE:  # NaN is no such difference either
            raise NetworkError(
                f"the {kind.name} file gives other scores than the network, by {difference:.1g} of "
                "the largest: it is not kept. Try another --format."
            )
        largest = max(largest, difference)
    return largest
