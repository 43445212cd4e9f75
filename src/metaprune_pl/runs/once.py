"""Steps of a run that leave a stored network, each done once for all processes and restarts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning.pytorch import LightningDataModule
from torch import nn

from metaprune_pl.errors import StorageError
from metaprune_pl.networks import NetworkCard, save_network
from metaprune_pl.networks.storage import check_stored
from metaprune_pl.reports import Result
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.training_settings import TrainingSettings


def store(context: Context, folder: Path, network: nn.Module, card: NetworkCard) -> NetworkCard:
    """Store a network once for all processes of a run, and return its card."""
    if context.is_global_zero:
        card = save_network(folder, network, card)
    context.barrier()
    return card


def train_once(
    context: Context,
    data: LightningDataModule,
    settings: TrainingSettings,
    source: Path,
    build: Callable[..., NetworkTraining],
    name: str = "finetuned",
) -> Path:
    """Train a stored network in a folder of its own, unless it is left out or was done before.

    Args:
        context: Where to run.
        data: What it learns from.
        settings: How long.
        source: Folder of the network.
        build: Returns the training of a stored network.
        name: Folder in the context's where the training's files go.

    Returns:
        Folder of the trained network.
    """
    if not settings.length:
        return source
    return fit_once(context, data, settings, context.folder / name, partial(build, source))


def fit_once(
    context: Context,
    data: LightningDataModule,
    settings: TrainingSettings,
    folder: Path,
    build: Callable[[], NetworkTraining],
) -> Path:
    """Run a training in a folder, unless that was done before, and return its network's folder."""
    there = (folder / "network" / "network.json").is_file()
    if there:
        check_step(folder)
    if context.broadcast(not there):
        settings.make_trainer(context.make_trainer, folder).fit(build(), datamodule=data)
    context.barrier()
    return folder / "network"


def check_step(folder: Path, kind: type[Result] | None = None) -> None:
    """Refuse to go on from a finished step that is not whole any more.

    Args:
        folder: Folder of the step.
        kind: Of its result; None has none.

    Raises:
        StorageError: Its network or result is damaged or gone.
    """
    try:
        check_stored(folder / "network")
        if kind is not None:
            kind.read(folder / "result.json")
    except StorageError as error:
        way_out = f"Remove '{folder}', and the same command makes it again."
        raise StorageError(f"{error} {way_out}") from error
