"""`prune_task`: a network that is no classifier, by a task with a loss and a metric."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import nn

from metaprune_pl.metanetworks.rewriting import rewrite
from metaprune_pl.networks import NetworkSource
from metaprune_pl.networks.inputs import read_shape
from metaprune_pl.pipelines.prepare import examine_for, store, train_once
from metaprune_pl.pipelines.pruning_loop import Task, prune_to_targets
from metaprune_pl.pruning import (
    Importance,
    Magnitude,
    PruningSettings,
    SpeedUp,
    Target,
    count_macs,
    count_parameters,
)
from metaprune_pl.pruning.pruner import Pruner
from metaprune_pl.pruning.recovery import Recovery
from metaprune_pl.pruning.targets import PrunedNetwork, speed_up_targets
from metaprune_pl.reports.exactness import Exactness
from metaprune_pl.reports.pruned_task import PrunedTask
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.task_training import TaskTraining, test_metric
from metaprune_pl.stages.tasks import LearningTask
from metaprune_pl.stages.training_settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class TaskNetwork:
    """Which network is pruned, and how.

    Attributes:
        network: Folder of a stored network, or a name: torchvision/NAME, timm/NAME, or
            package.module:function of your own.
        arguments: Keyword arguments of the builder that is named.
        state: File of its weights: safetensors, or a state dict of torch.save.
        input_shape: Sizes of one input, as in 3,224,224, or a word for each of several inputs,
            [NAME=]SIZES[:ids|:mask|:flags]; None is what the network is known to be made for.
        metanetwork: Folder of a metanetwork that gives the network other weights first; None prunes
            it as it is.
        criterion: Which channels matter: Magnitude, Scales, Random, or your own.
        pruning: Steps and floors.
    """

    network: str
    arguments: dict[str, Any] | None = None
    state: str | None = None
    input_shape: str | None = None
    metanetwork: str | None = None
    criterion: Importance = field(default_factory=Magnitude)
    pruning: PruningSettings = field(default_factory=PruningSettings)


def prune_task(
    context: Context,
    data: LightningDataModule,
    *,
    task: LearningTask,
    finetune_after: TrainingSettings = TrainingSettings(),  # noqa: B008  (frozen)
    speed_ups: tuple[float, ...] = (2.0,),
    **network: Any,
) -> list[PrunedTask]:
    """Prune a network of any task to speed-ups, and train it on.

    Args:
        context: Where to run.
        data: A LightningDataModule, your own or one of metaprune's; its training batches are for
            the loss, its test batches for the metric.
        task: What the network learns: Segmentation, or your own class with `loss` and `metric`
            (`--task my_package.MyTask --trust my_package`).
        finetune_after: Training after pruning.
        speed_ups: Targets: cost of the unpruned network over that of the result, increasing.
        network: The network, and how it is pruned: see `TaskNetwork`.

    Example:
        metaprune prune_task --network torchvision/fcn_resnet50 --task Segmentation --data my.Data
    """
    settings = TaskNetwork(**network)
    targets = speed_up_targets(speed_ups, settings.pruning)
    work = _task(context, data, task, settings, targets, finetune_after)
    results = prune_to_targets(work, targets)
    if context.is_global_zero:
        write_result(results, context.folder, context.events)
    return results


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskPruning(Task[PrunedTask]):
    """A network of any task that loses channels.

    Attributes:
        task: What it learns.
        data: What it learns from.
        settings: Training after pruning.
        metric_given: Metric of the network as it was given.
    """

    task: LearningTask
    data: LightningDataModule
    settings: TrainingSettings
    metric_given: float

    def kind(self, target: Target) -> type[PrunedTask]:
        """Return the class of what is measured for a target: see `Task.kind`."""
        return PrunedTask

    def finetune(self, source: Path) -> Path:
        """Train a stored network: see `Task.finetune`."""
        if not self.settings.length:
            return source
        optimizer, folder = self.settings.optimizer, self.context.folder / "finetuned"
        build = partial(TaskTraining, network=str(source), task=self.task, optimizer=optimizer)
        return train_once(self.context, self.data, self.settings, folder, build)

    def metric(self, network: nn.Module) -> float:
        """Return the test metric of a network."""
        return test_metric(network, self.task, self.data, self.context.device)

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> PrunedTask:
        """Measure on the test examples: see `Task.measure`."""
        assert isinstance(target, SpeedUp)
        return PrunedTask(
            network=self.card.record["name"],
            task=type(self.task).__name__,
            target=target.value,
            speed_up=self.unpruned.speed_up(target.settings.cost, final),
            macs=count_macs(final, self.unpruned.example_for(final)),
            parameters=count_parameters(final),
            metric_given=self.metric_given,
            metric_pruned=self.metric(pruned.network),
            metric_finetuned=self.metric(final),
            exactness=Exactness.of(pruned),
        )


def _task(
    context: Context,
    data: LightningDataModule,
    task: LearningTask,
    settings: TaskNetwork,
    targets: list[SpeedUp],
    finetune_after: TrainingSettings,
) -> TaskPruning:
    """Open the network, measure it, and give it the metanetwork's weights where there is one."""
    arguments = settings.arguments or {}
    given = NetworkSource(network=settings.network, arguments=arguments, state=settings.state)
    shape = None if settings.input_shape is None else read_shape(settings.input_shape)
    network, card = given.open(input_shape=shape)
    unpruned = examine_for(targets, network, card, settings.pruning.attention)
    before = test_metric(network, task, data, context.device)
    if settings.metanetwork is not None:
        rewrite(network, unpruned.graph, settings.metanetwork)
        store(context, context.folder / "rewritten", network, card)
    recovery = Recovery(sample=lambda images: [], statistics="stale", repair=None)
    return TaskPruning(
        context=context,
        card=card,
        network=network.to(context.device).eval(),
        unpruned=unpruned,
        pruner=Pruner(
            criterion=settings.criterion, images=lambda importance: None, recovery=recovery
        ),
        task=task,
        data=data,
        settings=finetune_after,
        metric_given=before,
    )
