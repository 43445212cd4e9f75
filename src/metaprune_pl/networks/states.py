"""Weights from files of other programs: plain tensors, under any names."""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from metaprune_pl.errors import StorageError
from metaprune_pl.files import check_file
from metaprune_pl.networks.widths import put_state

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
"""Keys under which programs keep a network's state."""
_ARGUMENTS = "Are the arguments those that it was made with?"
_LARGER = 8
"""How much larger than the network a file of its state may be (optimizer, averages)."""
DAMAGED = (
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    MemoryError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)
"""What `torch.load` raises for a file that is damaged, or that `torch.save` has not written."""


def read_state(path: str | Path, network: nn.Module) -> dict[str, Tensor]:
    """Read a state dict from a file of safetensors or `torch.save`, unpickling no code.

    Wrappers such as `{"state_dict": ...}` are taken off.

    Args:
        path: File.
        network: What the state is for: a far larger file is not read.

    Raises:
        StorageError: The file is missing, damaged, far larger than the network, or holds no plain
            state dict.
    """
    file = Path(path)
    if not file.exists():
        raise StorageError(f"no file '{path}' with a network's state.")
    size = sum(value.numel() for value in network.state_dict().values())
    largest = 2**26 + _LARGER * 8 * size
    check_file(file, largest)
    try:
        if file.suffix == ".safetensors":
            data: Any = dict(sorted(load_file(file).items(), key=lambda item: _natural(item[0])))
        else:
            check_unpacked(file, largest)
            _check_program(file)
            data = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StorageError(
            f"'{path}' holds more than tensors and plain values; it is not loaded. Store the "
            "network's state_dict()."
        ) from error
    except (SafetensorError, OSError, *DAMAGED) as error:
        raise StorageError(f"'{path}' is damaged, or no file of a network's state.") from error
    state = _unwrapped(data, path)
    if not state:
        keys = [f"{key!r:.40}" for key in list(data)[:5]] if isinstance(data, Mapping) else []
        raise StorageError(
            f"'{path}' holds no state dict, names with tensors, but "
            f"{', '.join(keys) or type(data).__name__}. Store the network's state_dict()."
        )
    _check_plain(state, path)
    return state


def _check_program(file: Path) -> None:
    """Refuse what `torch.jit.save` has written."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise StorageError(
            f"'{file}' is a TorchScript program. Store the state_dict() of the network that it was "
            "made from."
        )


def _check_plain(state: Mapping[Any, Tensor], path: str | Path) -> None:
    """Refuse what is no dense tensor with a name."""
    for name, value in state.items():
        if not isinstance(name, str):
            raise StorageError(f"'{path}' names a tensor {name!r:.40}, which is no text.")
        odd = value.is_meta or value.is_quantized or value.is_nested or value.is_complex()
        if value.layout != torch.strided or odd:
            kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
            raise StorageError(
                f"'{name}' of '{path}' is no plain tensor ({kind}, {value.dtype}, {value.device}). "
                "Store dense tensors of floating-point numbers."
            )


def check_unpacked(file: Path, largest: float) -> None:
    """Refuse an archive that unpacks to more than is expected, by what its directory says.

    Raises:
        StorageError: It would have more than `largest` bytes.
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > largest:
        raise StorageError(
            f"'{file}' unpacks to {unpacked} bytes, and {largest:.0f} at most are expected. Store "
            "what it holds again, by torch.save."
        )


def _unwrapped(data: Any, path: str | Path) -> dict[Any, Tensor]:
    """Take off wrappers, of which a file may have a few, and leave the tensors."""
    for _ in range(8):
        if not isinstance(data, Mapping):
            return {}
        keys = [key for key in WRAPPERS if isinstance(data.get(key), Mapping)]
        if not keys:
            return _tensors(data)
        others = [key for key, value in data.items() if key != keys[0] and _tensors(value)]
        if others:
            _tell_several(str(path), keys[0], ", ".join(f"'{key}'" for key in others))
        data = data[keys[0]]
    return {}


def _tensors(data: Any) -> dict[Any, Tensor]:
    items = data.items() if isinstance(data, Mapping) else ()
    return {name: value for name, value in items if isinstance(value, Tensor)}


