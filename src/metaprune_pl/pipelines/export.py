"""`export`: a stored network as a file for other programs."""

from pathlib import Path

from metaprune_pl.delivery import FORMATS, Facts
from metaprune_pl.delivery.deliver import deliver
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.reports.delivered import Delivered


def export(
    folder: str,
    *,
    format: str = "onnx",
    file: str | None = None,
    images: str | None = None,
    batch: int | None = None,
) -> Delivered:
    """Write a stored network as a file that runs without this program.

    The file is compared with the network, and tells its preprocessing and the names of its classes
    in its metadata. Beside it lies a small program that names the class of an image.

    Args:
        folder: Folder of a stored network.
        format: onnx (ONNX Runtime and others), pt2 (PyTorch alone), torchscript, or safetensors
            (the weights alone).
        file: Where to; by default beside the folder.
        images: Folder or file of images to compare on; by default random ones.
        batch: Images of every batch; by default any number.

    Example:
        metaprune export runs/my_network/speed_up_2/network --format onnx --images photos
    """
    if batch is not None and batch < 1:
        raise ConfigError(f"batch is {batch}: give a number of images of at least 1.")
    if format not in FORMATS:
        raise ConfigError(f"format: '{format}' is none of {', '.join(FORMATS)}.")
    kind = FORMATS[format]
    network, facts = load_network(folder), Facts.of(read_card(folder))
    path = Path(folder) if Path(folder).name else Path(folder).resolve()
    target = path.with_name(f"{path.name}{kind.suffix}") if file is None else Path(file)
    return deliver(
        network,
        facts,
        kind,
        target,
        batch=batch,
        images=None if images is None else Path(images),
    )
