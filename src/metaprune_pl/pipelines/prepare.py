"""From a stored network to one that is ready for pruning.

Metanetwork or a control, then finetuning.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.images import Split
from metaprune_pl.errors import ConfigError, TraceError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.metanetworks.storage import find_metanetwork
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSource,
    create_network,
    load_network,
    save_network,
)
from metaprune_pl.pipelines.context import Context
from metaprune_pl.pruning import (
    AttentionUnits,
    Importance,
    Magnitude,
    PruningGroups,
    PruningSettings,
    Sparsity,
    count_macs,
)
from metaprune_pl.pruning.structured import check_ahead, check_prunable
from metaprune_pl.stages import Finetuning, OptimizerSettings
from metaprune_pl.stages.finetuning import check_fits


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How long a network is trained, and how.

    Attributes:
        epochs: How long; 0 leaves the step out.
        optimizer: Optimiser and learning rate.
    """

    epochs: int = 10
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=0.01))

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ConfigError(f"epochs is {self.epochs}; it is at least 0.")


CHANCE = 1.2
"""Accuracy below so many times that of guessing counts as chance."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """An ordinary training of a classifier that was trained before.

    Attributes:
        epochs: How long; 0 leaves the step out.
        optimizer: Optimiser and learning rate.
        label_smoothing: Share of the label spread over the other classes.
    """

    label_smoothing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A network that is ready for pruning.

    Attributes:
        name: Name of the network that it came from.
        method: How it was made ready: `none`, `sparsity_learning` or `metanetwork`.
        card: Its card.
        given: Folder of the network as it was given.
        network: On the context's device, in evaluation mode.
        base_macs: Multiply-accumulates of the unpruned network for one image.
        checked: What `check_prunable` found, which no step before pruning changes; None where it
            was not asked.
    """

    name: str
    method: str
    card: NetworkCard
    given: Path
    network: nn.Module
    base_macs: int
    checked: tuple[PruningGroups, int] | None


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a network is made ready for pruning, and how it will be pruned.

    Attributes:
        source: The network.
        metanetwork: Folder of a metanetwork (or of several: the last is taken) that rewrites it
            first.
        sparsity: Sparsity term of the finetuning, instead of a metanetwork: DepGraph's sparsity
            learning.
        criterion: Which channels matter.
        pruning: Steps and floors.
        finetune: Finetuning before pruning.
    """

    source: NetworkSource
    metanetwork: str | None
    sparsity: Sparsity | None
    criterion: Importance
    pruning: PruningSettings
    finetune: FinetuneSettings

    def __post_init__(self) -> None:
        if self.metanetwork is not None and self.sparsity is not None:
            raise ConfigError(
                "give a metanetwork or a sparsity term for the finetuning, not both: they are two "
                "methods."
            )
        if self.sparsity is not None and not isinstance(self.criterion, Magnitude):
            raise ConfigError(
                f"criterion is {type(self.criterion).__name__}; a sparsity term follows Magnitude "
                "alone."
            )


def prepare(
    context: Context, data: ImageDataModule, how: Preparation, speed_ups: Sequence[float] | None
) -> Ready:
    """Make a network ready for pruning; every step leaves a stored network in the run's folder.

    Args:
        context: Where to run.
        data: The images.
        how: What to make ready, and how.
        speed_ups: Targets of the pruning that follows; checked before any time is spent. None
            removes no channels.

    Raises:
        ConfigError: The targets make no sense or are reached already, the network was made for
            other images, or the metanetwork for other networks.
        DataError: The images are missing or cannot be read.
        PruningError: The network is frozen, or the last target is out of reach.
        NetworkError: The network cannot be built.
        StorageError: There is no such network, state or metanetwork.
    """
    if how.metanetwork is not None:
        find_metanetwork(how.metanetwork)
    network, card = how.source.open(input_shape=data.input_shape, num_classes=data.num_classes)
    check_fits(network, card, data)
    base_macs, example = unpruned_macs(card), torch.zeros(1, *card.input_shape)
    checked = None
    if speed_ups is not None:
        checked = check_prunable(network, example, speed_ups, base_macs, how.pruning)
        if (now := check_ahead(network, example, speed_ups, base_macs)) > 1 < speed_ups[-1]:
            rank_zero_info(
                f"The network is at {now:.2f}x: speed-ups count from the network before any "
                "pruning."
            )
    rewritten = None
    if how.metanetwork is not None:
        graph = trace(network, example) if checked is None else checked[0].graph
        rewritten = rewrite(context, copy.deepcopy(network), graph, how.metanetwork)
    source = given = Path(how.source.network) if how.source.stored else context.folder / "source"
    if context.is_global_zero and not how.source.stored:
        card = save_network(source, network, card)
    context.barrier()
    method, name = card.record.get("method", "none"), card.record.get("name", source.name)
    if rewritten is not None:
        card = replace(card, masked=[])  # new weights are not zero
        method, source = "metanetwork", context.folder / "rewritten"
        if context.is_global_zero:
            save_network(source, rewritten, card)
        context.barrier()
    elif how.sparsity is not None:
        method = "sparsity_learning"
    if how.finetune.epochs:
        source = run_finetuning(
            context,
            data,
            "finetuned",
            source,
            how.finetune,
            how.sparsity,
            how.criterion,
            how.pruning.attention,
        )
    card = replace(card, record={**card.record, "name": name, "method": method})
    if context.is_global_zero and source != Path(how.source.network):
        save_network(source, load_network(source), card)
    context.barrier()
    network = load_network(source).to(context.device)
    return Ready(
        name=name,
        method=method,
        card=card,
        given=given,
        network=network,
        base_macs=base_macs,
        checked=checked,
    )


def check_rounds(rounds: int, finetuning: FinetuneSettings) -> None:
    """Refuse rounds of pruning without training between them.

    Raises:
        ConfigError: There are no rounds, or several and no epochs.
    """
    if rounds < 1 or (rounds > 1 and not finetuning.epochs):
        raise ConfigError(
            "rounds is at least 1, and each but the last trains for finetune_after.epochs, above "
            "0 then."
        )


def unpruned_macs(card: NetworkCard) -> int:
    """Count multiply-accumulates of the network that a stored one was before any pruning, for one image."""
    unpruned = create_network(card.settings.builder, seed=0, **card.settings.arguments)
    return count_macs(unpruned, torch.zeros(1, *card.input_shape))


@torch.no_grad()
def rewrite(
    context: Context, network: nn.Module, graph: WeightGraph, metanetwork: str
) -> nn.Module:
    """Give a network, or the part of one that a graph is of, the weights that a metanetwork makes of its own.

    Raises:
        ConfigError: The metanetwork has no place for a parameter, or does not know a size of its
            kernels.
    """
    network.to(context.device)
    try:
        new = load_metanetwork(metanetwork).to(context.device).rewrite(graph, network.state_dict())
    except TraceError as error:
        raise ConfigError(
            f"the metanetwork '{metanetwork}' does not go with the network: {error} Meta-training "
            "is `metaprune fit`; "
            "to go without, set metanetwork to null."
        ) from error
    network.load_state_dict(new)
    return network


def run_finetuning(
    context: Context,
    data: ImageDataModule,
    name: str,
    source: Path,
    settings: FinetuneSettings,
    sparsity: Sparsity | None,
    criterion: Importance,
    attention: AttentionUnits = "width",
) -> Path:
    """Finetune a stored network in a folder of its own, unless that was done before.

    Return the result's folder.
    """
    result = context.folder / name / "network"
    if context.broadcast(not (result / "network.json").is_file()):
        module = Finetuning(
            network=str(source),
            optimizer=settings.optimizer,
            label_smoothing=settings.label_smoothing,
            sparsity=sparsity,
            criterion=criterion if isinstance(criterion, Magnitude) else Magnitude(),
            attention=attention,
        )
        trainer = context.make_trainer(context.folder / name, settings.epochs)
        trainer.fit(module, datamodule=data)
    context.barrier()
    return result


def accuracies_before(context: Context, data: ImageDataModule, ready: Ready) -> tuple[float, float]:
    """Return the test accuracy of a network as it was given, and as it is when ready for pruning."""
    given = accuracy(load_network(ready.given), data, "test", context.device)
    if given * data.num_classes < CHANCE:
        rank_zero_info(
            f"The network as given classifies {100 * given:.1f} % of the test images, no better "
            "than chance: has it "
            "its weights (--state), and the images the normalization that it was trained with?"
        )
    return given, accuracy(ready.network, data, "test", context.device)


@torch.inference_mode()
def accuracy(
    network: nn.Module, data: ImageDataModule, split: Split, device: torch.device
) -> float:
    """Share of the images of a part of the data that a network classifies correctly."""
    network = network.to(device).eval()
    correct = total = 0
    for images, labels in data.evaluation(split, device):
        correct += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return correct / total
