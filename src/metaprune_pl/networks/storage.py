"""A network on disk: a folder of `weights.safetensors` and `network.json`. Nothing is unpickled.

`network.json` says how to build the network and the width of every layer, so that a pruned network
loads without its history.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from metaprune_pl.errors import StorageError
from metaprune_pl.files import whole_folder, write_json
from metaprune_pl.networks.create import NetworkSettings, create_network
from metaprune_pl.networks.names import check_harmless
from metaprune_pl.networks.widths import (
    all_tensors,
    layer_widths,
    set_attributes,
    set_tensors,
    size_attributes,
)

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """What is known of a stored network besides its weights.

    Attributes:
        settings: How to build it, unpruned.
        input_shape: Shape (C, H, W) of one image.
        record: Facts worth keeping: seed, accuracies, speed-up.
        layers: Shape of every parameter and buffer as stored; filled in by `save_network`.
        frozen: Parameters that require no gradient; filled in by `save_network`.
        attributes: Whole numbers that modules keep as attributes (`hidden_dim`, `head_dim`), by the
            module's path; filled in by `save_network`.
        masked: Weights whose zeros are a mask's: training keeps them zero.
    """

    settings: NetworkSettings
    input_shape: tuple[int, int, int]
    record: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, list[int]] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    attributes: dict[str, dict[str, int | list[int]]] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)


def save_network(folder: str | Path, network: nn.Module, card: NetworkCard) -> NetworkCard:
    """Store a network, dense or pruned, in a folder that appears whole or not at all.

    Returns:
        The card as stored, with the widths of the layers.
    """
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    card = replace(
        card,
        settings=card.settings.without_downloads(),
        layers=layer_widths(network),
        frozen=frozen,
        attributes=size_attributes(network),
    )
    with whole_folder(Path(folder)) as new:
        tensors = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in all_tensors(network).items()
        }
        save_file(tensors, new / "weights.safetensors")
        write_json(new / "network.json", {"format": FORMAT, **asdict(card)})
    return card


def read_card(folder: str | Path) -> NetworkCard:
    """Read `network.json` of a stored network.

    Raises:
        StorageError: The folder holds no network, or one of a newer program.
    """
    path = Path(folder) / "network.json"
    try:
        data = json.loads(path.read_text())
        if data.pop("format") > FORMAT:
            raise StorageError(f"{path} was written by a newer metaprune. Update this one.")
        settings = NetworkSettings(**data.pop("settings"))
        channels, height, width = data.pop("input_shape")
        return NetworkCard(settings=settings, input_shape=(channels, height, width), **data)
    except (FileNotFoundError, NotADirectoryError):
        results = sorted(
            Path(folder).glob("*/network/network.json"), reverse=True
        )  # speed_up_2 before finetuned
        inside = [*results, *sorted(Path(folder).glob("*/network.json"))]
        hint = (
            f"Did you mean '{inside[0].parent}'?"
            if inside
            else "`metaprune fit` and `metaprune prune` make networks."
        )
        if [*Path(folder).glob("metanetwork.json"), *Path(folder).glob("*/metanetwork.json")]:
            hint = "It is a metanetwork's: name that as metanetwork."
        raise StorageError(
            f"no stored network in '{folder}': it has no network.json. {hint}"
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is damaged ({error}). Make the network again.") from error


def load_network(folder: str | Path) -> nn.Module:
    """Load a stored network, dense or pruned, in evaluation mode on the CPU.

    Raises:
        StorageError: The folder holds no network, its files do not fit each other, or its builder
            is not to be called.
        NetworkError: The network cannot be built.
    """
    card = read_card(folder)
    check_harmless(card.settings.builder)
    network = create_network(card.settings.builder, **card.settings.arguments)
    path = Path(folder) / "weights.safetensors"
    try:
        tensors = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise StorageError(f"cannot read {path}: {error}. Make the network again.") from error
    if {name: list(value.shape) for name, value in tensors.items()} != card.layers:
        raise StorageError(f"{path} does not hold the widths that network.json beside it names.")
    set_tensors(network, tensors)
    set_attributes(network, card.attributes)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in card.frozen)
    return network.eval()
