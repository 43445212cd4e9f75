"""What is known of a network before anything in it is pruned."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.networks import NetworkCard, create_network
from metaprune_pl.networks.examples import Example, to_device
from metaprune_pl.pruning.cost import Cost
from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.heads import AttentionUnits
from metaprune_pl.pruning.macs import count_macs
from metaprune_pl.pruning.trials import prunable_groups


@dataclass(frozen=True, kw_only=True, eq=False)
class Unpruned:
    """What is known of a network before anything in it is pruned; no training changes it.

    Attributes:
        original: The network before any pruning at all, which speed-ups count from; its weights
            do not matter.
        example: One input as a batch, such as an image [1, C, H, W].
        graph: Graph of the network as it is now.
        groups: Its pruning groups; None where masks alone are wanted.
        attention: What goes together in attention.
    """

    original: nn.Module
    example: Example
    graph: WeightGraph
    groups: PruningGroups | None
    attention: AttentionUnits = "width"

    def base(self, cost: Cost) -> float:
        """Cost of the network before any pruning."""
        return cost.of_network(self.original, self.example_for(self.original))

    def speed_up(self, cost: Cost, network: nn.Module) -> float:
        """How much less another state of the network costs than before any pruning."""
        original = self.original.to(device_of(network))
        return cost.ratio(original, self.example_for(original), network, self.example_for(network))

    def example_for(self, network: nn.Module) -> Example:
        """Return the example on a network's device."""
        weight = next(network.parameters(), None)
        return self.example if weight is None else to_device(self.example, weight.device)

    def now(self, network: nn.Module) -> "Unpruned":
        """Return what is known of the network after it has been pruned to other widths."""
        example = self.example_for(network)
        if self.groups is None:
            return replace(self, graph=trace(network, example))
        groups = prunable_groups(network, example, self.attention)
        return replace(self, graph=groups.graph, groups=groups)


def as_built(card: NetworkCard) -> nn.Module:
    """Build the network that a stored one was before any pruning, with other weights."""
    network = create_network(card.settings.builder, seed=0, **card.settings.arguments)
    return network.eval()


def unpruned_macs(card: NetworkCard) -> int:
    """Count multiply-accumulates of `as_built` for one image."""
    return count_macs(as_built(card), card.example())


def examine(
    network: nn.Module,
    example: Example,
    *,
    original: nn.Module | None = None,
    channels: bool = True,
    attention: AttentionUnits = "width",
) -> Unpruned:
    """Find out what is to be known of a network before it is pruned.

    Args:
        network: Left as it is.
        example: One input as a batch, such as an image [1, C, H, W], on the network's device.
        original: The network before any pruning; None is `network` itself.
        channels: Whether channels will be removed, which needs pruning groups.
        attention: What goes together in attention.

    Raises:
        PruningError: The network is frozen, or nothing in it can be pruned.
        TraceError: The network cannot be turned into a graph.
    """
    groups = _groups(network, example, attention) if channels else None
    return Unpruned(
        original=network if original is None else original,
        example=example,
        graph=trace(network, example) if groups is None else groups.graph,
        groups=groups,
        attention=attention,
    )


def _groups(network: nn.Module, example: Example, attention: AttentionUnits) -> PruningGroups:
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PruningError(
            "the network is frozen: no parameter requires a gradient. Call requires_grad_(True) "
            "first."
        )
    groups = prunable_groups(network, example, attention)
    if not bool(groups.prunable.any()):
        raise PruningError(
            "nothing can be pruned in this network: all its channels are the image's or the "
            "classes', or tied to them, or without any of them the forward pass does not run or "
            f"differs from the masked one{_unfollowed(groups)}."
        )
    return groups


def _unfollowed(groups: PruningGroups) -> str:
    """What the trace could not follow, for errors."""
    operations = groups.graph.unfollowed
    return f", or beside operations that are not followed ({operations[0]})" if operations else ""


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters."""
    return next((value.device for value in network.parameters()), torch.device("cpu"))
