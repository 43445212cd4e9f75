"""A metanetwork on disk: a folder of `weights.safetensors` and `metanetwork.json`. Nothing is unpickled."""

import importlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metaprune_pl.errors import StorageError
from metaprune_pl.files import whole_folder, write_json
from metaprune_pl.metanetworks.base import Metanetwork


def save_metanetwork(folder: str | Path, metanetwork: Metanetwork, record: dict[str, Any]) -> None:
    """Store a metanetwork in a folder that appears whole or not at all.

    Args:
        folder: Where to.
        metanetwork: What to store.
        record: Facts worth keeping, such as the epoch and losses.
    """
    kind = type(metanetwork)
    card = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "arguments": metanetwork.arguments,
        "record": record,
    }
    with whole_folder(Path(folder)) as new:
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in metanetwork.state_dict().items()
        }
        save_file(tensors, new / "weights.safetensors")
        write_json(new / "metanetwork.json", card)


def stored_metanetworks(folder: str | Path) -> list[Path]:
    """Return the folders of all metanetworks in a folder, by name.

    Those of all epochs in their order.

    Raises:
        StorageError: There is none.
    """
    epochs = sorted(path.parent for path in Path(folder).glob("*/metanetwork.json"))
    if not epochs:
        depths = "metanetworks/*/metanetwork.json", "*/metanetworks/*/metanetwork.json"
        below = [path for depth in depths for path in sorted(Path(folder).glob(depth))]
        hint = "`metaprune fit` with a config of meta-training makes one."
        if below:
            hint = f"Did you mean '{below[0].parents[1]}'?"
        raise StorageError(f"no metanetwork in '{folder}'. {hint}")
    return epochs


def find_metanetwork(folder: str | Path) -> Path:
    """Return the folder of a metanetwork: the given one, or the last epoch of those in it.

    Raises:
        StorageError: There is none.
    """
    folder = Path(folder)
    return folder if (folder / "metanetwork.json").is_file() else stored_metanetworks(folder)[-1]


def load_metanetwork(folder: str | Path) -> Metanetwork:
    """Load a metanetwork, or the last epoch of a folder of them, on the CPU.

    Raises:
        StorageError: There is none, or its files are damaged.
    """
    folder = find_metanetwork(folder)
    try:
        card = json.loads((folder / "metanetwork.json").read_text())
        module, _, name = card["class"].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, Metanetwork)):
            raise StorageError(
                f"{folder}/metanetwork.json names {card['class']}, which is no metanetwork."
            )
        metanetwork = kind(**card["arguments"])
        weights = load_file(folder / "weights.safetensors")
        shapes = {name: value.shape for name, value in metanetwork.state_dict().items()}
        if {name: value.shape for name, value in weights.items()} != shapes:
            raise ValueError("its weights do not fit its arguments")
        metanetwork.load_state_dict(weights)
    except (
        LookupError,
        ValueError,
        TypeError,
        ImportError,
        AttributeError,
        OSError,
        SafetensorError,
    ) as error:
        raise StorageError(f"cannot read the metanetwork in '{folder}': {error}.") from error
    return metanetwork
