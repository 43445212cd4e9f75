"""What a network expects of its images, as far as it or its library tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from metaprune_pl.networks.preprocessing import Preprocessing
from metaprune_pl.networks.storage import NetworkCard

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a network expects.

    Attributes:
        size: Pixels of both sides; None where nobody tells.
        preprocessing: Mean and deviation that are taken off and divided by.
        source: Who tells, for people.
    """

    size: int | None
    preprocessing: Preprocessing | None
    source: str


def expected(network: nn.Module, card: NetworkCard) -> Expected:
    """Return what a network expects of its images.

    Args:
        network: The network.
        card: Its card.
    """
    if card.preprocessing is not None:
        return Expected(
            size=card.image_shape[-1],
            preprocessing=card.preprocessing,
            source="stored with the network",
        )
    config = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)
    if isinstance(config, Mapping) and config.get("mean") and config.get("std"):
        return _timm(config)
    library, _, name = card.settings.builder.partition("/")
    if library == "torchvision" and (told := _torchvision(name)) is not None:
        return told
    return Expected(
        size=None, preprocessing=_imagenet(card), source="ImageNet's, as nothing else is known"
    )


def _timm(config: Mapping[str, Any]) -> Expected:
    told = Preprocessing(mean=tuple(config["mean"]), std=tuple(config["std"]))
    shape = config.get("input_size") or (3, None, None)
    return Expected(size=shape[-1], preprocessing=told, source="timm's configuration")


def _torchvision(name: str) -> Expected | None:
    from torchvision import models

    weights = models.get_model_weights(name)
    if not len(weights):
        return None
    transforms = next(iter(weights)).transforms()
    size = getattr(transforms, "crop_size", None)
    if size is None:
        return None
    told = Preprocessing(mean=tuple(transforms.mean), std=tuple(transforms.std))
    return Expected(size=size[0], preprocessing=told, source="torchvision's configuration")


def _imagenet(card: NetworkCard) -> Preprocessing | None:
    """Return the usual mean and deviation of photographs; None for other than three channels."""
    if card.image_shape[0] != len(IMAGENET_MEAN):
        return None
    return Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
