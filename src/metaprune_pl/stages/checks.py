"""Whether a network and data go together, and how a mean over a whole set is logged."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkCard
from metaprune_pl.networks.examples import convert
from metaprune_pl.networks.inputs import shape_as_text

UNFIT = (
    RuntimeError,
    TypeError,
    ValueError,
    AssertionError,
    LookupError,
    AttributeError,
)
"""What a network may raise for an image that it was not made for."""


@torch.no_grad()
def check_fits(
    network: nn.Module, card: NetworkCard, data: object, *, more_classes: bool = False
) -> int:
    """Return how many classes a network tells apart; refuse data that it was not made for.

    Args:
        network: The network.
        card: Its card.
        data: The data.
        more_classes: Whether the network may tell more classes apart than there are.

    Raises:
        ConfigError: The data are no images, of another shape, or of other classes.
    """
    shape = shape_as_text(card.input_shape)
    if not isinstance(data, ImageDataModule):
        raise ConfigError(
            f"the network was made for images of {shape}; set data to a data set of such images."
        )
    if data.input_shape != card.input_shape:
        given = "x".join(map(str, data.input_shape))
        raise ConfigError(
            f"the network was made for images of {shape} and the data's are {given}; set data to "
            "a data set of such images, or the image_size of a folder's."
        )
    training = network.training
    classes = _count_classes(network.eval(), card)
    network.train(training)
    if classes < data.num_classes or (classes > data.num_classes and not more_classes):
        raise ConfigError(
            f"the network tells {classes} classes apart and the data have {data.num_classes}."
        )
    return classes


def _count_classes(network: nn.Module, card: NetworkCard) -> int:
    """Return K of the scores [1, K] that a network makes of an image."""
    weight = next(network.parameters(), torch.zeros(()))
    image = convert(card.example(weight.device), lambda x: x.to(weight.dtype))
    try:
        return int(network(image).shape[1])
    except UNFIT as error:
        shape = shape_as_text(card.input_shape)
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the network does not turn an image of {shape} into scores [1, K]: {reason}. "
            f"{_way_out(network, card)}"
        ) from error


def _way_out(network: nn.Module, card: NetworkCard) -> str:
    """Say what may be wrong with the images."""
    first = next((each for each in network.modules() if isinstance(each, nn.Conv2d)), None)
    shape = card.input_shape
    if first is None or isinstance(shape, str) or first.in_channels == shape[0]:
        return "Is it the size (image_size of the data) that the network was made for?"
    return (
        f"It reads {first.in_channels} channels: take such images (grayscale of a folder's), or "
        f"build it for {shape[0]}."
    )


def check_smoothing(label_smoothing: float) -> None:
    """Refuse a share of the label that makes no sense.

    Raises:
        ConfigError: It is not at least 0 and below 1.
    """
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"label_smoothing is {label_smoothing}: it is at least 0 and below 1.")


def whole_set(module: LightningModule, count: int) -> dict[str, Any]:
    """Return options of `log` for a mean over all images of a set.

    A device has seen `count` of them.

    Lightning averages the devices' numbers of images as whole numbers, and rounds; multiples of the
    number of devices come out right.
    """
    return {
        "on_epoch": True,
        "on_step": False,
        "sync_dist": True,
        "batch_size": count * module.trainer.world_size,
    }
