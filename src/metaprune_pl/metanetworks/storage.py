"""A metanetwork on disk: a folder of `weights.safetensors` and `metanetwork.json`.

Nothing is unpickled.
"""

from pathlib import Path
from typing import Any, TypeVar, overload

from safetensors import SafetensorError
from safetensors.torch import load_file

from metaprune_pl.errors import MetapruneError, StorageError
from metaprune_pl.files import by_number, whole_folder, write_json, write_tensors
from metaprune_pl.metanetworks.base import Metanetwork, Rewriter
from metaprune_pl.metanetworks.registry import metanetwork_class, name_of
from metaprune_pl.networks.bounds import Bounded
from metaprune_pl.networks.states import check_finite
from metaprune_pl.networks.storage import stored_shapes
from metaprune_pl.records import as_record, read_record

Head = TypeVar("Head", bound=Metanetwork)


def save_metanetwork(folder: str | Path, metanetwork: Metanetwork, record: dict[str, Any]) -> None:
    """Store a metanetwork in a folder that appears whole or not at all.

    Args:
        folder: Where to.
        metanetwork: What to store.
        record: Facts worth keeping, such as the epoch and losses.
    """
    card = {
        "class": name_of(type(metanetwork)),
        "arguments": metanetwork.arguments,
        "record": record,
    }
    check_finite(metanetwork, f"the metanetwork for '{folder}'")
    with whole_folder(Path(folder)) as new:
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in metanetwork.state_dict().items()
        }
        write_tensors(new / "weights.safetensors", tensors)
        write_json(new / "metanetwork.json", card)


def stored_metanetworks(folder: str | Path) -> list[Path]:
    """Return the folders of all metanetworks in a folder, by number.

    Those of all epochs in their order.

    Raises:
        StorageError: There is none.
    """
    there = (path.parent for path in Path(folder).glob("*/metanetwork.json"))
    epochs = sorted(there, key=by_number)
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


def epoch_of(folder: Path) -> int:
    """Return the epoch of meta-training that a stored metanetwork is of.

    Raises:
        StorageError: Its card does not say so.
    """
    path = folder / "metanetwork.json"
    card = read_record(dict[str, Any], path)
    record = as_record(dict[str, Any], card.get("record"), path)
    return as_record(int, record.get("epoch"), path)


@overload
def load_metanetwork(folder: str | Path) -> Rewriter: ...
@overload
def load_metanetwork(folder: str | Path, head: type[Head]) -> Head: ...
def load_metanetwork(folder: str | Path, head: type[Metanetwork] = Rewriter) -> Metanetwork:
    """Load a metanetwork, or the last epoch of a folder of them, on the CPU.

    Args:
        folder: Where it is.
        head: What it must be.

    Raises:
        StorageError: There is none of that head, or its files are damaged.
    """
    folder = find_metanetwork(folder)
    path = folder / "metanetwork.json"
    weights = folder / "weights.safetensors"
    card = read_record(dict[str, Any], path)
    name = as_record(str, card.get("class"), path)
    arguments = as_record(dict[str, Any], card.get("arguments"), path)
    shapes = stored_shapes(weights)
    bounds = Bounded(
        str(path), largest=2 * weights.stat().st_size + 2**20, operations=100 * len(shapes) + 1000
    )
    try:
        kind = metanetwork_class(name)
        if not issubclass(kind, head):
            raise ValueError(f"it is a {kind.__name__}, which is no {head.__name__}")
        with bounds:
            metanetwork = kind(**arguments)
        own = {name: list(value.shape) for name, value in metanetwork.state_dict().items()}
        if shapes != own:
            raise ValueError("its weights do not fit its arguments")
        metanetwork.load_state_dict(load_file(weights))
    except (
        MetapruneError,
        LookupError,
        ValueError,
        TypeError,
        RuntimeError,
        OSError,
        SafetensorError,
    ) as error:
        reason = str(error).rstrip(".")
        raise StorageError(f"cannot read the metanetwork in '{folder}': {reason}.") from error
    check_finite(metanetwork, str(weights))
    return metanetwork
