"""The public zoo of small CNNs (Unterthiner et al., 2020).

Its files are weights.npy, metrics.csv.gz and layout.csv.

A row of `weights.npy` holds the weights of a network in the order of TensorFlow, as `layout.csv`
says; the same row of `metrics.csv.gz` holds its settings and accuracy. Nothing is unpickled.
"""

import ast
import csv
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaprune_pl.errors import DataError
from metaprune_pl.files import check_file

FILES = "weights.npy", "metrics.csv.gz", "layout.csv"
_COLUMNS = "modeldir", "step", "test_accuracy", "config.activation"
_LAYERS = "features.0", "features.3", "features.6", "classifier"
"""Layers of `small_cnn` in the layout's order."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Networks of one activation.

    Attributes:
        state: Parameters of `small_cnn` by name, stacked, [n, ...].
        accuracy: [n].
        bases: Which training each is a snapshot of.
    """

    state: dict[str, Tensor]
    accuracy: Tensor
    bases: list[str]


def read_small_cnn_zoo(folder: Path, *, activation: str, step: int | None = 86) -> Rows:
    """Read the networks of one activation.

    Args:
        folder: Where the files are.
        activation: `relu` or `tanh`.
        step: Epoch of the snapshots; None takes all of them.

    Raises:
        DataError: A file is missing, damaged or of another layout, or no network is left.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise DataError(f"'{folder}' has no {name}: a small-CNN zoo has {', '.join(FILES)}.")
    metrics = list(_metrics(folder / FILES[1]))
    weights = _weights(folder / FILES[0], len(metrics))
    chosen = [
        index
        for index, row in enumerate(metrics)
        if row["config.activation"] == activation and step in (None, int(float(row["step"])))
    ]
    if not chosen:
        raise DataError(f"'{folder}' has no network with activation {activation} and step {step}.")
    values = torch.from_numpy(np.array(weights[chosen], dtype=np.float32))
    accuracy = torch.tensor([float(metrics[index]["test_accuracy"]) for index in chosen])
    if not values.isfinite().all():
        raise DataError(f"'{folder}' has networks whose weights are not finite.")
    state = dict(_parameters(folder / FILES[2], values))
    return Rows(state, accuracy, [metrics[index]["modeldir"] for index in chosen])


def _metrics(path: Path) -> Iterator[dict[str, str]]:
    try:
        with gzip.open(path, "rt", newline="") as file:
            for row in csv.DictReader(file):
                int(float(row["step"]))
                if not 0 <= float(row["test_accuracy"]) <= 1:
                    raise ValueError(f"test_accuracy {row['test_accuracy']} is not from 0 to 1")
                yield {name: row[name] for name in _COLUMNS}
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: it needs the columns {', '.join(_COLUMNS)} ({error}).") from error


def _weights(path: Path, rows: int) -> "np.memmap[tuple[int, ...], np.dtype[np.float32]]":
    check_file(path)
    try:
        weights = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(weights, np.memmap):
        raise DataError(f"{path} holds several arrays; one is expected.")
    if weights.ndim != 2 or len(weights) != rows or weights.dtype.kind != "f":
        raise DataError(
            f"{path} holds {weights.dtype} of shape {list(weights.shape)}; a row of numbers for "
            f"each of the {rows} rows of metrics.csv.gz is expected."
        )
    return weights


def _parameters(path: Path, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Cut rows into parameters: kernels from height, width, inputs, outputs to ours."""
    unknown = f"{path}: the layout is not that of small_cnn"
    try:
        with path.open(newline="") as file:
            parts = [
                (int(row["start_idx"]), int(row["end_idx"]), ast.literal_eval(row["shape"]))
                for row in csv.DictReader(file)
            ]
        kinds = {1: "bias", 2: "weight", 4: "weight"}
        kinds_of = [kinds[len(shape)] for _, _, shape in parts]
        if kinds_of != ["bias", "weight"] * 4 or parts[-1][1] != values.shape[1]:
            raise DataError(f"{unknown}: a bias and a kernel for each of four layers are expected.")
        ends = [0, *(end for _, end, _ in parts)]
        if [start for start, _, _ in parts] != ends[:-1] or ends != sorted(ends):
            raise DataError(f"{unknown}: each part begins where the one before ends.")
        for index, (start, end, shape) in enumerate(parts):
            tensor = values[:, start:end].reshape(-1, *shape)
            order = {1: (0, 1), 2: (0, 2, 1), 4: (0, 4, 3, 1, 2)}[len(shape)]
            yield f"{_LAYERS[index // 2]}.{kinds_of[index]}", tensor.permute(order).contiguous()
    except (
        KeyError,
        MemoryError,
        TypeError,
        ValueError,
        SyntaxError,
        RuntimeError,
        UnicodeError,
    ) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{unknown} ({reason}).") from error
