"""Results as dataclasses, and their way to JSON and CSV and back."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

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
        left: Share of them that are not zero.
    """

    speed_up: float
    accuracy: float
    macs: int
    parameters: int
    left: float = 1.0

    @property
    def compression(self) -> float:
        """Parameters over those that are not zero."""
        return 1 / self.left


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy over speed-up, or compression where weights are masked, without finetuning after it (paper, C.1).

    Attributes:
        network: Name of the network.
        method: `none`, `sparsity_learning` or `metanetwork`.
        split: Images that the accuracy is of.
        points: In the order of what it is over; the first is the network before pruning.
        over: What it is over.
    """

    network: str
    method: str
    split: str
    points: Sequence[CurvePoint]
    over: Literal["speed_up", "compression"] = "speed_up"

    @property
    def line(self) -> list[tuple[float, float]]:
        """Speed-up or compression, and accuracy, of each point."""
        return [(getattr(point, self.over), point.accuracy) for point in self.points]

    @property
    def area(self) -> float:
        """Mean accuracy over the curve's range of speed-ups or compressions: the area under it over its width."""
        (first, accuracy), (last, _) = self.line[0], self.line[-1]
        if last <= first:
            return accuracy
        return sum((x - w) * (a + b) / 2 for (w, a), (x, b) in pairwise(self.line)) / (last - first)

    def flat_region(self, drop: float) -> float:
        """Where accuracy first falls more than `drop` below the first point's, interpolated."""
        return self.reach_above(self.points[0].accuracy - drop)

    def reach_above(self, floor: float) -> float:
        """Where accuracy first falls below `floor`, interpolated; at least the first point's."""
        if self.line[0][1] < floor:
            return self.line[0][0]
        for (w, a), (x, b) in pairwise(self.line):
            if b < floor:
                return w + (x - w) * (a - floor) / (a - b)
        return self.line[-1][0]

    @classmethod
    def from_json(cls, path: Path) -> "Curve":
        """Read a curve that `write_json` wrote."""
        return cls.from_dict(read_json(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Curve":
        """Return the curve of its plain values."""
        return cls(**{**data, "points": [CurvePoint(**point) for point in data["points"]]})


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The choice of a metanetwork.

    Attributes:
        metanetwork: Folder of the one that was taken: the largest area under its validation curve.
        curves: Curves that were drawn, by epoch.
        candidates: Number of metanetworks there were to choose from.
        accuracy: Validation accuracy of the network before any metanetwork.
        target: Accuracy that the flat region was to keep.
        last_kept: Last epoch that keeps it, as far as curves were drawn; None if none does.
        milestone: Number of epochs after which accuracy is no longer kept, where to lower the learning rate of a new
            training; None if all keep it, or none.
    """

    metanetwork: str
    curves: Mapping[str, Curve]
    candidates: int
    accuracy: float
    target: float
    last_kept: str | None
    milestone: int | None

    @property
    def areas(self) -> dict[str, float]:
        """Area under each curve."""
        return {name: curve.area for name, curve in self.curves.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each curve."""
        return [
            {
                "epoch": name, "accuracy": curve.points[0].accuracy, "kept": curve.points[0].accuracy >= self.target,
                "area": curve.area, "chosen": name == Path(self.metanetwork).name,
            }
            for name, curve in self.curves.items()
        ]  # fmt: skip

    @property
    def reason(self) -> str:
        """Why this one was taken, and what the curves say of the learning rate."""
        name = Path(self.metanetwork).name
        if self.candidates == 1:
            accuracy = self.curves[name].points[0].accuracy
            return (
                f"{name} is the only one to choose from: {100 * accuracy:.2f} % of the validation images in the flat "
                f"region, area {self.areas[name]:.4f}."
            )
        found = (
            f"{name} has the largest area under its validation curve, {self.areas[name]:.4f}, of "
            f"{len(self.curves)} drawn of {self.candidates}. To keep {100 * self.target:.2f} % in the flat region "
            f"(before the metanetwork: {100 * self.accuracy:.2f} %) "
        )
        if self.last_kept is None:
            return found + "is too much for all of them: meta-train with a lower learning rate or sparsity weight."
        if self.milestone is None:
            return found + f"is possible up to the last, {self.last_kept}: longer meta-training may bring more."
        return (
            found + f"is possible up to {self.last_kept}: a new meta-training may lower its learning rate there, "
            f"`milestones: [{self.milestone}]`."
        )

    @classmethod
    def from_json(cls, path: Path) -> "Selection":
        """Read a choice that was written with its reason and areas."""
        data = {key: value for key, value in read_json(path).items() if key not in {"reason", "areas"}}
        return cls(**{**data, "curves": {name: Curve.from_dict(curve) for name, curve in data["curves"].items()}})


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
class Detected:
    """One detector, with its backbone as it was or pruned.

    Attributes:
        method: `origin`, `none` or `metanetwork`.
        target: Speed-up of the backbone asked for; 1 of the origin.
        speed_up: Speed-up of the backbone reached: multiply-accumulates of the unpruned one over those of this one.
        macs: Multiply-accumulates of the backbone for one image.
        parameters: Number of parameters of the whole detector.
        milliseconds: Measured time of the whole detector for one image.
        milliseconds_unpruned: The same of the detector before pruning, measured right after.
        precision: Mean average precision on the test images over overlaps of 0.5 to 0.95, as COCO defines it.
        precision_50: The same at an overlap of 0.5.
        precision_pruned: `precision` straight after pruning; None of the origin.
        precision_50_pruned: `precision_50` straight after pruning; None of the origin.
    """

    method: str
    target: float
    speed_up: float
    macs: int
    parameters: int
    milliseconds: float
    milliseconds_unpruned: float
    precision: float
    precision_50: float
    precision_pruned: float | None = None
    precision_50_pruned: float | None = None


@dataclass(frozen=True, kw_only=True)
class Masked:
    """One network whose weights were masked for one target.

    Attributes:
        network: Name of the network.
        method: How it was made ready: `none`, `sparsity_learning` or `metanetwork`.
        target: Share of the weights of convolutions and linear layers that become zero, or a pattern `N:M`.
        left: Share of all parameters that are not zero.
        parameters: Number of all parameters.
        dense: Weights that a pattern leaves whole, as M does not divide their input channels.
        accuracy_before: Test accuracy before masking.
        accuracy_masked: Test accuracy straight after masking.
        accuracy_finetuned: Test accuracy after masking and finetuning.
    """

    network: str
    method: str
    target: str
    left: float
    parameters: int
    dense: Sequence[str]
    accuracy_before: float
    accuracy_masked: float
    accuracy_finetuned: float


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
        pruned: One for each held-out network, method and speed-up.
        masked: One for each held-out network, method and share or pattern.
        choices: The choice of each metanetwork among those of all epochs, by method.
        costs: What each stage costs, once or for each network.
    """

    curves: list[Curve] = field(default_factory=list)
    pruned: list[Pruned] = field(default_factory=list)
    masked: list[Masked] = field(default_factory=list)
    choices: dict[str, Selection] = field(default_factory=dict)
    costs: list[StageCost] = field(default_factory=list)

    def add_cost(self, stage: str, method: str, cost: Cost, *, once: bool) -> None:
        """Add what a stage costs."""
        self.costs.append(StageCost(stage=stage, method=method, once=once, cost=cost))


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
