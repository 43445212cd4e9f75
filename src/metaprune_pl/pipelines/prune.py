"""`prune`: a network to speed-ups, or with masks, by the paper's pipeline (equation 9)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import load_network
from metaprune_pl.pipelines.classifiers import classifier_pruner
from metaprune_pl.pipelines.preparation import Preparation
from metaprune_pl.pipelines.prepare import (
    Before,
    Ready,
    accuracies_before,
    as_built,
    prepare,
    train_once,
)
from metaprune_pl.pipelines.pruning_loop import Task, check_rounds, prune_to_targets
from metaprune_pl.pruning import (
    MaskSettings,
    SpeedUp,
    Target,
    count_macs,
    count_parameters,
    left_parameters,
    measure_latencies,
)
from metaprune_pl.pruning.targets import PrunedNetwork, speed_up_targets
from metaprune_pl.pruning.targets.masks import MaskTarget
from metaprune_pl.reports import Masked, Pruned
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.accuracy import accuracy, measure_accuracy
from metaprune_pl.stages.training_settings import FinetuneSettings

R = TypeVar("R", Pruned, Masked)
C = TypeVar("C", bound="Classification[Any]")


def prune(
    context: Context,
    data: ImageDataModule,
    *,
    finetune_after: FinetuneSettings = FinetuneSettings(),  # noqa: B008  (frozen)
    speed_ups: tuple[float, ...] = (2.0,),
    masks: MaskSettings | None = None,
    rounds: int = 1,
    latency_batches: tuple[int, ...] = (1, 256),
    **preparation: Any,
) -> list[Pruned] | list[Masked]:
    """Prune a network to speed-ups, or mask its weights.

    Metanetwork, finetune, prune, finetune.

    Args:
        context: Where to run.
        data: The images.
        finetune_after: Finetuning after pruning.
        speed_ups: Targets: cost of the unpruned network over that of the result, increasing.
        masks: Which weights become zero, in place of channels that are removed; `pruning`,
            `speed_ups` and `latency_batches` have no effect then.
        rounds: Rounds in which the network comes to each target, by the same factor; after each but
            the last it is trained for `finetune_after`, ranked anew, and its weights are rewound to
            those before the rounds. Patterns are made in one.
        latency_batches: Numbers of images in a forward pass whose time is measured.
        preparation: The network, and what comes before pruning: see `Preparation`.

    Example:
        metaprune prune --config prune_quickstart.yaml
    """
    before = Preparation(**preparation)
    check_rounds(rounds, finetune_after.length)
    if any(size < 1 for size in latency_batches):
        raise ConfigError("latency_batches: give numbers of images of at least 1.")
    if masks is not None:
        masking = _task(Masking, context, data, before, masks.targets, finetune_after)
        return _written(context, prune_to_targets(masking, masks.targets, rounds))
    targets = speed_up_targets(speed_ups, before.pruning)
    task = _task(Pruning, context, data, before, targets, finetune_after)
    pruned = prune_to_targets(task, targets, rounds)
    return _written(context, _timed(task, pruned, latency_batches))


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification(Task[R]):
    """A classifier that is pruned.

    Attributes:
        data: The images.
        ready: The network.
        settings: Finetuning after pruning.
        before: Test accuracies before pruning.
    """

    data: ImageDataModule
    ready: Ready
    settings: FinetuneSettings
    before: Before

    def finetune(self, source: Path) -> Path:
        """Finetune a stored network: see `Task.finetune`."""
        if not self.settings.length:
            return source
        build = partial(self.settings.build, source, teacher=self.ready.given)
        folder = self.context.folder / "finetuned"
        return train_once(self.context, self.data, self.settings, folder, build)

    def accuracy(self, network: nn.Module) -> float:
        """Return the test accuracy of a network."""
        return accuracy(network, self.data, "test", self.context.device)

    def accuracy_stale(self, pruned: PrunedNetwork) -> float | None:
        """Return that of a network as pruning left it, where more was done to it since."""
        return None if pruned.stale is None else self.accuracy(pruned.stale)


class Pruning(Classification[Pruned]):
    """A classifier that loses channels."""

    result = Pruned

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> Pruned:
        """Measure on the test images: see `Task.measure`."""
        assert isinstance(target, SpeedUp)
        example = self.unpruned.example_for(final)
        finetuned = measure_accuracy(final, self.data, "test", self.context.device)
        return Pruned(
            network=self.ready.name,
            method=self.ready.method,
            target=target.value,
            speed_up=self.unpruned.speed_up(target.settings.cost, final),
            macs=count_macs(final, example),
            macs_unpruned=count_macs(self.unpruned.original, self.unpruned.example),
            parameters=count_parameters(final),
            parameters_unpruned=count_parameters(self.unpruned.original),
            accuracy_base=self.before.base.top_1,
            accuracy_base_top_5=self.before.base.top_5,
            accuracy_given=self.before.given,
            accuracy_before=self.before.ready,
            plan=pruned.plan,
            accuracy_stale=self.accuracy_stale(pruned),
            accuracy_pruned=self.accuracy(pruned.network),
            accuracy_finetuned=finetuned.top_1,
            accuracy_finetuned_top_5=finetuned.top_5,
        )


class Masking(Classification[Masked]):
    """A classifier whose weights are masked."""

    result = Masked

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> Masked:
        """Measure on the test images: see `Task.measure`."""
        assert isinstance(target, MaskTarget) and pruned.masks is not None
        return Masked(
            network=self.ready.name,
            method=self.ready.method,
            target=target.text,
            left=left_parameters(final),
            parameters=count_parameters(final),
            dense=list(pruned.masks.dense),
            accuracy_base=self.before.base.top_1,
            accuracy_given=self.before.given,
            accuracy_before=self.before.ready,
            accuracy_stale=self.accuracy_stale(pruned),
            accuracy_masked=self.accuracy(pruned.network),
            accuracy_finetuned=self.accuracy(final),
        )


def _task(
    kind: type[C],
    context: Context,
    data: ImageDataModule,
    preparation: Preparation,
    targets: Sequence[Target],
    settings: FinetuneSettings,
) -> C:
    """Make a network ready, and measure it."""
    ready = prepare(context, data, preparation, targets)
    return kind(
        context=context,
        card=ready.card,
        network=ready.network,
        unpruned=ready.unpruned,
        pruner=classifier_pruner(context, data, preparation),
        data=data,
        ready=ready,
        settings=settings,
        before=accuracies_before(context, data, ready),
    )


def _timed(task: Pruning, results: Sequence[Pruned], sizes: Sequence[int]) -> list[Pruned]:
    """Measure the unpruned network and all results, in turn, for each number of images."""
    device, folder = task.context.device, task.context.folder
    stored = (load_network(folder / result.name / "network") for result in results)
    networks = [network.to(device) for network in (as_built(task.card), *stored)]
    example = torch.zeros(1, *task.card.input_shape, device=device)
    times = {str(size): measure_latencies(networks, example, size) for size in sizes}
    return [
        replace(
            result,
            latency={size: own[index] for size, own in times.items()},
            latency_unpruned={size: own[0] for size, own in times.items()},
        )
        for index, result in enumerate(results, 1)
    ]


def _written(context: Context, results: list[R]) -> list[R]:
    if context.is_global_zero:
        write_result(results, context.folder, context.events)
    return results
