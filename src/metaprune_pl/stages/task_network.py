"""Which network of a task is pruned, and how."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from lightning.pytorch import LightningDataModule
from torch import nn

from metaprune_pl.networks import NetworkCard
from metaprune_pl.networks.inputs import read_shape
from metaprune_pl.pruning import Importance, Magnitude, PruningSettings, Target, Unpruned
from metaprune_pl.pruning.examination import examine_for
from metaprune_pl.pruning.pruner import Pruner
from metaprune_pl.pruning.recovery import Recovery, RepairSettings
from metaprune_pl.stages.preparation import PrunedSource
from metaprune_pl.stages.tasks import LearningTask


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A network that can be pruned.

    Attributes:
        network: All of it, in evaluation mode.
        card: Its card.
        unpruned: What is known of the part of it that is pruned.
    """

    network: nn.Module
    card: NetworkCard
    unpruned: Unpruned


@dataclass(frozen=True, kw_only=True)
class TaskNetwork(PrunedSource):
    """Which network is pruned, and how.

    Attributes:
        input_shape: Sizes of one input, as in 3,224,224, or a word for each of several inputs,
            [NAME=]SIZES[:ids|:mask|:flags]; None is what the network is known to be made for.
        criterion: Which channels matter: Magnitude, Scales, Random, or your own.
    """

    input_shape: str | None = None
    criterion: Importance = field(default_factory=Magnitude)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    repair: RepairSettings | None = None

    def examined(
        self, task: LearningTask, data: LightningDataModule, targets: Sequence[Target]
    ) -> Examined:
        """Open the network, and refuse what cannot be done with it.

        Args:
            task: What it learns.
            data: What it learns from.
            targets: What it is pruned to.

        Raises:
            ConfigError: The network or the data are not for the task, or a target is reached.
            NetworkError: The network cannot be built.
            PruningError: The network is frozen, or a target is out of reach.
            StorageError: The folder or the state cannot be read.
        """
        shape = None if self.input_shape is None else read_shape(self.input_shape)
        network, card = self.open(input_shape=shape)
        task.check(network, data)
        part, attention = network.get_submodule(task.part), self.pruning.attention
        unpruned = examine_for(targets, part, card, attention, task.part)
        return Examined(network=network, card=card, unpruned=unpruned)

    def pruner(
        self,
        task: LearningTask,
        network: nn.Module,
        data: LightningDataModule,
        device: torch.device,
    ) -> Pruner:
        """Return how the network is pruned.

        Args:
            task: What it learns.
            network: The whole of it, on the device.
            data: What it learns from.
            device: Where it is.
        """
        sample = partial(task.sample, network, data, device)
        recovery = Recovery(sample=sample, statistics=self.statistics, repair=self.repair)
        return Pruner(criterion=self.criterion, images=lambda importance: None, recovery=recovery)
