"""What was measured of networks, and what it cost, as dataclasses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from metaprune_pl.reports.curves import Curve, Selection


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """One network pruned to one target.

    Attributes:
        network: Name of the network.
        method: `none`, `sparsity_learning` or `metanetwork`.
        target: Speed-up asked for.
        speed_up: Speed-up reached: multiply-accumulates of the unpruned network over those of this
            one.
        macs: Multiply-accumulates for one image.
        parameters: Number of parameters.
        accuracy_given: Test accuracy of the network as it was given.
        accuracy_before: Test accuracy straight before pruning.
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
    accuracy_given: float
    accuracy_before: float
    accuracy_pruned: float
    accuracy_finetuned: float
    latency: Mapping[str, float] = field(default_factory=dict)
    latency_unpruned: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracies(self) -> tuple[float, float, float, float]:
        """Test accuracies in the order of the pipeline."""
        return (
            self.accuracy_given,
            self.accuracy_before,
            self.accuracy_pruned,
            self.accuracy_finetuned,
        )


@dataclass(frozen=True, kw_only=True)
class Detected:
    """One detector, with its backbone as it was or pruned.

    Attributes:
        method: `origin`, `none` or `metanetwork`.
        target: Speed-up of the backbone asked for; 1 of the origin.
        speed_up: Speed-up of the backbone reached: multiply-accumulates of the unpruned one over
            those of this one.
        macs: Multiply-accumulates of the backbone for one image.
        parameters: Number of parameters of the whole detector.
        milliseconds: Measured time of the whole detector for one image.
        milliseconds_unpruned: The same of the detector before pruning, measured right after.
        precision: Mean average precision on the test images over overlaps of 0.5 to 0.95, as COCO
            defines it.
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
        target: Share of the weights of convolutions and linear layers that become zero, or a
            pattern `N:M`.
        left: Share of all parameters that are not zero.
        parameters: Number of all parameters.
        dense: Weights that a pattern leaves whole, as M does not divide their input channels.
        accuracy_given: Test accuracy of the network as it was given.
        accuracy_before: Test accuracy straight before masking.
        accuracy_masked: Test accuracy straight after masking.
        accuracy_finetuned: Test accuracy after masking and finetuning.
    """

    network: str
    method: str
    target: str
    left: float
    parameters: int
    dense: Sequence[str]
    accuracy_given: float
    accuracy_before: float
    accuracy_masked: float
    accuracy_finetuned: float

    @property
    def accuracies(self) -> tuple[float, float, float, float]:
        """Test accuracies in the order of the pipeline."""
        return (
            self.accuracy_given,
            self.accuracy_before,
            self.accuracy_masked,
            self.accuracy_finetuned,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs.

    Attributes:
        seconds: Wall-clock time, those of processes that share the work added up.
        images: Training images, counted each time that one went forward and backward through a
            network.
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
            seconds=self.seconds + other.seconds,
            images=self.images + other.images,
            host_bytes=max(self.host_bytes, other.host_bytes),
            device_bytes=max(self.device_bytes, other.device_bytes),
        )

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
