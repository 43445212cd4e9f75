"""A network for images, each of which may leave its size to the other."""

from dataclasses import replace
from functools import cache

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.networks import NetworkCard, NetworkSource
from metaprune_pl.networks.expected import expected


def open_for(source: NetworkSource, data: ImageDataModule) -> tuple[nn.Module, NetworkCard]:
    """Open a network for images; what these leave to the network they take from it.

    Args:
        source: The network.
        data: The images.

    Returns:
        The network, in evaluation mode on the CPU, and its card.

    Raises:
        DataError: The images are missing or cannot be read.
        NetworkError: The network cannot be built.
        StorageError: The folder or the state cannot be read.
    """
    if not data.follows_network:
        network, card = source.open(input_shape=data.input_shape, num_classes=data.num_classes)
        return network, named_as(card, data)
    network, card = source.open(channels=data.channels, num_classes=data.num_classes)
    follow(data, network, card)
    shape = card.input_shape if source.stored else data.input_shape
    return network, named_as(replace(card, input_shape=shape), data)


def named_as(card: NetworkCard, data: ImageDataModule) -> NetworkCard:
    """Return a network's card with what is done to images; tell of classes of other names.

    Args:
        card: The card.
        data: The images.
    """
    known = card.preprocessing.classes if card.preprocessing else []
    renamed = [pair for pair in zip(known, data.class_names, strict=False) if len({*pair}) > 1]
    if renamed:
        said = ", ".join(f"'{old}' -> '{new}'" for old, new in renamed[:3])
        _tell_renamed(f"{said}{', ...' if renamed[3:] else ''}")
    return replace(card, preprocessing=data.preprocessing)


@cache
def _tell_renamed(pairs: str) -> None:
    rank_zero_info(
        f"Classes of the network have other names in the images: {pairs}. What comes of it has "
        "the names of the images; check that these are the same classes, in the same order."
    )


def follow(data: ImageDataModule, network: nn.Module, card: NetworkCard) -> None:
    """Have images be as a network expects them, where they leave that to it."""
    told = expected(network, card)
    given = told.preprocessing
    data.follow(told.size, None if given is None else (given.mean, given.std))
