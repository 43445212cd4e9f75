"""`detect`: from classification to detection (paper, F.4).

A detector is trained; then, for each method, (metanetwork,) finetune, prune the backbone, finetune.
"""

import copy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from metaprune_pl.data import VOC
from metaprune_pl.metanetworks.rewriting import rewrite
from metaprune_pl.networks import load_network
from metaprune_pl.pipelines.prune_task import TaskNetwork, TaskPruning
from metaprune_pl.pipelines.pruning_loop import prune_to_targets
from metaprune_pl.pruning import Target, count_macs, count_parameters, measure_latencies
from metaprune_pl.pruning.examination import examine_for
from metaprune_pl.pruning.targets import (
    ChannelTarget,
    PrunedNetwork,
    check_speed_ups,
    speed_up_targets,
)
from metaprune_pl.reports import Detected, write_json
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import store, train_once
from metaprune_pl.stages.tasks import Detection
from metaprune_pl.stages.training_settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class DetectionSettings(TaskNetwork):
    """Which detector is trained and pruned, and how.

    Attributes:
        network: `faster_rcnn`, or the folder of a stored detector.
        arguments: Keyword arguments of `faster_rcnn`, and of the builder of its backbone.
        speed_ups: Targets: multiply-accumulates of the unpruned backbone over those of the result,
            increasing.
        training: Training of the detector; 0 epochs take a stored one as it is.
        finetune: Finetuning before pruning, with and without metanetwork.
        finetune_after: Finetuning after pruning.
    """

    network: str = "faster_rcnn"
    speed_ups: list[float] = field(default_factory=lambda: [2.5])
    training: TrainingSettings = field(default_factory=TrainingSettings)
    finetune: TrainingSettings = field(default_factory=TrainingSettings)
    finetune_after: TrainingSettings = field(default_factory=TrainingSettings)

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
    task, source = Detection(), detection.source
    detector, card = detection.open()
    task.check(detector, data)
    targets = speed_up_targets(detection.speed_ups, detection.pruning)
    backbone, attention = detector.get_submodule(task.part), detection.pruning.attention
    unpruned = examine_for(targets, backbone, card, attention, task.part)
    if detection.metanetwork is not None:  # whether it can
        rewrite(copy.deepcopy(backbone), unpruned.graph, detection.metanetwork)
    start = Path(detection.network) if source.stored else context.folder / "source"
    if not source.stored:
        store(context, start, detector, card)

    def pruning(method: str, folder: Path) -> DetectorPruning:
        inside, network = replace(context, folder=context.folder / method), load_network(folder)
        finetune = detection.finetune_after
        return DetectorPruning.of(
            inside, network, card, unpruned, detection, task, data, finetune, method=method
        )

    first = partial(task.training, optimizer=detection.training.optimizer)
    trained = train_once(context, data, detection.training, start, first, "trained")
    results = [pruning("origin", trained).origin()]
    for method in ["none", "metanetwork"] if detection.metanetwork is not None else ["none"]:
        work, folder = pruning(method, trained), trained
        if method == "metanetwork":
            assert detection.metanetwork is not None
            folder = work.rewrite(detection.metanetwork)
        build = partial(task.training, optimizer=detection.finetune.optimizer)
        ready = train_once(work.context, data, detection.finetune, folder, build)
        results += prune_to_targets(pruning(method, ready), targets)
    if context.is_global_zero:
        write_result(results, context.folder, context.events)
    return results


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectorPruning(TaskPruning[Detected]):
    """A detector whose backbone is pruned.

    Attributes:
        method: How it was made ready.
    """

    method: str

    def kind(self, target: Target) -> type[Detected]:
        """Return the class of the results."""
        return Detected

    def origin(self) -> Detected:
        """Measure the detector as it is, unless that was done before."""
        file = self.context.folder / "result.json"
        if not self.context.broadcast(file.is_file()):
            result = self.measured(self.complete, 1.0)
            if self.context.is_global_zero:
                write_json(file, asdict(result))
        self.context.barrier()
        return Detected.read(file)

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> Detected:
        """Measure on the test images: see `Task.measure`."""
        assert isinstance(target, ChannelTarget)
        average, average_50 = self.scores(self.whole(pruned.network))
        stale: dict[str, Any] = {}
        if pruned.stale is not None:
            stale["average_precision_stale"] = self.scores(self.whole(pruned.stale))[0]
        return replace(
            self.measured(final, target.speed_up(self.unpruned)),
            average_precision_pruned=average,
            average_precision_50_pruned=average_50,
            **stale,
        )

    def measured(self, detector: nn.Module, target: float) -> Detected:
        """Measure a detector on the test images, and its time beside that of this one."""
        average, average_50 = self.scores(detector)
        unpruned, backbone = self.unpruned, self.part(detector)
        example = unpruned.example_for(detector)
        macs = count_macs(backbone, example)
        own, others = measure_latencies([detector, self.complete.eval()], example, 1)
        return Detected(
            method=self.method,
            target=target,
            speed_up=count_macs(unpruned.original, unpruned.example_for(unpruned.original)) / macs,
            macs=macs,
            parameters=count_parameters(detector),
            milliseconds=own.median,
            milliseconds_unpruned=others.median,
            average_precision=average,
            average_precision_50=average_50,
        )
