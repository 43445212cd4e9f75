"""`detect`: from classification to detection (paper, F.4).

A detector is trained; then, for each method, (metanetwork,) finetune, prune the backbone, finetune.
"""

import copy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from metaprune_pl.data import VOC
from metaprune_pl.metanetworks.rewriting import rewrite
from metaprune_pl.networks import load_network
from metaprune_pl.pipelines.prune_task import TaskPruning
from metaprune_pl.pipelines.pruning_loop import prune_to_targets
from metaprune_pl.pruning import Target
from metaprune_pl.pruning.targets import (
    ChannelTarget,
    PrunedNetwork,
    check_speed_ups,
    speed_up_targets,
)
from metaprune_pl.reports import Detected, write_json
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import store, train_once
from metaprune_pl.stages.task_network import TaskNetwork
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
        super().__post_init__()
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
    task = Detection()
    targets = speed_up_targets(detection.speed_ups, detection.pruning)
    given = detection.examined(task, data, targets)
    if detection.metanetwork is not None:  # whether it can
        backbone = copy.deepcopy(given.network.get_submodule(task.part))
        rewrite(backbone, given.unpruned.graph, detection.metanetwork)
    start = Path(detection.network) if detection.stored else context.folder / "source"
    if not detection.stored:
        store(context, start, given.network, given.card)

    def pruning(method: str, folder: Path) -> DetectorPruning:
        inside = replace(context, folder=context.folder / method)
        trained = replace(given, network=load_network(folder))
        after = detection.finetune_after
        return DetectorPruning.of(inside, trained, detection, task, data, after, method=method)

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
    return context.write(results)


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
            result = self._measured(self.network, 1.0)
            if self.context.is_global_zero:
                write_json(file, asdict(result))
        self.context.barrier()
        return Detected.read(file)

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> Detected:
        """Measure on the test images: see `Task.measure`."""
        assert isinstance(target, ChannelTarget)
        average, average_50 = self.scores(self.with_part(pruned.network))
        stale = {}
        if pruned.stale is not None:
            stale["average_precision_stale"] = self.scores(self.with_part(pruned.stale))[0]
        return self._measured(
            final,
            target.speed_up(self.unpruned),
            average_precision_pruned=average,
            average_precision_50_pruned=average_50,
            **stale,
        )

    def _measured(self, detector: nn.Module, target: float, **pruned: float) -> Detected:
        """Measure a detector on the test images, and its time beside that of this one."""
        average, average_50 = self.scores(detector)
        return Detected.of(
            self.unpruned,
            self.part_of(detector),
            self.network.eval(),
            detector,
            method=self.method,
            target=target,
            average_precision=average,
            average_precision_50=average_50,
            **pruned,
        )
