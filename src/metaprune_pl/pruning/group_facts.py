"""What pruning groups are, and why some channels belong to none, for people."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.pruning.groups import PruningGroups


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """A pruning group.

    Attributes:
        name: Its first layer.
        layers: Layers whose channels go together.
        width: Channels of the first layer.
        units: Number of prunable units: sets of channels that can only go together, over all
            layers.
    """

    name: str
    layers: tuple[str, ...]
    width: int
    units: int


def group_facts(groups: PruningGroups) -> tuple[GroupFacts, ...]:
    """Return the groups that can be pruned, in the order of their layers."""
    layers: dict[int, list[str]] = {}
    width: dict[int, int] = {}
    for layer in groups.graph.groups:
        for number in groups.group[groups.unit[layer.start : layer.stop]].unique().tolist():
            layers.setdefault(number, []).append(layer.name)
            width.setdefault(number, layer.size)
    for (
        connection
    ) in groups.graph.connections:  # layers whose outputs are added to those of another
        for number in groups.group[groups.unit[connection.target.flatten()]].unique().tolist():
            if connection.parameter is not None and connection.name not in layers[number]:
                layers[number].append(connection.name)
    return tuple(
        GroupFacts(name=name, layers=tuple(layers[number]), width=width[number], units=units)
        for number, (name, units) in enumerate(
            zip(groups.names, groups.sizes().tolist(), strict=True)
        )
        if units
    )


def reasons_to_stay(groups: PruningGroups) -> dict[str, str]:
    """Return the layers with channels that cannot be pruned: how many, and why."""
    graph = groups.graph
    image = torch.zeros(len(groups.prunable), dtype=torch.bool)
    classes, counted = image.clone(), image.clone()
    image[groups.unit[graph.inputs]] = True
    classes[groups.unit[graph.output]] = True
    counted[groups.unit[graph.constraints.fixed]] = True

    def why(units: Tensor) -> str:
        if bool(image[units].any()):
            return "the image's channels, or tied to them"
        if bool(classes[units].any()):
            return "the network's output, or tied to it"
        if bool(counted[units].any()):
            return (
                "something is made for as many (zero padding, one gate for all, fixed places, an "
                "operation that is not followed)"
            )
        return "the forward pass does not run with fewer, as a trial has shown"

    found = {}
    for layer in graph.groups:
        units = groups.unit[layer.start : layer.stop]
        if number := int((~groups.prunable[units]).sum()):
            found[layer.name] = (
                f"{number} of {layer.size} channels: {why(units[~groups.prunable[units]])}"
            )
    return found
