"""`detect`: from classification to detection (paper, F.4).

A detector is trained; then, for each method, (metanetwork,) finetune, prune the backbone, finetune.
"""

import copy
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metaprune_pl.data import VOC
from metaprune_pl.metanetworks.rewriting import rewrite
from metaprune_pl.networks import NetworkCard, NetworkSource, load_network, read_card
from metaprune_pl.pipelines.prepare import examine_for, store, train_once
from metaprune_pl.pipelines.pruning_loop import Task, prune_to_targets
from metaprune_pl.pruning import (
    Importance,
    Magnitude,
    PruningSettings,
    Target,
    Unpruned,
    count_macs,
    count_parameters,
    measure_latencies,
)
from metaprune_pl.pruning.pruner import Pruner
from metaprune_pl.pruning.recovery import Recovery, RepairSettings, Statistics
from metaprune_pl.pruning.targets import (
    ChannelTarget,
    PrunedNetwork,
    check_speed_ups,
    speed_up_targets,
)
from metaprune_pl.reports import Detected, write_json
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context
from metaprune_pl.stages import DetectorTraining
from metaprune_pl.stages.detection import average_precision, check_detector
from metaprune_pl.stages.training_settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """Which detector is trained and pruned, and how.

    Attributes:
        network: `faster_rcnn`, or the folder of a stored detector.
        arguments: Keyword arguments of `faster_rcnn`, and of the builder of its backbone.
        metanetwork: Folder of a metanetwork (or of several: the last is taken); None prunes without
            one alone.
        speed_ups: Targets: multiply-accumulates of the unpruned backbone over those of the result,
            increasing.
        criterion: Which channels matter.
        pruning: Steps and floors.
        training: Training of the detector; 0 epochs take a stored one as it is.
        finetune: Finetuning before pruning, with and without metanetwork.
        finetune_after: Finetuning after pruning.
        statistics: Images that the backbone's batch-norm statistics, frozen ones too, are
            re-estimated on after the metanetwork and after pruning; `stale` leaves them.
        repair: Images by which the layers of the pruned backbone learn what they gave before; they
            are all in memory at once. None is no repair.
    """

    network: str = "faster_rcnn"
    arguments: dict[str, Any] = field(default_factory=dict)
    metanetwork: str | None = None
    speed_ups: list[float] = field(default_factory=lambda: [2.5])
    criterion: Importance = field(default_factory=Magnitude)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    finetune: TrainingSettings = field(default_factory=TrainingSettings)
    finetune_after: TrainingSettings = field(default_factory=TrainingSettings)
    statistics: Statistics = "stale"
    repair: RepairSettings | None = None

    def __post_init__(self) -> None:
        check_speed_ups(self.speed_ups)


def detect(context: Context, data: VOC, *, detection: DetectionSettings) -> list[Detected]:
    """Train a detector, and prune its backbone with and without a metanetwork.

    Args:
        context: Where to run.
        data: Images with objects.
        detection: What to run.

    Example:
        metaprune detect --config detection_resnet50_voc.yaml
    """
    data.count("train")
    source = NetworkSource(network=detection.network, arguments=detection.arguments)
    detector, card = source.open()
    check_detector(detector, data)
    targets = speed_up_targets(detection.speed_ups, detection.pruning)
    backbone, attention = detector.get_submodule("backbone"), detection.pruning.attention
    unpruned = examine_for(targets, backbone, card, attention, part="backbone")
    if detection.metanetwork is not None:  # whether it can
        rewrite(copy.deepcopy(backbone), unpruned.graph, detection.metanetwork)
    start = Path(detection.network) if source.stored else context.folder / "source"
    if not source.stored:
        store(context, start, detector, card)
    trained = train_detector(context, data, "trained", start, detection.training)
    work = _Work(context=context, data=data, detection=detection, card=card, unpruned=unpruned)
    results = [work.inside("origin").origin(trained)]
    for method in ["none", "metanetwork"] if detection.metanetwork is not None else ["none"]:
        results += prune_to_targets(work.inside(method).task(trained, method), targets)
    if context.is_global_zero:
        write_result(results, context.folder, context.events)
    return results


