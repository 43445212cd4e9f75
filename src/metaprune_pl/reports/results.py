"""Results as dataclasses, and their way to JSON and CSV and back."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metaprune_pl.errors import StorageError
from metaprune_pl.networks.storage import write_text


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One pruned network on a curve.

    Attributes:
        speed_up: Multiply-accumulates of the unpruned network over those of this one.
        accuracy: Share of images classified correctly, without finetuning after pruning.
        macs: Multiply-accumulates for one image.
        parameters: Number of parameters.
    """

    speed_up: float
    accuracy: float
    macs: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy over speed-up, without finetuning after pruning (paper, C.1).

    Attributes:
        network: Name of the network.
        method: `none`, `sparsity_learning` or `metanetwork`.
        split: Images that the accuracy is of.
        points: In order of speed-up; the first is the network before pruning.
    """

    network: str
    method: str
    split: str
    points: Sequence[CurvePoint]

    @property
    def area(self) -> float:
        """Mean accuracy over the curve's range of speed-ups: the area under it over its width."""
        pairs = list(zip(self.points, self.points[1:], strict=False))
        width = self.points[-1].speed_up - self.points[0].speed_up
        if width <= 0:
            return self.points[0].accuracy
        return sum((b.speed_up - a.speed_up) * (a.accuracy + b.accuracy) / 2 for a, b in pairs) / width

    def flat_region(self, drop: float) -> float:
        """Largest speed-up before accuracy first falls more than `drop` below the first point's, interpolated."""
        floor = self.points[0].accuracy - drop
        for a, b in zip(self.points, self.points[1:], strict=False):
            if b.accuracy < floor:
                return a.speed_up + (b.speed_up - a.speed_up) * (a.accuracy - floor) / (a.accuracy - b.accuracy)
        return self.points[-1].speed_up

    @classmethod
    def from_json(cls, path: Path) -> "Curve":
        """Read a curve that `write_json` wrote."""
        data = read_json(path)
        return cls(**{**data, "points": [CurvePoint(**point) for point in data["points"]]})


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """One network pruned to one target.

    Attributes:
        network: Name of the network.
        method: `none`, `sparsity_learning` or `metanetwork`.
        target: Speed-up asked for.
        speed_up: Speed-up reached: multiply-accumulates of the unpruned network over those of this one.
        macs: Multiply-accumulates for one image.
        parameters: Number of parameters.
        accuracy_before: Test accuracy before pruning.
        accuracy_pruned: Test accuracy straight after pruning.
        accuracy_finetuned: Test accuracy after pruning and finetuning.
        latency: Measured milliseconds of a forward pass, by number of images in it.
        latency_unpruned: The same of the unpruned network in the same run.
    """

    network: str
    method: str
    target: float
    speed_up: float
    macs: int
    parameters: int
    accuracy_before: float
    accuracy_pruned: float
    accuracy_finetuned: float
    latency: Mapping[str, float]
    latency_unpruned: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs.

    Attributes:
        seconds: Wall-clock time, those of processes that share the work added up.
        images: Training images, counted each time that one went forward and backward through a network.
        host_bytes: Largest resident memory of the main process.
        device_bytes: Largest memory that tensors took on its GPU; 0 without one.
    """

    seconds: float = 0.0
    images: float = 0
    host_bytes: int = 0
    device_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Cost of two runs, one after the other."""
        return Cost(
            seconds=self.seconds + other.seconds, images=self.images + other.images,
            host_bytes=max(self.host_bytes, other.host_bytes), device_bytes=max(self.device_bytes, other.device_bytes),
        )  # fmt: skip

    def shared_by(self, networks: int) -> "Cost":
        """Cost for each of so many networks."""
        return replace(self, seconds=self.seconds / networks, images=self.images / networks)


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage of an experiment costs.

    Attributes:
        stage: Which.
        method: Whose; empty for what all metanetworks share.
        once: Whether it is spent once, and not for each network that is pruned.
        cost: How much.
    """

    stage: str
    method: str
    once: bool
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that an experiment measured.

    Attributes:
        curves: One for each held-out network and method.
        pruned: One for each held-out network, method and target.
        choice: The choice of the metanetwork: validation curve's area by metanetwork, and which was taken.
        costs: What each stage costs, once or for each network.
    """

    curves: Sequence[Curve]
    pruned: Sequence[Pruned]
    choice: Mapping[str, Any]
    costs: Sequence[StageCost] = ()


def write_json(path: Path, data: Any) -> None:
    """Write JSON that appears whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StorageError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}.") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; columns are the keys of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
