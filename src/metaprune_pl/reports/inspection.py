"""What the program sees in a network, as facts and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from rich.console import RenderableType
from rich.table import Table
from torch import nn

from metaprune_pl.networks.inputs import Shape, shape_as_text
from metaprune_pl.pruning import Magnitude, PruningGroups, PruningSettings, count_parameters
from metaprune_pl.pruning.attributes import attributes_set
from metaprune_pl.pruning.group_facts import GroupFacts, group_facts, reasons_to_stay
from metaprune_pl.pruning.plan import highest_speed_up
from metaprune_pl.reports.text import count

MOST_ROWS = 40
"""Most rows of a table on a network."""
MOST_NAMES = 12
"""Most names of a list in a row."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a network.

    Attributes:
        network: What was asked for.
        input_shape: Shape of the input that it was traced with.
        neurons: Number of neurons.
        neuron_groups: Number of sets of them: the input's, and each layer's, which those whose
            outputs are added to it share.
        connections: Number of layers that connect them, identity shortcuts included.
        edges: Number of connected pairs of neurons.
        parameters: Number of parameters.
        covered: Share of the parameters that lie in the graph.
        outside: Names of the others, and how many elements each has; they are kept, or cut with the
            neurons they meet.
        macs: Multiply-accumulates for one image.
        speed_up: Those of the network before any pruning over these.
        groups: What can be pruned.
        stays: Layers with channels that cannot be pruned: how many, and why.
        highest_speed_up: Multiply-accumulates now over those with one unit left in each group.
        unfollowed: Operations that the trace does not follow; the channels around them stay.
        attributes: Attributes of modules that pruning sets, since they count channels.
        assumed: Whether nobody gave the shape of the input.
    """

    network: str
    input_shape: Shape
    neurons: int
    neuron_groups: int
    connections: int
    edges: int
    parameters: int
    covered: float
    outside: dict[str, int]
    macs: int
    speed_up: float
    groups: tuple[GroupFacts, ...]
    stays: dict[str, str]
    highest_speed_up: float
    unfollowed: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    assumed: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        network: nn.Module,
        input_shape: Shape,
        groups: PruningGroups,
        *,
        macs: int,
        **known: Any,
    ) -> Self:
        """Return what is to be seen in a network by its pruning groups.

        Args:
            name: What was asked for.
            network: The network.
            input_shape: Shape of the input that it was traced with.
            groups: Its pruning groups.
            macs: Its multiply-accumulates for one image.
            known: Further attributes.
        """
        graph = groups.graph
        sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
        outside = {name: sizes[name] for name in graph.outside}
        total = count_parameters(network)
        fixed = macs - graph.macs(torch.ones(graph.num_nodes, dtype=torch.bool))
        state, settings = network.state_dict(), PruningSettings()
        return cls(
            network=name,
            input_shape=input_shape,
            neurons=graph.num_nodes,
            neuron_groups=len(graph.groups),
            connections=len(graph.connections),
            edges=graph.num_edges,
            parameters=total,
            covered=1 - sum(outside.values()) / max(1, total),
            outside=outside,
            macs=macs,
            groups=group_facts(groups),
            stays=reasons_to_stay(groups),
            highest_speed_up=highest_speed_up(groups, state, Magnitude(), settings, fixed),
            unfollowed=graph.unfollowed,
            attributes=attributes_set(graph),
            **known,
        )

    @property
    def title(self) -> str:
        """The network's name and size."""
        size = f"{self.parameters / 1e6:,.2f} M parameters"
        return f"{self.network} · {size} · {self.macs / 1e9:,.2f} G multiply-accumulates"

    def tables(self) -> list[RenderableType]:
        """Return the network as a whole, what can be pruned, and what cannot."""
        whole = Table(title=self.network, title_justify="left", show_header=False)
        for name, text in _network_facts(self):
            whole.add_row(name, text)
        tables: list[RenderableType] = [whole]
        if self.groups:
            tables.append(_groups_table(self.groups))
        stays = Table("layer", "why", title="What cannot be pruned", title_justify="left")
        for name, reason in list(self.stays.items())[:MOST_ROWS]:
            stays.add_row(name, reason)
        return [*tables, stays]


def _network_facts(inspection: Inspection) -> list[tuple[str, str]]:
    """Rows of the table on the network as a whole."""
    covered = f"{100 * inspection.covered:.2f} % of them in the graph"
    outside = [f"{name} ({count(size)})" for name, size in inspection.outside.items()]
    outside_text = ", ".join(outside[:MOST_NAMES]) or "none"
    if len(outside) > MOST_NAMES:
        outside_text += f" and {len(outside) - MOST_NAMES} more"
    other = " (by default; --input_shape C,H,W sets another)" if inspection.assumed else ""
    facts = [
        ("input", f"{shape_as_text(inspection.input_shape)}{other}"),
        ("multiply-accumulates", count(inspection.macs)),
        ("parameters", f"{count(inspection.parameters)}, {covered}"),
        ("parameters outside", outside_text),
        ("neurons", f"{inspection.neurons:,}; layers that are added to one another share theirs"),
        ("connections", f"{inspection.connections} with {inspection.edges:,} edges"),
    ]
    if abs(inspection.speed_up - 1) > 0.005:
        so_far = f"{inspection.speed_up:.2f}x; `prune` counts from the network before"
        facts.append(("speed-up so far", so_far))
    highest = (
        f"{inspection.highest_speed_up:.1f}x, with one unit left in each pruning group (`prune` "
        "leaves a tenth of them, but for `--pruning.max_ratio 1`)"
    )
    facts.append(("highest speed-up", highest))
    if inspection.attributes:
        facts.append(("attributes set", ", ".join(inspection.attributes[:MOST_NAMES])))
    facts += [("not followed", reason) for reason in inspection.unfollowed[:MOST_NAMES]]
    return facts


def _groups_table(groups: Sequence[GroupFacts]) -> Table:
    """Table of the pruning groups."""
    title = f"What can be pruned: {len(groups)} groups"
    if len(groups) > MOST_ROWS:
        title += f" (the first {MOST_ROWS}; --json has all)"
    table = Table("group", title=title, title_justify="left")
    table.add_column("channels", justify="right")
    table.add_column("units", justify="right")
    table.add_column("together with", overflow="fold")
    for group in groups[:MOST_ROWS]:
        others = ", ".join(group.layers[1:4])
        if len(group.layers) > 4:
            others += f" and {len(group.layers) - 4} more"
        table.add_row(
            group.name,
            str(group.width),
            str(group.units),
            others,
        )
    return table
