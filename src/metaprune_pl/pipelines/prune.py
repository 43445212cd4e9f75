"""`prune`: a network to speed-ups, or with masks, by the paper's pipeline (equation 9)."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.delivery.goals import Goal
from metaprune_pl.errors import ConfigError
from metaprune_pl.files import write_json
from metaprune_pl.networks import load_network
from metaprune_pl.networks.trust import named_code
from metaprune_pl.pipelines.prepare import prepare
from metaprune_pl.pipelines.pruning_loop import Task, check_rounds, prune_to_targets, trained_to
from metaprune_pl.pruning import MaskSettings, PruningSettings, Target, measure_latencies
from metaprune_pl.pruning.targets import (
    ChannelTarget,
    MaskTarget,
    PrunedNetwork,
    SpeedUp,
    asked_targets,
)
from metaprune_pl.pruning.unpruned import as_built
from metaprune_pl.reports import Masked, Pruned
from metaprune_pl.reports.planned import planned
from metaprune_pl.reports.printing import print_result
from metaprune_pl.reports.writing import read_report
from metaprune_pl.runs.command import goes_on, tell
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.cost import trained_images
from metaprune_pl.stages.accuracy import AccuracyBefore, accuracy, accuracy_before, measure_accuracy
from metaprune_pl.stages.duration import training_seconds
from metaprune_pl.stages.largest import largest_within
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.opening import open_for
from metaprune_pl.stages.preparation import Preparation
from metaprune_pl.stages.training_settings import RECIPE, FinetuneSettings

Outcome = Pruned | Masked
"""What is measured of a network: with fewer channels, or with masks."""


def _is_reported(folder: Path, arguments: Mapping[str, Any]) -> bool:
    """Whether a finished run's report is of the speed-ups that are asked for."""
    if arguments["masks"] is not None or arguments["goal"] is not None or arguments["targets"]:
        return True
    targets = [result.target for result in read_report(folder, Pruned)]
    return targets == list(arguments["speed_ups"])


@goes_on("speed_ups", is_done=_is_reported)
def prune(
    context: Context,
    data: ImageDataModule,
    *,
    finetune_after: FinetuneSettings = RECIPE,
    speed_ups: tuple[float, ...] = (2.0,),
    goal: Goal | None = None,
    masks: MaskSettings | None = None,
    targets: tuple[Target, ...] = (),
    rounds: int = 1,
    rewind: bool = True,
    latency_batches: tuple[int, ...] = (1, 32),
    **preparation: Any,
) -> list[Outcome]:
    """Prune a network to speed-ups, or mask its weights: finetune, prune, finetune.

    Args:
        context: Where to run.
        data: The images.
        finetune_after: Finetuning after pruning.
        speed_ups: Unpruned cost over that of the result, increasing; a finished run takes up more.
        goal: What to come to in place of speed-ups: a time here, a size, or an accuracy to keep.
        masks: Which weights become zero, in place of channels that are removed; `pruning`,
            `speed_ups` and `latency_batches` have no effect then.
        targets: Targets of other kinds, in place of `speed_ups` and `masks`; `pruning` counts.
        rounds: Rounds in which the network comes to each target, by the same factor; after each but
            the last it is trained for `finetune_after` and ranked anew. Patterns are made in one.
        rewind: Rewind the weights after each round.
        latency_batches: Numbers of images in a forward pass whose time is measured.
        preparation: The network, and what comes before pruning: see `Preparation`.

    Example:
        metaprune prune --config prune_quickstart.yaml
    """
    before = Preparation(**preparation)
    check_rounds(rounds, finetune_after.length)
    _check(latency_batches, goal, masks is not None or bool(targets))
    asked = asked_targets(speed_ups, masks, targets, before.pruning)
    if goal is not None:
        asked = [goal.target(lambda: open_for(before, data), before.pruning)]
    task = _task(context, data, before, asked, finetune_after, latency_batches)
    if goal is not None and goal.drop is not None:
        asked = [_largest(task, before.pruning, goal.drop, goal.trials)]
    task.begin()
    return _reported(task, asked, prune_to_targets(task, asked, rounds, rewind=rewind))


