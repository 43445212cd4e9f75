"""`train`: one network, from scratch or from trained weights."""

from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from metaprune_pl.data import ImageDataModule, ImageFolder
from metaprune_pl.networks import NetworkSource, load_network
from metaprune_pl.pruning import count_macs, count_parameters
from metaprune_pl.reports.next_step import command_line
from metaprune_pl.reports.trained import Trained
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import fit_once
from metaprune_pl.stages import Finetuning, OptimizerSettings
from metaprune_pl.stages.accuracy import accuracy, by_chance
from metaprune_pl.stages.checks import check_fits
from metaprune_pl.stages.opening import open_for
from metaprune_pl.stages.training_settings import FinetuneSettings

SCRATCH = FinetuneSettings(
    epochs=30,
    optimizer=OptimizerSettings(name="adamw", lr=0.001, schedule="cosine"),
    keep="best",
)


def train(
    context: Context,
    data: ImageDataModule,
    *,
    training: FinetuneSettings = SCRATCH,
    **network: Any,
) -> Trained:
    """Train one network on images, from random or from trained weights.

    Args:
        context: Where to run.
        data: The images.
        training: How long it is trained, and how.
        network: The network: see `NetworkSource`.

    Example:
        metaprune train timm/resnet18 --data photos
    """
    source = NetworkSource(**network)
    check_fits(*open_for(source, data), data)  # before any time is spent
    build = partial(
        Finetuning,
        **asdict(source),
        optimizer=training.optimizer,
        label_smoothing=training.label_smoothing,
        keep=training.keep,
    )
    folder = fit_once(context, data, training, context.folder, build)
    trained = load_network(folder).to(context.device)
    test = accuracy(trained, data, "test", context.device)
    if not context.is_part:
        if said := by_chance(test, data.num_classes):
            context.closing.append(f"The network {said}: train longer (--training.epochs).")
        images = data.folder if isinstance(data, ImageFolder) else type(data).__name__
        following = command_line("prune", folder, "--data", images, "--speed_up", 2)
        context.closing.append(f"Next: {following}")
    return Trained(
        folder=str(folder),
        macs=count_macs(trained, torch.zeros(1, *data.input_shape, device=context.device)),
        parameters=count_parameters(trained),
        validation=accuracy(trained, data, "validation", context.device),
        test=test,
    )
