"""From a stored network to one that is ready for pruning.

Metanetwork or a control, then finetuning.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.metanetworks.rewriting import rewrite
from metaprune_pl.metanetworks.storage import find_metanetwork
from metaprune_pl.networks import NetworkCard, load_network, read_card
from metaprune_pl.pruning import Target, Unpruned, count_macs, prune
from metaprune_pl.pruning.balancing import check_balance
from metaprune_pl.pruning.examination import examine_for
from metaprune_pl.pruning.targets import ChannelTarget
from metaprune_pl.pruning.unpruned import as_built, unpruned_macs
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.cost import trained_images
from metaprune_pl.runs.once import store, train_once
from metaprune_pl.stages.accuracy import accuracy
from metaprune_pl.stages.checks import check_fits
from metaprune_pl.stages.opening import open_for
from metaprune_pl.stages.preparation import InitialPruning, Preparation
from metaprune_pl.stages.samples import measured_images, training_recovery


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A network that is ready for pruning.

    Attributes:
        card: Its card.
        given: Folder of the network as it was given.
        network: On the context's device, in evaluation mode.
        unpruned: What is known of it.
    """

    card: NetworkCard
    given: Path
    network: nn.Module
    unpruned: Unpruned


def prepare(
    context: Context, data: ImageDataModule, preparation: Preparation, targets: Sequence[Target]
) -> Ready:
    """Make a network ready for pruning; every step leaves a stored network in the run's folder.

    Args:
        context: Where to run.
        data: The images.
        preparation: What to make ready, and how.
        targets: Targets of the pruning that follows; checked before any time is spent.

    Raises:
        ConfigError: A target is reached already, the network was made for other images, or the
            metanetwork for other networks.
        DataError: The images are missing or cannot be read.
        PruningError: The network is frozen, or the last target is out of reach.
        NetworkError: The network cannot be built.
        StorageError: There is no such network, state or metanetwork.
    """
    if preparation.metanetwork is not None:
        find_metanetwork(preparation.metanetwork)
    network, card = open_for(preparation, data)
    check_fits(network, card, data)
    unpruned = _examined(preparation, targets, network, card)
    stored = preparation.stored
    start = source = Path(preparation.network) if stored else context.folder / "source"
    if preparation.initial is not None:
        _check_initial(preparation.initial, targets, unpruned)
        card = card if stored else store(context, source, network, card)
        start, card = _after_initial(context, data, source, preparation.initial)
        network = load_network(start)
        unpruned = _examined(preparation, targets, network, card)
    rewritten, card = _rewritten(context, data, preparation, network, unpruned.graph, card)
    if start == source and not stored:
        card = store(context, source, network, card)
    final, card = _make_ready(context, data, preparation, start, card, rewritten)
    return Ready(
        card=card,
        given=source,
        network=load_network(final).to(context.device),
        unpruned=unpruned,
    )


def _examined(
    preparation: Preparation, targets: Sequence[Target], network: nn.Module, card: NetworkCard
) -> Unpruned:
    """Find out what is to be known of a network, and refuse what cannot be done with it."""
    unpruned = examine_for(targets, network, card, preparation.pruning.attention)
    if preparation.balance:
        check_balance(unpruned.graph)
    return unpruned


def _check_initial(initial: InitialPruning, targets: Sequence[Target], unpruned: Unpruned) -> None:
    """Refuse targets that the initial pruning is beyond already."""
    asked = (t.speed_up(unpruned) for t in targets if isinstance(t, ChannelTarget))
    lowest = min(asked, default=math.inf)
    if lowest <= initial.speed_up:
        raise ConfigError(
            f"initial.speed_up is {initial.speed_up:g}: targets are above it, and one is "
            f"{lowest:g}."
        )


def _after_initial(
    context: Context, data: ImageDataModule, source: Path, initial: InitialPruning
) -> tuple[Path, NetworkCard]:
    """Prune a network initially; return where the result is, and its card."""
    own = replace(context, folder=context.folder / "initial")
    result, record = prune_initially(own, data, source, initial)
    name = read_card(source).record.get("name", source.name)
    card = read_card(result)
    return result, replace(card, record={**card.record, **record, "name": name})


def _rewritten(
    context: Context,
    data: ImageDataModule,
    preparation: Preparation,
    network: nn.Module,
    graph: WeightGraph,
    card: NetworkCard,
) -> tuple[nn.Module | None, NetworkCard]:
    """Return what the metanetwork makes of a network, None without one, and the card."""
    if preparation.metanetwork is None:
        return None, card
    rewritten = copy.deepcopy(network).to(context.device)
    engine = rewrite(rewritten, graph, preparation.metanetwork)
    training_recovery(data, context.device, preparation.statistics).rewritten(rewritten)
    return rewritten, replace(card, record={**card.record, "engine": engine})


def _make_ready(
    context: Context,
    data: ImageDataModule,
    preparation: Preparation,
    source: Path,
    card: NetworkCard,
    rewritten: nn.Module | None,
) -> tuple[Path, NetworkCard]:
    """Store a network after each step that it needs; return the last folder, and the card."""
    given, name = source, card.record.get("name", source.name)
    method = preparation.method or card.record.get("method", "none")
    if rewritten is not None:
        card = replace(card.without_accuracies(), masked=[])  # new weights are not zero
        source = context.folder / "rewritten"
        store(context, source, rewritten, card)
    build = partial(preparation.training, teacher=given)
    source = train_once(context, data, preparation.finetune, source, build)
    if source != given:
        card = card.without_accuracies()
    images = card.record.get("images", 0) + trained_images(context.folder / "finetuned")
    record = {**card.record, "name": name, "method": method, "images": images}
    card = replace(card, record=record)
    if source != given or not preparation.stored:
        store(context, source, load_network(source), card)
    return source, card


def prune_initially(
    context: Context, data: ImageDataModule, source: Path, initial: InitialPruning
) -> tuple[Path, dict[str, Any]]:
    """Prune and finetune a stored network in the context's folder.

    Returns:
        Folder of the result, and what to record of it.
    """
    network, card = load_network(source).to(context.device), read_card(source)
    macs, example = unpruned_macs(card), card.example(context.device)
    trained = accuracy(network, data, "validation", context.device)
    (pruned,) = prune(
        network,
        example,
        speed_ups=[initial.speed_up],
        original=as_built(card).to(context.device),
        criterion=initial.criterion,
        settings=initial.pruning,
        images=measured_images(data, context.device, initial.criterion),
    )
    result = context.folder / "pruned"
    store(context, result, pruned, card.without_accuracies())
    build = partial(initial.finetune.build, teacher=source)
    result = train_once(context, data, initial.finetune, result, build)
    record = {
        "speed_up": macs / count_macs(pruned, example),
        "validation_accuracy_trained": trained,
        "epochs_finetuned": initial.finetune.epochs,
    }
    return result, record