def _check(sizes: Sequence[int], goal: Goal | None, has_targets: bool) -> None:
    if goal is not None and has_targets:
        raise ConfigError("goal: it is in place of masks and targets; set these to null and [].")
    if any(size < 1 for size in sizes):
        raise ConfigError("latency_batches: give numbers of images of at least 1.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification(Task[Outcome]):
    """A classifier that loses channels or weights.

    Attributes:
        data: The images.
        given: Folder of the network as it was given.
        settings: Finetuning after pruning.
        before: Test accuracies before pruning.
        batches: Numbers of images in a forward pass whose time is measured.
    """

    data: ImageDataModule
    given: Path
    settings: FinetuneSettings
    before: AccuracyBefore
    batches: Sequence[int]

    def kind(self, target: Target) -> type[Outcome]:
        """Return the class of what is measured for a target: see `Task.kind`."""
        return Pruned if target.channels else Masked

    def begin(self) -> None:
        """Say what comes first, which may take a while."""
        if not self.context.is_part:
            tell("Choosing what goes: seconds, or minutes where layers have hundreds of channels.")

    def announce(self, target: Target, pruned: PrunedNetwork) -> None:
        """Show the plan, and how long the training takes: see `Task.announce`."""
        if not target.channels or self.context.is_part or not self.context.is_global_zero:
            return
        title = f"{self.card.record['name']} to {target.label}, before the training"
        seconds = training_seconds(pruned.network, self.data, self.settings)
        print_result(planned(title, self.unpruned, pruned.network, self.batches, seconds))

    def training(self, source: Path) -> NetworkTraining:
        """Return the finetuning of a stored network: see `Task.training`."""
        return self.settings.build(source, teacher=self.given)

    def accuracy(self, network: nn.Module) -> float:
        """Return the test accuracy of a network."""
        return accuracy(network, self.data, "test", self.context.device)

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> Outcome:
        """Measure on the test images: see `Task.measure`."""
        finetuned = measure_accuracy(final, self.data, "test", self.context.device)
        record, after = self.card.record, self.accuracy(pruned.network)
        shared: dict[str, Any] = {
            "network": record["name"],
            "method": record["method"],
            "accuracy_base": self.before.base.top_1,
            "accuracy_given": self.before.given,
            "accuracy_before": self.before.ready,
            "accuracy_stale": None if pruned.stale is None else self.accuracy(pruned.stale),
            "accuracy_finetuned": finetuned.top_1,
        }
        if isinstance(target, ChannelTarget):
            return Pruned.of(
                target,
                self.unpruned,
                pruned,
                final,
                **shared,
                images=record["images"] + trained_images(self.context.folder),
                accuracy_base_top_5=self.before.base.top_5,
                accuracy_pruned=after,
                accuracy_finetuned_top_5=finetuned.top_5,
                test_images=self.data.count("test"),
            )
        assert isinstance(target, MaskTarget)
        predicted = record.get("predicted_accuracy")
        shared |= {"accuracy_predicted": predicted, "accuracy_masked": after}
        return Masked.of(target, self.unpruned, pruned, final, **shared)


def _task(
    context: Context,
    data: ImageDataModule,
    preparation: Preparation,
    targets: Sequence[Target],
    settings: FinetuneSettings,
    batches: Sequence[int],
) -> Classification:
    """Make a network ready, and measure it."""
    ready = prepare(context, data, preparation, targets)
    return Classification(
        context=context,
        card=ready.card,
        network=ready.network,
        unpruned=ready.unpruned,
        pruner=preparation.pruner(
            data,
            context.device,
            context.broadcast,
            masks=not targets[0].channels,
            finetuning=settings.images(data.step_images, data.count("train")),
        ),
        data=data,
        given=ready.given,
        settings=settings,
        before=accuracy_before(
            load_network(ready.given), ready.network, ready.card.record, data, context.device
        ),
        batches=batches,
    )


def _largest(task: Classification, settings: PruningSettings, drop: float, trials: int) -> SpeedUp:
    """Return the largest speed-up that keeps the validation accuracy, which stays trained."""

    def trained(value: float) -> nn.Module:
        target = SpeedUp(value=value, settings=settings)
        target.check(task.network, task.unpruned)
        return trained_to(task, target)

    given = load_network(task.given).to(task.context.device)
    best, kept = largest_within(given, trained, task.data, drop=drop, trials=trials)
    if task.context.is_global_zero:
        write_json(task.context.folder / "trials.json", kept)
    return SpeedUp(value=best, settings=settings)


def _timed(
    task: Classification, targets: Sequence[Target], results: Sequence[Pruned]
) -> list[Pruned]:
    """Measure the unpruned network and all results, in turn, for each number of images."""
    device, folder = task.context.device, task.context.folder
    stored = (load_network(folder / target.folder / "network") for target in targets)
    networks = [network.to(device) for network in (as_built(task.card), *stored)]
    example = task.card.example(device)
    times = {str(size): measure_latencies(networks, example, size) for size in task.batches}
    own = [
        {size: timings[index] for size, timings in times.items()} for index in range(len(networks))
    ]
    return [result.timed(of_it, own[0]) for result, of_it in zip(results, own[1:], strict=True)]


def _reported(
    task: Classification, targets: Sequence[Target], results: Sequence[Outcome]
) -> list[Outcome]:
    """Measure times, write the report, and tell of it."""
    context = task.context
    if pruned := [result for result in results if isinstance(result, Pruned)]:
        results = _timed(task, targets, pruned)
    written = context.write([*results])
    if context.is_global_zero:
        _tidy(context.folder, targets)
    if not context.is_part:
        context.closing.extend(_closing(task, targets, results))
    return written


def _tidy(folder: Path, targets: Sequence[Target]) -> None:
    """Remove the steps on the way to finished networks, which nothing needs any more."""
    steps = ("pruned", "finetuned/network", "finetuned/checkpoints")
    for target in targets:
        for step in steps if target.channels else ():
            shutil.rmtree(folder / target.folder / step, ignore_errors=True)


def _closing(
    task: Classification, targets: Sequence[Target], results: Sequence[Outcome]
) -> Iterator[str]:
    """Say where the networks are, what they gained, and what comes next."""
    folders = [task.context.folder / target.folder / "network" for target in targets]
    for folder, result in zip(folders, results, strict=True):
        yield result.gained(folder)
    settings = task.card.settings
    code = named_code(settings.builder, settings.arguments)
    trust = "".join(f" --trust {name}" for name in code)
    yield f"Next: metaprune export {folders[-1]} --format onnx{trust}"
    yield f"      metaprune benchmark {task.given} {folders[-1]}{trust}"
