"""A network on disk: a folder of `weights.safetensors` and `network.json`. Nothing is unpickled.

`network.json` says how to build the network and the width of every layer, so that a pruned network
loads without its history.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, StorageError
from metaprune_pl.files import check_file, read_json, whole_folder, write_json, write_tensors
from metaprune_pl.networks.bounds import Bounded, memory
from metaprune_pl.networks.create import DOWNLOADS, NetworkSettings, create_network
from metaprune_pl.networks.examples import Example
from metaprune_pl.networks.inputs import Shape, example_of, numbers_in
from metaprune_pl.networks.preprocessing import Preprocessing
from metaprune_pl.networks.states import check_finite
from metaprune_pl.networks.trust import named_code, refuse_unknown, trust
from metaprune_pl.networks.widths import (
    all_tensors,
    layer_widths,
    set_attributes,
    set_tensors,
    size_attributes,
)
from metaprune_pl.records import as_record

FORMAT = 1
TRAINED = "test_accuracy_trained"
"""What a card's record calls the test accuracy of the network before any pruning."""
ACCURACIES = ("accuracy", "validation_accuracy")
"""What a card's record may call the accuracy of the network as it is."""
FETCHED = {*DOWNLOADS, "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}
"""Arguments that have a builder read other files: a stored network has none."""
LARGEST_IMAGE = 2**25
"""Numbers of one image at most."""
LARGER = 64
"""How many times larger than its weights an unpruned network may be."""


@dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """What is known of a stored network besides its weights.

    Attributes:
        settings: How to build it, unpruned.
        input_shape: Shape of one input, (C, H, W) of an image; or a text of several inputs.
        record: Facts worth keeping: seed, accuracies, speed-up.
        layers: Shape of every parameter and buffer as stored; filled in by `save_network`.
        frozen: Parameters that require no gradient; filled in by `save_network`.
        attributes: Whole numbers that modules keep as attributes (`hidden_dim`, `head_dim`), by the
            module's path; filled in by `save_network`.
        masked: Weights whose zeros are a mask's: training keeps them zero.
        preprocessing: What is done to images before it reads them; None where nobody has told.
    """

    settings: NetworkSettings
    input_shape: Shape
    record: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, list[int]] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    attributes: dict[str, dict[str, int | float | list[int]]] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)
    preprocessing: Preprocessing | None = None

    def without_accuracies(self) -> "NetworkCard":
        """Return the card for other weights, whose accuracy nobody has measured."""
        kept = {name: fact for name, fact in self.record.items() if name not in ACCURACIES}
        return replace(self, record=kept)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image.

        Raises:
            ConfigError: The network takes something else.
        """
        if isinstance(self.input_shape, str):
            raise ConfigError(
                f"the network takes '{self.input_shape}', and this command is for networks of "
                "images: `metaprune prune_task` prunes others."
            )
        return self.input_shape

    def example(self, device: torch.device | str | None = None) -> Example:
        """Return an input as a batch of one: see `example_of`."""
        return example_of(self.input_shape, device)


def save_network(folder: str | Path, network: nn.Module, card: NetworkCard) -> NetworkCard:
    """Store a network, dense or pruned, in a folder that appears whole or not at all.

    Returns:
        The card as stored, with the widths of the layers.

    Raises:
        StorageError: The network holds NaN or infinity, or the folder cannot be written, or holds
            something else than a stored network.
    """
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    card = replace(
        card,
        settings=card.settings.without_downloads(),
        layers=layer_widths(network),
        frozen=frozen,
        attributes=size_attributes(network),
    )
    check_finite(network, f"the network for '{folder}'")
    with whole_folder(Path(folder)) as new:
        tensors = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in all_tensors(network).items()
        }
        write_tensors(new / "weights.safetensors", tensors)
        write_json(new / "network.json", {"format": FORMAT, **asdict(card)})
    return card


def read_card(
    folder: str | Path, *, builder: Callable[..., nn.Module] | None = None
) -> NetworkCard:
    """Read `network.json` of a stored network.

    Args:
        folder: Where it is.
        builder: What builds it, where that is the person's own: what the file names is then not
            imported.

    Raises:
        StorageError: The folder holds no network, or one of a newer program, or names code as its
            builder that nobody has named in this process.
    """
    path = Path(folder) / "network.json"
    data = _read_plain(path)
    _check_settings(data.get("settings"), path, builder)
    card = as_record(NetworkCard, data, path)
    _check_shape(card.input_shape, path)
    if unknown := sorted({*card.frozen, *card.masked} - card.layers.keys()):
        raise StorageError(f"{path} is damaged (there is no weight '{unknown[0]}').")
    return card


def _read_plain(path: Path) -> dict[str, Any]:
    """Read `network.json` as plain values, without its format."""
    if not path.exists():
        raise StorageError(
            f"no stored network in '{path.parent}': it has no network.json. {_hint(path.parent)}"
        )
    data = read_json(path)
    version = data.pop("format", None) if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise StorageError(
            f"{path} is damaged (it has no format that there is). Make the network again."
        )
    if version > FORMAT:
        raise StorageError(f"{path} was written by a newer metaprune. Update this one.")
    assert isinstance(data, dict)
    return data


def check_stored(folder: Path) -> None:
    """Refuse a stored network that is not whole; nothing is built.

    Raises:
        StorageError: A file is missing or damaged, or they do not fit each other.
    """
    card = _read_plain(folder / "network.json")
    path = folder / "weights.safetensors"
    if stored_shapes(path) != card.get("layers"):
        raise StorageError(f"{path} does not hold the widths that network.json beside it names.")


def _check_shape(shape: Shape, path: Path) -> None:
    """Refuse an input that is none, or too large to be made."""
    try:
        small = bool(shape) and 0 < numbers_in(shape) <= LARGEST_IMAGE
    except ConfigError as error:
        raise StorageError(f"{path} is damaged ({error})") from error
    if not small or (isinstance(shape, tuple) and min(shape) < 1):
        raise StorageError(f"{path} is damaged (input_shape is {shape}).")


def _check_settings(settings: Any, path: Path, builder: Callable[..., nn.Module] | None) -> None:
    """Look at what a file would have built before anything of it is imported."""
    values = settings if isinstance(settings, dict) else {}
    name = values.get("builder")
    arguments = values.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise StorageError(f"{path} is damaged (settings is {settings}). Make the network again.")
    if builder is not None and ":" in name:
        trust(name, builder)
    for code in named_code(name, arguments):
        refuse_unknown(code, str(path))
    if fetched := sorted(FETCHED & arguments.keys()):
        raise StorageError(f"{path} is damaged (argument '{fetched[0]}'). Make the network again.")


def _hint(folder: Path) -> str:
    results = sorted(folder.glob("*/network/network.json"), reverse=True)
    inside = [*results, *sorted(folder.glob("*/network.json"))]  # speed_up_2 before finetuned
    if [*folder.glob("metanetwork.json"), *folder.glob("*/metanetwork.json")]:
        return "It is a metanetwork's: name that as metanetwork."
    if inside:
        return f"Did you mean '{inside[0].parent}'?"
    return "`metaprune fit` and `metaprune prune` make networks."


def load_network(
    folder: str | Path, *, builder: Callable[..., nn.Module] | None = None
) -> nn.Module:
    """Load a stored network, dense or pruned, in evaluation mode on the CPU.

    Args:
        folder: Where it is.
        builder: Your own function that builds it, where the network is not one of metaprune's,
            torchvision's or timm's: code that a file names is not imported.

    Raises:
        StorageError: The folder holds no network, its files do not fit each other or are far larger
            or smaller than they say, its weights are not finite, or its builder must not be called.
        NetworkError: The network cannot be built.
        ConfigError: The builder is no function.
    """
    if builder is not None and not callable(builder):
        raise ConfigError(f"builder is {builder!r}: give the function itself, as in builder=build.")
    card = read_card(folder, builder=builder)
    path = Path(folder) / "weights.safetensors"
    shapes = stored_shapes(path)
    if shapes != card.layers:
        raise StorageError(f"{path} does not hold the widths that network.json beside it names.")
    bounds = Bounded(
        str(path.with_name("network.json")),
        largest=min(memory(), LARGER * path.stat().st_size + 2**30),
        operations=10_000 + 100 * len(shapes),
    )
    with bounds:
        network = create_network(card.settings.builder, **card.settings.arguments)
    tensors = load_file(path)
    _check_types(network, tensors, path)
    set_tensors(network, tensors)
    set_attributes(network, card.attributes)
    check_finite(network, str(path))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in card.frozen)
    return network.eval()


def stored_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shapes of a safetensors file's tensors, without reading these.

    Raises:
        StorageError: The file is missing, damaged, or larger than this machine's memory.
    """
    check_file(path, memory())
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise StorageError(f"cannot read {path}: {error}. Make the network again.") from error


def _check_types(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, own in all_tensors(network).items():
        stored = tensors.get(name)
        if stored is not None and stored.is_floating_point() != own.is_floating_point():
            raise StorageError(
                f"cannot read {path}: '{name}' is {stored.dtype} there, and {own.dtype} in the "
                "network. Make the network again."
            )