def train_detector(
    context: Context, data: VOC, name: str, source: Path, settings: TrainingSettings
) -> Path:
    """Train a stored detector in a folder of its own, unless that was done before.

    Return the result's folder.
    """
    if not settings.length:
        return source
    build = partial(DetectorTraining, network=str(source), optimizer=settings.optimizer)
    return train_once(context, data, settings, context.folder / name, build)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What all methods share.

    Attributes:
        context: Where to run.
        data: Images with objects.
        detection: What to run.
        card: Card of the detector.
        unpruned: What is known of its backbone.
    """

    context: Context
    data: VOC
    detection: DetectionSettings
    card: NetworkCard
    unpruned: Unpruned

    def inside(self, folder: str) -> "_Work":
        """Return the same in a folder of the context's."""
        return replace(self, context=replace(self.context, folder=self.context.folder / folder))

    def task(self, trained: Path, method: str) -> "DetectorPruning":
        """Make a detector ready in the way of a method."""
        context, source = self.context, trained
        if method == "metanetwork":
            assert self.detection.metanetwork is not None
            source = context.folder / "rewritten"
            rewritten = load_network(trained).to(context.device)
            backbone = rewritten.get_submodule("backbone")
            rewrite(backbone, self.unpruned.graph, self.detection.metanetwork)
            self._recovery(rewritten).rewritten(backbone)
            store(context, source, rewritten, read_card(trained))
        ready = train_detector(context, self.data, "finetuned", source, self.detection.finetune)
        detector = load_network(ready).to(context.device)
        return DetectorPruning(
            context=context,
            card=self.card,
            network=detector.get_submodule("backbone"),
            unpruned=self.unpruned,
            pruner=Pruner(
                criterion=self.detection.criterion,
                images=lambda importance: None,
                recovery=self._recovery(detector),
            ),
            detector=detector,
            data=self.data,
            method=method,
            settings=self.detection.finetune_after,
        )

    def _recovery(self, detector: nn.Module) -> Recovery:
        """Return the recovery of backbones, by training images as the detector resizes them."""
        settings, transform = self.detection, detector.get_submodule("transform")

        def sample(images: int) -> Iterable[Tensor]:
            batches = self.data.evaluation("train", self.context.device, images)
            resized = transform([image for batch in batches for image in batch.images])[0]
            return resized.tensors.split(self.data.eval_batch_size)  # type: ignore[no-any-return]

        return Recovery(sample=sample, statistics=settings.statistics, repair=settings.repair)

    def origin(self, trained: Path) -> Detected:
        """Measure the trained detector, unless that was done before."""
        file = self.context.folder / "result.json"
        if not self.context.broadcast(file.is_file()):
            detector = load_network(trained).to(self.context.device).eval()
            result = measured(detector, detector, self.data, self.unpruned, "origin", 1.0)
            if self.context.is_global_zero:
                write_json(file, asdict(result))
        self.context.barrier()
        return Detected.read(file)


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectorPruning(Task[Detected]):
    """A detector whose backbone is pruned.

    Attributes:
        detector: The whole detector.
        data: Images with objects.
        method: How it was made ready.
        settings: Finetuning after pruning.
    """

    detector: nn.Module
    data: VOC
    method: str
    settings: TrainingSettings

    def whole(self, part: nn.Module) -> nn.Module:
        """Return the detector with another backbone."""
        detector: Any = copy.deepcopy(self.detector)
        detector.backbone = part
        return detector  # type: ignore[no-any-return]

    def part(self, whole: nn.Module) -> nn.Module:
        """Return the backbone of a detector."""
        return whole.get_submodule("backbone")

    def kind(self, target: Target) -> type[Detected]:
        """Return the class of the results."""
        return Detected

    def finetune(self, source: Path) -> Path:
        """Train a stored detector: see `Task.finetune`."""
        return train_detector(self.context, self.data, "finetuned", source, self.settings)

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> Detected:
        """Measure on the test images: see `Task.measure`."""
        assert isinstance(target, ChannelTarget)
        device, whole = self.context.device, self.whole(pruned.network)
        asked = target.speed_up(self.unpruned)
        result = measured(
            final.eval(), self.detector.eval(), self.data, self.unpruned, self.method, asked
        )
        average, average_50 = average_precision(whole, self.data, device)
        return replace(
            result, average_precision_pruned=average, average_precision_50_pruned=average_50
        )


def measured(
    detector: nn.Module,
    other: nn.Module,
    data: VOC,
    unpruned: Unpruned,
    method: str,
    target: float,
) -> Detected:
    """Measure a detector on the test images, and its time beside another's."""
    example = unpruned.example_for(detector)
    macs = count_macs(detector.get_submodule("backbone"), example)
    average, average_50 = average_precision(detector, data, next(detector.parameters()).device)
    own, others = measure_latencies([detector, other], example, 1)
    return Detected(
        method=method,
        target=target,
        speed_up=count_macs(unpruned.original, unpruned.example) / macs,
        macs=macs,
        parameters=count_parameters(detector),
        milliseconds=own.median,
        milliseconds_unpruned=others.median,
        average_precision=average,
        average_precision_50=average_50,
    )
