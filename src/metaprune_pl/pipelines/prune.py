"""`prune`: a network to speed-ups, or with masks, by the paper's pipeline (equation 9)."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from metaprune_pl.data import ImageDataModule, ImageFolder
from metaprune_pl.delivery.goals import Goal
from metaprune_pl.errors import ConfigError, StorageError
from metaprune_pl.files import write_json
from metaprune_pl.networks import load_network
from metaprune_pl.pipelines.classification import Classification, Outcome
from metaprune_pl.pipelines.pruning_loop import check_rounds, prune_to_targets, trained_to
from metaprune_pl.pruning import MaskSettings, PruningSettings, Target
from metaprune_pl.pruning.targets import SpeedUp, asked_targets
from metaprune_pl.reports import Masked, Pruned
from metaprune_pl.reports.next_step import command_line
from metaprune_pl.reports.writing import read_report
from metaprune_pl.runs.command import goes_on
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import check_step
from metaprune_pl.stages.largest import largest_within
from metaprune_pl.stages.opening import open_for
from metaprune_pl.stages.preparation import Preparation
from metaprune_pl.stages.training_settings import RECIPE, FinetuneSettings


def _is_reported(folder: Path, arguments: Mapping[str, Any]) -> bool:
    """Whether a finished run's networks and report are whole, and of what is asked for."""
    steps = [file.parent for file in folder.glob("*/result.json")]
    for step in steps:
        check_step(step)
    masks, targets = arguments["masks"], arguments["targets"]
    channels = masks is None and (not targets or targets[0].channels)
    try:
        results: list[Any] = read_report(folder, Pruned if channels else Masked)
    except StorageError:
        return False  # it is made anew from the results
    needed = {target.folder for target in targets} or {result.name for result in results}
    if not needed <= {step.name for step in steps}:
        return False
    asked = None if masks or targets or arguments["goal"] else arguments["speed_ups"]
    return asked is None or [result.target for result in results] == list(asked)


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
        masks: Weights that become zero, in place of `speed_ups`, `pruning` and `latency_batches`.
        targets: Targets of other kinds, in place of `speed_ups` and `masks`; `pruning` counts.
        rounds: Rounds in which the network comes to each target, by the same factor; after each but
            the last it is trained for `finetune_after` and ranked anew. Patterns are made in one.
        rewind: Rewind the weights after each round.
        latency_batches: Numbers of images in a forward pass whose time is measured.
        preparation: The network, and what comes before pruning: see `Preparation`.

    Example:
        metaprune prune my_network.py:build --state mine.pth --data photos --speed_up 2
        metaprune prune --config prune_quickstart.yaml
    """
    before = Preparation(**preparation)
    check_rounds(rounds, finetune_after.length)
    _check(latency_batches, goal, masks is not None or bool(targets))
    asked = asked_targets(speed_ups, masks, targets, before.pruning)
    if goal is not None:
        asked = [goal.target(lambda: open_for(before, data), before.pruning)]
    task = Classification.of(context, data, before, asked, finetune_after, latency_batches)
    if goal is not None and goal.drop is not None:
        asked = [_largest(task, before.pruning, goal.drop, goal.trials)]
    task.begin()
    return _reported(task, asked, prune_to_targets(task, asked, rounds, rewind=rewind))


def _check(sizes: Sequence[int], goal: Goal | None, has_targets: bool) -> None:
    if goal is not None and has_targets:
        raise ConfigError("goal: it is in place of masks and targets; set these to null and [].")
    if any(size < 1 for size in sizes):
        raise ConfigError("latency_batches: give numbers of images of at least 1.")


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


def _reported(
    task: Classification, targets: Sequence[Target], results: Sequence[Outcome]
) -> list[Outcome]:
    """Measure times, write the report, and tell of it."""
    context = task.context
    if pruned := [result for result in results if isinstance(result, Pruned)]:
        results = task.timed(targets, pruned)
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
    last, data = folders[-1], task.data
    images = ["--images", data.folder] if isinstance(data, ImageFolder) else []
    yield f"Next: {command_line('export', last, '--format', 'onnx', *images)}"
    yield f"      {command_line('benchmark', task.given, last, Path(f'{last}.onnx'))}"
