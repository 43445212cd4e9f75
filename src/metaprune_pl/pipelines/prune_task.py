"""`prune_task`: a network that is no classifier, by a task with a loss and a metric."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from lightning.pytorch import LightningDataModule
from torch import nn

from metaprune_pl.metanetworks.rewriting import rewrite
from metaprune_pl.networks import NetworkCard
from metaprune_pl.networks.inputs import read_shape
from metaprune_pl.pipelines.pruning_loop import Task, check_rounds, prune_to_targets
from metaprune_pl.pruning import (
    Importance,
    Magnitude,
    PruningSettings,
    Target,
    Unpruned,
    count_parameters,
)
from metaprune_pl.pruning.examination import examine_for
from metaprune_pl.pruning.pruner import Pruner
from metaprune_pl.pruning.recovery import Recovery, RepairSettings
from metaprune_pl.pruning.targets import PrunedNetwork, speed_up_targets
from metaprune_pl.reports import Result
from metaprune_pl.reports.pruned_task import PrunedTask
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import store
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.preparation import PrunedSource
from metaprune_pl.stages.task_training import task_scores
from metaprune_pl.stages.tasks import LearningTask
from metaprune_pl.stages.training_settings import TrainingSettings

R = TypeVar("R", bound=Result)


@dataclass(frozen=True, kw_only=True)
class TaskNetwork(PrunedSource):
    """Which network is pruned, and how.

    Attributes:
        input_shape: Sizes of one input, as in 3,224,224, or a word for each of several inputs,
            [NAME=]SIZES[:ids|:mask|:flags]; None is what the network is known to be made for.
        criterion: Which channels matter: Magnitude, Scales, Random, or your own.
    """

    input_shape: str | None = None
    criterion: Importance = field(default_factory=Magnitude)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    repair: RepairSettings | None = None

    def open(self) -> tuple[nn.Module, NetworkCard]:
        """Return the network and its card."""
        shape = None if self.input_shape is None else read_shape(self.input_shape)
        return self.source.open(input_shape=shape)


def prune_task(
    context: Context,
    data: LightningDataModule,
    *,
    task: LearningTask,
    finetune_after: TrainingSettings = TrainingSettings(),  # noqa: B008  (frozen)
    speed_ups: tuple[float, ...] = (2.0,),
    rounds: int = 1,
    rewind: bool = True,
    **network: Any,
) -> list[PrunedTask]:
    """Prune a network of any task to speed-ups, and train it on.

    Args:
        context: Where to run.
        data: A LightningDataModule, your own or one of metaprune's; its training batches are for
            the loss, its test batches for the metric.
        task: What the network learns: Segmentation, Detection, or your own class with `loss` and
            `metric` (`--task my_package.MyTask --trust my_package`).
        finetune_after: Training after pruning.
        speed_ups: Targets: cost of the unpruned network over that of the result, increasing.
        rounds: Rounds of pruning and training, as in `prune`.
        rewind: Rewind the weights after each round.
        network: The network, and how it is pruned: see `TaskNetwork`.

    Example:
        metaprune prune_task --network torchvision/fcn_resnet50 --task Segmentation --data my.Data
    """
    settings = TaskNetwork(**network)
    check_rounds(rounds, finetune_after.length)
    targets = speed_up_targets(speed_ups, settings.pruning)
    given, card = settings.open()
    task.check(given, data)
    part, attention = given.get_submodule(task.part), settings.pruning.attention
    unpruned = examine_for(targets, part, card, attention, task.part)
    before = task_scores(given, task, data, context.device)[0]
    work = MeasuredByTask.of(
        context, given, card, unpruned, settings, task, data, finetune_after, metric_given=before
    )
    if settings.metanetwork is not None:
        work.rewrite(settings.metanetwork)
    results = prune_to_targets(work, targets, rounds, rewind=rewind)
    if context.is_global_zero:
        write_result(results, context.folder, context.events)
    return results


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskPruning(Task[R]):
    """A network of any task that loses channels, or the part of one that its task names.

    Attributes:
        complete: The whole network.
        task: What it learns.
    """

    complete: nn.Module
    task: LearningTask

    @classmethod
    def of(
        cls,
        context: Context,
        network: nn.Module,
        card: NetworkCard,
        unpruned: Unpruned,
        settings: TaskNetwork,
        task: LearningTask,
        data: LightningDataModule,
        finetune: TrainingSettings,
        **own: Any,
    ) -> Self:
        """Return the pruning of a network, or of a part of it that is examined already."""
        complete = network.to(context.device).eval()
        sample = partial(task.sample, complete, data, context.device)
        recovery = Recovery(sample=sample, statistics=settings.statistics, repair=settings.repair)
        pruner = Pruner(
            criterion=settings.criterion, images=lambda importance: None, recovery=recovery
        )
        return cls(
            context=context,
            card=card,
            network=complete.get_submodule(task.part),
            unpruned=unpruned,
            pruner=pruner,
            complete=complete,
            task=task,
            data=data,
            settings=finetune,
            **own,
        )

    def rewrite(self, metanetwork: str) -> Path:
        """Give the network the weights of a metanetwork, store it, and return the folder."""
        folder = self.context.folder / "rewritten"
        rewrite(self.network, self.unpruned.graph, metanetwork)
        self.pruner.recovery.rewritten(self.network)
        store(self.context, folder, self.complete, self.card)
        return folder

    def whole(self, part: nn.Module) -> nn.Module:
        """Return the network with another part."""
        if not self.task.part:
            return part
        network = copy.deepcopy(self.complete)
        network.set_submodule(self.task.part, part)
        return network

    def part(self, whole: nn.Module) -> nn.Module:
        """Return the part of a network that is pruned."""
        return whole.get_submodule(self.task.part)

    def training(self, source: Path) -> NetworkTraining:
        """Return the training of a stored network: see `Task.training`."""
        return self.task.training(source, self.settings.optimizer)

    def scores(self, whole: nn.Module) -> Sequence[float]:
        """Return the test scores of a whole network."""
        return task_scores(whole, self.task, self.data, self.context.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredByTask(TaskPruning[PrunedTask]):
    """A network that is measured by its task's metric.

    Attributes:
        metric_given: Of the network as it was given.
    """

    metric_given: float

    def kind(self, target: Target) -> type[PrunedTask]:
        """Return the class of what is measured for a target: see `Task.kind`."""
        return PrunedTask

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> PrunedTask:
        """Measure on the test examples: see `Task.measure`."""
        return PrunedTask.of(
            target,
            self.unpruned,
            pruned,
            self.part(final),
            network=self.card.record["name"],
            task=type(self.task).__name__,
            parameters=count_parameters(final),
            metric_given=self.metric_given,
            metric_pruned=self.scores(self.whole(pruned.network))[0],
            metric_finetuned=self.scores(final)[0],
        )
