"""What a trace has found so far: neuron groups and connections under provisional node numbers."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metaprune_pl.graphs.weight_graph import Connection, NeuronGroup, WeightGraph


@dataclass
class _Group:
    name: str
    start: int
    size: int
    slots: dict[str, str]
    depth: int
    absorbed_by: "_Group | None" = None


@dataclass
class GraphBuilder:
    """Collects groups and connections, and gives the graph at the end.

    A shortcut layer that ends in an addition is absorbed by the main branch: its connection and its slots (as
    `shortcut_...`) go to the main branch's nodes, as in the paper (section 4.1).
    """

    groups: list[_Group] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    fixed: list[int] = field(default_factory=list)

    def new_group(self, name: str, size: int, *, depth: int = 0) -> tuple[str, Tensor]:
        """Add neurons and return the group's unique name and their node numbers, [size]."""
        taken = {group.name for group in self.groups}
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}:{number}", number + 1
        start = self.groups[-1].start + self.groups[-1].size if self.groups else 0
        self.groups.append(_Group(unique, start, size, {}, depth))
        return unique, torch.arange(start, start + size)

    def group(self, name: str) -> _Group:
        """Return the group of a name."""
        return next(group for group in self.groups if group.name == name)

    def depth(self, nodes: Tensor) -> int:
        """Return the largest number of layers between the input and any of the nodes."""
        present = nodes[nodes >= 0]
        starts = torch.tensor([group.start for group in self.groups])
        owners = torch.unique(torch.searchsorted(starts, present, right=True) - 1).tolist()
        return max((self.groups[owner].depth for owner in owners), default=0)

    def connect(self, connection: Connection) -> None:
        """Add a connection."""
        self.connections.append(connection)

    def connect_identity(self, name: str, source: Tensor, target: Tensor) -> None:
        """Connect nodes one to one, [K] and [K]; a source of -1 (padding) has no edge."""
        present = source >= 0
        self.connect(
            Connection(name=name, parameter=None, target=target[present][:, None], source=source[present][:, None])
        )

    def can_absorb(self, main: str, shortcut: str) -> bool:
        """Whether the shortcut's parameters find free slots on the main branch's nodes."""
        own, other = self.group(main), self.group(shortcut)
        if own.size != other.size or any(slot.startswith("shortcut_") for slot in (*own.slots, *other.slots)):
            return False
        first, last = other.start, other.start + other.size
        ends_here = [c for c in self.connections if first <= int(c.target.flatten()[0]) < last]
        return all(connection.parameter is not None for connection in ends_here)

    def absorb(self, main: str, shortcut: str) -> None:
        """Move the shortcut's connections and slots to the main branch's nodes."""
        own, other = self.group(main), self.group(shortcut)
        own.slots.update({f"shortcut_{slot}": parameter for slot, parameter in other.slots.items()})
        other.absorbed_by = own

    def build(self, output: Tensor, parameters: list[str]) -> WeightGraph:
        """Return the graph, its nodes numbered without gaps.

        Args:
            output: Provisional node numbers of the network's output, [K].
            parameters: Names of all trainable parameters.
        """
        number = torch.zeros(self.groups[-1].start + self.groups[-1].size, dtype=torch.long)
        groups: list[NeuronGroup] = []
        for group in self.groups:
            if group.absorbed_by is None:
                start = groups[-1].stop if groups else 0
                groups.append(NeuronGroup(name=group.name, start=start, size=group.size, slots=group.slots))
                number[group.start : group.start + group.size] = torch.arange(start, start + group.size)
        for group in self.groups:
            if (main := group.absorbed_by) is not None:
                number[group.start : group.start + group.size] = number[main.start : main.start + main.size]
        connections = tuple(replace(c, target=number[c.target], source=number[c.source]) for c in self.connections)
        graph = WeightGraph(
            groups=tuple(groups), connections=connections, output=number[output], fixed=number[self.fixed]
        )
        inside = set(graph.parameters)
        return replace(graph, outside=tuple(name for name in parameters if name not in inside))
