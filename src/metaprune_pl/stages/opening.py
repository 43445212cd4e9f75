"""A network for images, each of which may leave its size to the other."""

from dataclasses import replace

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
        return network, replace(card, preprocessing=data.preprocessing)
    network, card = source.open(channels=data.channels, num_classes=data.num_classes)
    follow(data, network, card)
    shape = card.input_shape if source.stored else data.input_shape
    return network, replace(card, input_shape=shape, preprocessing=data.preprocessing)


def follow(data: ImageDataModule, network: nn.Module, card: NetworkCard) -> None:
    """Have images be as a network expects them, where they leave that to it."""
    told = expected(network, card)
    given = told.preprocessing
    data.follow(told.size, None if given is None else (given.mean, given.std))