@cache
def _tell_several(path: str, key: str, others: str) -> None:
    rank_zero_info(
        f"'{path}' holds several states: '{key}' is taken, and not {others}. For another one, "
        "store it alone in a file."
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 10 behind layer 9; safetensors files have lost their order."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a state into a network, under other names if need be.

    Leading parts of a path that all names share (`module.`) are taken off. Modules of the same path
    go together; those that are left on both sides go together in their order, each with the same
    tensors of the same shapes.

    Raises:
        StorageError: The state does not fit.
    """
    own = network.state_dict()
    theirs = _modules(_stripped(state, own))
    ours = _modules(own)
    left = [path for path in ours if path not in theirs]
    left_theirs = [path for path in theirs if path not in ours]
    pairs = [(path, path) for path in ours if path in theirs]
    pairs += zip(left, left_theirs, strict=False)
    for mine, other in pairs:
        if _shapes(ours[mine]) != _shapes(theirs[other]):
            raise StorageError(
                f"the state does not fit the network: '{mine}' has {_text(ours[mine])}, and "
                f"'{other}' of the file has {_text(theirs[other])}. {_ARGUMENTS}"
            )
        _check_numbers(ours[mine], theirs[other], other)
    _check_missing("file", ours, left[len(left_theirs) :])
    _check_missing("network", theirs, left_theirs[len(left) :])
    new: dict[str, Tensor] = {}
    for mine, other in pairs:
        for leaf, value in theirs[other].items():
            name = f"{mine}.{leaf}".lstrip(".")
            if name in own:
                new[name] = value
    put_state(network, new)


def _check_numbers(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], module: str) -> None:
    """Refuse whole numbers in place of others, and the other way round."""
    for leaf in ours.keys() & theirs.keys():
        own, other = ours[leaf], theirs[leaf]
        if own.is_floating_point() != other.is_floating_point():
            raise StorageError(
                f"the state does not fit the network: '{module}.{leaf}' of the file is "
                f"{other.dtype}, and in the network {own.dtype}. Store the network's state_dict()."
            )


def _check_missing(
    side: str, modules: Mapping[str, Mapping[str, Tensor]], missing: Sequence[str]
) -> None:
    """Refuse modules that the other side has nothing for.

    Args:
        side: The other side.
        modules: Tensors of all modules.
        missing: Paths of modules without a partner.

    Raises:
        StorageError: There are some.
    """
    if missing:
        raise StorageError(
            f"the state does not fit the network: the {side} has nothing for '{missing[0]}' "
            f"({_text(modules[missing[0]])}). {_ARGUMENTS}"
        )


def not_finite(network: nn.Module) -> set[str]:
    """Return the names of a network's parameters and buffers that hold NaN or infinity."""
    state = network.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name for name, value in tensors.items() if not bool(value.isfinite().all())}


def diverged(network: nn.Module) -> str | None:
    """Name a tensor that holds NaN, or a parameter that holds infinity; a buffer may (a mask, say).

    Args:
        network: What is looked at.
    """
    parameters = dict(network.named_parameters())
    state = network.state_dict()
    broken = sorted(not_finite(network))
    return next((n for n in broken if n in parameters or bool(state[n].isnan().any())), None)


def check_finite(network: nn.Module, where: str) -> None:
    """Refuse a network whose training has diverged.

    Args:
        network: What is looked at.
        where: What it is called in the error.

    Raises:
        StorageError: A tensor holds NaN, or a parameter infinity.
    """
    if name := diverged(network):
        raise StorageError(
            f"{where} holds NaN or infinity ('{name}'): its training diverged. Train again with a "
            "lower learning rate."
        )


def _stripped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off leading parts that all names share and no name of the network has."""
    names = list(state)
    while names and len({name.partition(".")[0] for name in names}) == 1 and "." in names[0]:
        first = names[0].partition(".")[0]
        if any(name.partition(".")[0] == first for name in own) or not all(
            "." in name for name in names
        ):
            break
        names = [name.partition(".")[2] for name in names]
    return dict(zip(names, state.values(), strict=True))


def _modules(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by the path of their module and their name in it, in order."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        path, _, leaf = name.rpartition(".")
        modules.setdefault(path, {})[leaf] = value
    return modules


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Shapes of a module's tensors; old files have no counters of batches."""
    return {leaf: value.shape for leaf, value in tensors.items() if leaf != "num_batches_tracked"}


def _text(tensors: Mapping[str, Tensor]) -> str:
    """Name and shape of each tensor of a module, for errors."""
    shapes = {leaf: "x".join(map(str, value.shape)) for leaf, value in tensors.items()}
    return ", ".join(f"{leaf} {shape or 'one'}" for leaf, shape in shapes.items())
