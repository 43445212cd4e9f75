"""The one loop of all that prunes: importance, pruned network, finetune, measure, store."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Generic, Self, TypeVar

from lightning.pytorch import LightningDataModule
from torch import nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkCard, load_network, save_network
from metaprune_pl.pruning import Target, Unpruned
from metaprune_pl.pruning.pruner import Pruner
from metaprune_pl.pruning.targets import PrunedNetwork
from metaprune_pl.reports import Result, write_json
from metaprune_pl.reports.planned import tell_of_narrow_layers
from metaprune_pl.runs.command import tell
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import check_step, store, train_once
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.training_settings import TrainingSettings

R = TypeVar("R", bound=Result)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task(ABC, Generic[R]):
    """What is pruned, and how it is trained and measured.

    Attributes:
        context: Where to run.
        card: Card of the network.
        network: The network, ready for pruning, on the context's device and in evaluation mode.
        unpruned: What is known of it, or of the part of it that is pruned.
        pruner: How it comes to its targets.
        data: What it learns from.
        settings: Training after pruning.
        part_name: Name of the part that is pruned; empty is all of it.
    """

    context: Context
    card: NetworkCard
    network: nn.Module
    unpruned: Unpruned
    pruner: Pruner
    data: LightningDataModule
    settings: TrainingSettings
    part_name: str = ""

    def inside(self, folder: str) -> Self:
        """Return the same task in a folder of the context's."""
        return replace(self, context=replace(self.context, folder=self.context.folder / folder))

    def part_of(self, network: nn.Module) -> nn.Module:
        """Return the part of a network that is pruned."""
        return network.get_submodule(self.part_name)

    def with_part(self, part: nn.Module) -> nn.Module:
        """Return the network with another part."""
        if not self.part_name:
            return part
        network = copy.deepcopy(self.network)
        network.set_submodule(self.part_name, part)
        return network

    @abstractmethod
    def kind(self, target: Target) -> type[R]:
        """Return the class of what is measured for a target."""

    @abstractmethod
    def training(self, source: Path) -> NetworkTraining:
        """Return the training of a stored network after pruning."""

    def announce(self, target: Target, pruned: PrunedNetwork) -> None:
        """Tell what pruning made of the network, before it is trained.

        Args:
            target: What was asked for.
            pruned: The part that was pruned.
        """

    @abstractmethod
    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> R:
        """Measure a network.

        Args:
            target: What was asked for.
            pruned: The part that was pruned, straight after that.
            final: The whole network as it is in the end.
        """


def prune_to_targets(
    task: Task[R], targets: Sequence[Target], rounds: int = 1, *, rewind: bool = True
) -> list[R]:
    """Prune a network to each target, finetune, measure and store it.

    Writes `TARGET/network` and `TARGET/result.json` for each target to the run's folder. Targets
    that are there already are not made again, and are looked at before others are made.

    Args:
        task: What is pruned, and how it is trained and measured.
        targets: What it is pruned to.
        rounds: Rounds in which each target is reached.
        rewind: Whether weights are rewound after each round.

    Raises:
        StorageError: A target that is there is not whole any more.
    """
    files = [task.context.folder / target.folder / "result.json" for target in targets]
    there = task.context.broadcast([file.is_file() for file in files])
    for target, file, done in zip(targets, files, there, strict=True):
        if done:
            check_step(file.parent, task.kind(target))
    todo = [target for target, done in zip(targets, there, strict=True) if not done]
    told = False
    made = zip(todo, _pruned(task, todo, rounds, rewind), strict=True)
    for index, (target, pruned) in enumerate(made):
        if len(todo) > 1 and not task.context.is_part:
            tell(f"Target {index + 1} of {len(todo)}: {target.label}")
        before = task.part_of(task.network)
        told = told or tell_of_narrow_layers(before, pruned.network, target.label)
        task.announce(target, pruned)
        _finish(task.inside(target.folder), target, pruned)
    task.context.barrier()
    return [task.kind(target).read(file) for target, file in zip(targets, files, strict=True)]


def trained_to(task: Task[R], target: Target) -> nn.Module:
    """Return a network that is pruned to a target and finetuned, without a measurement.

    What is done here `prune_to_targets` does not do again.
    """
    (pruned,) = task.pruner.reach([target], task.part_of(task.network), task.unpruned)
    return _trained(task.inside(target.folder), target, pruned)


def _pruned(
    task: Task[R], targets: Sequence[Target], rounds: int, rewind: bool
) -> Iterator[PrunedNetwork]:
    if rounds > 1:
        inside = ((task.inside(target.folder), target) for target in targets)
        return (_in_rounds(own, target, rounds, rewind) for own, target in inside)
    return task.pruner.reach(targets, task.part_of(task.network), task.unpruned)


def _in_rounds(task: Task[R], target: Target, rounds: int, rewind: bool) -> PrunedNetwork:
    """Prune to a target in rounds (Frankle and Carbin 2019; Renda et al. 2020).

    Each round prunes by as much what the training after the last round led to. With rewinding it
    gives what is left the weights again that it had when the network was ready.
    """
    trained, unpruned = task.part_of(task.network), task.unpruned
    weights = trained if rewind else None
    *between, last = target.in_rounds(trained, unpruned, rounds)
    for index, step in enumerate(between, 1):
        (pruned,) = task.pruner.reach([step], trained, unpruned, weights)
        weights = pruned.network if rewind else None
        trained = task.part_of(_trained(task.inside(f"round_{index}"), target, pruned))
        unpruned = unpruned.now(trained)
    (pruned,) = task.pruner.reach([last], trained, unpruned, weights)
    return pruned


def _finish(task: Task[R], target: Target, pruned: PrunedNetwork) -> None:
    """Finetune, measure and store a pruned network; the result says that all is there."""
    final = _trained(task, target, pruned)
    result = task.measure(target, pruned, final)
    if task.context.is_global_zero:
        card = _card(task, pruned)
        record = {**card.record, **result.record}
        save_network(task.context.folder / "network", final, replace(card, record=record))
        write_json(task.context.folder / "result.json", asdict(result))


def _trained(task: Task[R], target: Target, pruned: PrunedNetwork) -> nn.Module:
    """Store a pruned network, train it, and return the whole of it."""
    source = task.context.folder / target.verb
    store(task.context, source, task.with_part(pruned.network), _card(task, pruned))
    trained = train_once(task.context, task.data, task.settings, source, task.training)
    final = load_network(trained).to(task.context.device)
    if pruned.masks is not None:
        for name, kept in pruned.masks.kept.items():
            weight = final.get_parameter(name)
            assert not weight[~kept.to(weight.device)].any(), name
    return final


def _card(task: Task[R], pruned: PrunedNetwork) -> NetworkCard:
    card = task.card.without_accuracies()
    if pruned.masks is None:
        return card
    return replace(card, masked=sorted(pruned.masks.kept))


def check_rounds(rounds: int, epochs: int) -> None:
    """Refuse rounds of pruning without training between them.

    Raises:
        ConfigError: There are no rounds, or several and no epochs.
    """
    if rounds < 1 or (rounds > 1 and not epochs):
        raise ConfigError(
            "rounds is at least 1, and each but the last trains for finetune_after.epochs, above "
            "0 then."
        )
