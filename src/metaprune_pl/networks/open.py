"""Whatever is named as a network, ready to use.

A stored one, or one by name with weights from a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from metaprune_pl.errors import ConfigError, StorageError
from metaprune_pl.networks.create import NetworkSettings, create_network
from metaprune_pl.networks.inputs import Shape
from metaprune_pl.networks.names import find_builder
from metaprune_pl.networks.states import load_state, not_finite, read_state
from metaprune_pl.networks.storage import NetworkCard, load_network, read_card


@dataclass(frozen=True, kw_only=True)
class NetworkSource:
    """Which network to take.

    Attributes:
        network: Folder of a stored network, or a name: cifar_resnet, torchvision/NAME, timm/NAME, a
            NAME that only one of these knows, or package.module:function of your own.
        arguments: Keyword arguments of the builder that is named, such as {pretrained: true} of
            timm.
        state: File of its weights: safetensors, or a state dict of torch.save.
    """

    network: str
    arguments: dict[str, Any] | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.network, str):
            kind = type(self.network).__name__
            raise ConfigError(
                f"network is a {kind}: give its name, or its folder, as text "
                "(metaprune_pl.save_network stores a network)."
            )
        if self.stored and (self.arguments or self.state is not None):
            raise ConfigError(
                f"'{self.network}' is a stored network: it takes no arguments and no state."
            )
        if not self.stored:
            self._settings(self.network)

    @property
    def stored(self) -> bool:
        """Whether the network is a folder; a path that is none and no name either counts as one."""
        path = Path(self.network)
        name = ":" in self.network or self.network.endswith(".py")
        looks_like_path = path.is_absolute() or self.network.count("/") > 1
        return path.is_dir() or (looks_like_path and not name)

    def look_up(self) -> None:
        """Refuse a network that there is not; nothing is built.

        Raises:
            NetworkError: There is no function of that name.
            StorageError: The folder holds no network.
        """
        if self.stored:
            read_card(self.network)
        else:
            find_builder(self.network)

    def _settings(self, builder: str) -> NetworkSettings:
        """Return what a builder is called with."""
        return NetworkSettings(builder=builder, arguments=dict(self.arguments or {}))

    def open(
        self,
        *,
        input_shape: Shape | None = None,
        channels: int | None = None,
        num_classes: int | None = None,
    ) -> tuple[nn.Module, NetworkCard]:
        """Return the network, in evaluation mode on the CPU, and its card.

        Args:
            input_shape: Shape of one input, for a network by name; None is what the network is
                known to be made for, or else 3x224x224.
            channels: Those of the images, where their shape is not known yet.
            num_classes: Number of classes of the data, for a builder that has this argument.

        Raises:
            NetworkError: The network cannot be built.
            StorageError: The folder or the state cannot be read, or do not fit, or the state holds
                NaN or infinity.
        """
        if self.stored:
            return load_network(self.network), read_card(self.network)
        settings = self._settings(find_builder(self.network)[0])
        if isinstance(input_shape, tuple):
            channels = input_shape[0]
        if channels is not None and num_classes is not None:
            settings = settings.for_data(num_classes, channels)
        network = create_network(settings.builder, seed=0, **settings.arguments).cpu().eval()
        state = None if self.state is None else read_state(self.state, network)
        if state is not None:
            meant = not_finite(network)  # a mask of an attention, say
            load_state(network, state)
            if broken := sorted(not_finite(network) - meant):
                raise StorageError(
                    f"'{broken[0]}' of '{self.state}' is not finite: NaN or infinity. Take an "
                    "earlier state."
                )
        name = self.network.replace(":", "/").rpartition("/")[2]
        shape = input_shape or usual_input(network)
        return network, NetworkCard(
            settings=settings.without_downloads(), input_shape=shape, record={"name": name}
        )


def usual_input(network: nn.Module) -> tuple[int, ...]:
    """Return the shape of images that a network is made for, 3x224x224 if it does not tell."""
    config = getattr(network, "default_cfg", None)  # timm's
    shape = (
        config.get("input_size")
        if isinstance(config, Mapping)
        else getattr(network, "input_size", None)
    )
    side = getattr(network, "image_size", 224)  # torchvision's transformers
    channels, height, width = (
        shape if isinstance(shape, tuple) and len(shape) == 3 else (3, side, side)
    )
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None else channels, height, width
