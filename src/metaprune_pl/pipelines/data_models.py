"""Data models: the networks that a metanetwork learns from (paper, D.1.1).

Trained, pruned a little, finetuned.
"""

import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.files import claim
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.networks.storage import TRAINED
from metaprune_pl.pipelines.copies import CopySettings, make_copies
from metaprune_pl.pipelines.prepare import prune_initially
from metaprune_pl.reports import write_csv
from metaprune_pl.reports.data_models import DataModels
from metaprune_pl.runs.command import goes_on
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import store
from metaprune_pl.runs.run_folder import RunFolder
from metaprune_pl.runs.traces import CLAIMS
from metaprune_pl.stages import DataModelTraining
from metaprune_pl.stages.accuracy import accuracy, measure_accuracy
from metaprune_pl.stages.preparation import InitialPruning

_POLL_SECONDS = 1.0


def _all_there(folder: Path, arguments: Mapping[str, Any]) -> bool:
    return not _missing(folder, arguments["model"].seeds)


@goes_on("model.init_args.seeds", "side_by_side", is_done=_all_there)
def data_models(
    context: Context,
    model: DataModelTraining,
    data: ImageDataModule,
    *,
    initial: InitialPruning | None = None,
    copies: CopySettings | None = None,
    side_by_side: int = 1,
) -> DataModels:
    """Make data models: train, prune a little, finetune; several processes may share the work.

    Writes `networks/seed_NNNN` and its card for each that is missing, its snapshots and copies
    below `networks`, and `data_models.csv`.

    Args:
        context: Where to run; its Trainer's epochs are the length of the training, 0 takes
            pretrained networks as they are.
        model: What is trained: one network from each seed.
        data: The images.
        initial: Pruning and finetuning after the training.
        copies: Copies with zeros, for a zoo to learn accuracies from; None makes none.
        side_by_side: Networks that a process trains in one fit, on the same batches.

    Example:
        metaprune data_models --config data_quickstart.yaml
    """
    if context.max_epochs is None or context.max_epochs < 0:
        raise ConfigError("set trainer.max_epochs: how long the data models are trained.")
    if side_by_side < 1 or (model.pretrained and side_by_side > 1):
        raise ConfigError(
            "side_by_side is 1 for pretrained networks: only their images' order differs."
        )
    seeds = model.seeds
    groups = [seeds[start : start + side_by_side] for start in range(0, len(seeds), side_by_side)]
    while left := context.broadcast([group for group in groups if _is_left(context.folder, group)]):
        made = [_make_claimed(context, data, model, group, initial, copies) for group in left]
        if not any(made):
            with Console(stderr=True).status(f"Other processes are at the last {len(left)} ..."):
                time.sleep(_POLL_SECONDS)
    records = [read_card(stored_at(context.folder, seed)).record for seed in seeds]
    if context.is_global_zero:
        write_csv(context.folder / "data_models.csv", records)
    return DataModels(records=records)


def stored_at(folder: Path, seed: int) -> Path:
    """Return where a run of `data_models` stores the network of a seed."""
    return folder / "networks" / f"seed_{seed:04d}"


def _missing(folder: Path, seeds: Sequence[int]) -> list[int]:
    """Return the seeds whose data models are not in a run's folder yet."""
    return [seed for seed in seeds if not (stored_at(folder, seed) / "network.json").is_file()]


def _work(folder: Path, seeds: Sequence[int]) -> RunFolder:
    name = _name_of(seeds)
    return RunFolder(folder / "work" / name, "data_model", name)


def _is_left(folder: Path, seeds: Sequence[int]) -> bool:
    """Whether data models are missing, or their making was stopped after they were stored."""
    work = _work(folder, seeds)
    stopped = (work.path / "run.json").is_file() and not work.finished
    return stopped or bool(_missing(folder, seeds))


def _make_claimed(
    context: Context,
    data: ImageDataModule,
    training: DataModelTraining,
    seeds: Sequence[int],
    initial: InitialPruning | None,
    copies: CopySettings | None,
) -> bool:
    """Make data models unless another process is at it; return whether they are there."""
    with ExitStack() as held:
        lock = context.folder / CLAIMS / _name_of(seeds)
        mine = context.is_global_zero and held.enter_context(claim(lock))
        if not context.broadcast(mine):
            return False
        if not context.broadcast(_is_left(context.folder, seeds)):
            return True
        work = _work(context.folder, seeds)
        if context.is_global_zero:
            held.enter_context(work.running())
        if todo := context.broadcast(_missing(context.folder, seeds)):
            _make(context, data, training, seeds, todo, initial, copies)
    return True


def _make(
    context: Context,
    data: ImageDataModule,
    training: DataModelTraining,
    seeds: Sequence[int],
    todo: Sequence[int],
    initial: InitialPruning | None,
    copies: CopySettings | None,
) -> None:
    """Train networks side by side, and store those that are to do."""
    work = _work(context.folder, seeds).path
    data.count("train")  # what is used of the images does not depend on their order
    own, images = replace(context, folder=work), copy.copy(data)
    if training.pretrained:
        images.seed += seeds[0]
    trainer = own.make_trainer(work, context.max_epochs)
    trainer.fit(training.for_seeds(seeds), datamodule=images)
    context.barrier()
    for seed in todo:
        _finish(own, images, context.folder, seed, initial, copies)
        context.barrier()


def _finish(
    context: Context,
    data: ImageDataModule,
    folder: Path,
    seed: int,
    initial: InitialPruning | None,
    copies: CopySettings | None,
) -> None:
    """Prune a trained network, make its copies, and store all with their accuracies."""
    source = stored_at(context.folder, seed)
    base = source.name
    own = replace(context, folder=context.folder / base)
    snapshots = sorted(source.parent.glob(f"snapshots/{base}_*"))
    for snapshot in snapshots:
        _keep(context, data, snapshot, folder / "networks/snapshots" / snapshot.name, {})
    trained = measure_accuracy(load_network(source), data, "test", context.device)
    record: dict[str, Any] = {"speed_up": 1.0, **trained.record(TRAINED)}
    if initial is not None:
        source, facts = prune_initially(own, data, source, initial)
        record |= facts
    if copies is not None:
        for name, copy_, facts in make_copies(own, data, [*snapshots, source], copies, seed):
            _keep(context, data, copy_, folder / "networks/copies" / f"{base}_{name}", facts)
    _keep(context, data, source, stored_at(folder, seed), record)


def _keep(
    context: Context, data: ImageDataModule, source: Path, target: Path, record: dict[str, Any]
) -> None:
    """Store a network where it belongs, with its accuracy on the validation images."""
    network = load_network(source)
    card = read_card(source)
    reached = accuracy(network, data, "validation", context.device)
    known = {**card.record, **record, "validation_accuracy": reached}
    known["base"] = f"seed_{card.record['seed']:04d}"
    store(context, target, network.cpu(), replace(card, record=known))


def _name_of(seeds: Sequence[int]) -> str:
    """Return the name of some seeds' work, which a file can have however many they are."""
    name = "seeds_" + "_".join(f"{seed:04d}" for seed in seeds)
    if len(name) <= 255:
        return name
    return f"seeds_{seeds[0]:04d}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
