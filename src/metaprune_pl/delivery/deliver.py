"""A stored network as a file of a format, checked against the network that it came from."""

from pathlib import Path

import torch
from torch import Tensor, nn

from metaprune_pl.delivery.base import Facts, Format
from metaprune_pl.delivery.images import read_images
from metaprune_pl.delivery.predict import write_predict
from metaprune_pl.errors import NetworkError
from metaprune_pl.files import whole_file
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
        StorageError: A package is missing, or the file cannot be written.
    """
    count = batch or IMAGES
    if images is None:
        sample = torch.randn(count, *facts.input_shape, generator=torch.Generator().manual_seed(1))
    else:
        sample = read_images(images, facts, count)
        sample = sample[torch.arange(count) % len(sample)] if batch else sample
    with whole_file(file) as new:
        kind.write(network, facts, new, batch)
        difference = None if kind.missing() else _difference(network, kind, new, sample, batch)
    script = None if facts.preprocessing is None else write_predict(file, kind)
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
        scale = max(1.0, float(expected.abs().max()))
        given = kind.scores(file, network, some)
        largest = max(largest, float((given - expected).abs().max()) / scale)
    if not largest <= TOLERANCE:
        raise NetworkError(
            f"the {kind.name} file gives other scores than the network, by {largest:.1g} of the "
            "largest: it is not kept. Try another --format."
        )
    return largest
