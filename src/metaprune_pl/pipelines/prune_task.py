"""`prune_task`: a network that is no classifier, by a task with a loss and a metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from lightning.pytorch import LightningDataModule
from torch import nn

from metaprune_pl.metanetworks.rewriting import rewrite
from metaprune_pl.pipelines.pruning_loop import Task, check_rounds, prune_to_targets
from metaprune_pl.pruning import Target, count_parameters
from metaprune_pl.pruning.targets import PrunedNetwork, speed_up_targets
from metaprune_pl.reports import Result
from metaprune_pl.reports.pruned_task import PrunedTask
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import store
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.task_network import Examined, TaskNetwork
from metaprune_pl.stages.task_training import task_scores
from metaprune_pl.stages.tasks import LearningTask
from metaprune_pl.stages.training_settings import TrainingSettings

R = TypeVar("R", bound=Result)


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
    examined = settings.examined(task, data, targets)
    metric = task_scores(examined.network, task, data, context.device)[0]
    work = MeasuredByTask.of(
        context, examined, settings, task, data, finetune_after, metric_given=metric
    )
    if settings.metanetwork is not None:
        work.rewrite(settings.metanetwork)
    results = prune_to_targets(work, targets, rounds, rewind=rewind)
    return context.write(results)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskPruning(Task[R]):
    """A network of any task that loses channels, or the part of one that its task names.

    Attributes:
        task: What it learns.
    """

    task: LearningTask

    @classmethod
    def of(
        cls,
        context: Context,
        examined: Examined,
        source: TaskNetwork,
        task: LearningTask,
        data: LightningDataModule,
        finetune: TrainingSettings,
        **own: Any,
    ) -> Self:
        """Return the pruning of a network that was examined."""
        network = examined.network.to(context.device)
        return cls(
            context=context,
            card=examined.card,
            network=network,
            unpruned=examined.unpruned,
            pruner=source.pruner(task, network, data, context.device),
            data=data,
            settings=finetune,
            part_name=task.part,
            task=task,
            **own,
        )

    def rewrite(self, metanetwork: str) -> Path:
        """Give the network the weights of a metanetwork, store it, and return the folder."""
        folder, part = self.context.folder / "rewritten", self.part_of(self.network)
        rewrite(part, self.unpruned.graph, metanetwork)
        self.pruner.recovery.rewritten(part)
        store(self.context, folder, self.network, self.card.without_accuracies())
        return folder

    def training(self, source: Path) -> NetworkTraining:
        """Return the training of a stored network: see `Task.training`."""
        return self.task.training(source, self.settings.optimizer)

    def scores(self, network: nn.Module) -> Sequence[float]:
        """Return the test scores of a network."""
        return task_scores(network, self.task, self.data, self.context.device)


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
            self.part_of(final),
            network=self.card.record["name"],
            task=type(self.task).__name__,
            parameters=count_parameters(final),
            metric_given=self.metric_given,
            metric_pruned=self.scores(self.with_part(pruned.network))[0],
            metric_finetuned=self.scores(final)[0],
        )
