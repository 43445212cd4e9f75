"""The topology of a network: its neurons and the parameters that connect them, without values."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from metaprune_pl.graphs.constraints import PruningConstraints


@dataclass(frozen=True, kw_only=True)
class NeuronGroup:
    """Neurons of one layer.

    Attributes:
        name: Path of the producing module (`input` for the channels of the image).
        start: Number of its first node.
        size: Number of neurons, as wide as the layer is now.
        slots: Slot name (`norm.weight`, `bias`, ...) to the name of the parameter or buffer that
            fills it.
        rows: For slots that hold a part of a parameter (`q_bias`), which of its elements, [size].
    """

    name: str
    start: int
    size: int
    slots: dict[str, str]
    rows: dict[str, Tensor] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """Number after that of its last node."""
        return self.start + self.size


@dataclass(frozen=True, kw_only=True, eq=False)
class Connection:
    """A dense block of edges [G, O, I, T], read from one parameter.

    Attributes:
        name: Path of the module that connects.
        parameter: Name of the parameter; None for an identity shortcut, whose edges are the
            constant 1.
        target: Nodes that it leads to, [G, O].
        source: Nodes that it comes from, [G, I].
        kernel: Extent of the taps, (kH, kW); their product is T.
        inputs_first: The parameter's first dimension are inputs, its second the outputs of one
            group (transposed conv).
        rows: Rows of the parameter for each output neuron, [O, R], where one has several (query,
            key and value of an attention neuron); these are the taps then.
        taps_first: The parameter's input dimension counts taps first, then neurons (flattened
            channels-last maps).
        positions: How often each weight is used for one image: multiply-accumulates per weight.
        within: Channels are removed within its conv groups, the same of each, as these can only go
            all together.
    """

    name: str
    parameter: str | None
    target: Tensor
    source: Tensor
    kernel: tuple[int, int] = (1, 1)
    taps_first: bool = False
    inputs_first: bool = False
    rows: Tensor | None = None
    positions: int = 0
    within: bool = False

    @property
    def by_groups(self) -> bool:
        """Whether its conv groups are removed whole."""
        return self.shape[0] > 1 and not self.within

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(G, O, I, T)."""
        return (*self.target.shape, self.source.shape[1], self.kernel[0] * self.kernel[1])

    @property
    def num_edges(self) -> int:
        """Number of edges: pairs of connected neurons."""
        groups, outputs, inputs, _ = self.shape
        return groups * outputs * inputs

    def whole(self, kept: Tensor) -> bool:
        """Whether all of its neurons are kept, given which nodes are, bool [N]."""
        return bool(kept[self.target].all()) and bool(kept[self.source].all())

    def block(self, parameter: Tensor) -> Tensor:
        """View the parameter as edges: its own shape -> [G, O, I, T]."""
        groups, outputs, inputs, taps = self.shape
        if self.rows is not None:
            rows = parameter.reshape(len(parameter), inputs, -1)[self.rows]  # [O, R, I, K]
            return rows.transpose(1, 2).reshape(
                1,
                outputs,
                inputs,
                taps,
            )
        if self.taps_first:
            return parameter.reshape(groups, outputs, taps, inputs).transpose(2, 3)
        if self.inputs_first:
            return parameter.reshape(groups, inputs, outputs, taps).transpose(1, 2)
        return parameter.reshape(
            groups,
            outputs,
            inputs,
            taps,
        )

    def unblock(self, edges: Tensor, like: Tensor) -> Tensor:
        """Undo `block`: [G, O, I, T] -> the shape of `like`."""
        if self.rows is not None:
            outputs, several = self.rows.shape
            rows = (
                edges[0].reshape(outputs, edges.shape[2], several, -1).transpose(1, 2).flatten(0, 1)
            )
            return rows[torch.argsort(self.rows.flatten())].reshape(like.shape)
        if self.inputs_first:
            edges = edges.transpose(1, 2)
        return (edges.transpose(2, 3) if self.taps_first else edges).reshape(like.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """Neurons that an operation reads which does not pass on every factor.

    Attributes:
        nodes: The neurons.
        operator: Name of the operation, such as `relu`.
        module: Path of the module that it runs in.
        keeps: Factors that it passes on: `scale` (positive numbers), `sign` (-1), or none.
    """

    nodes: Tensor
    operator: str
    module: str
    keeps: frozenset[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightGraph:
    """A network's topology, which a metanetwork reads, beside what pruning must respect.

    Attributes:
        groups: Neuron groups in node order; the first is the input.
        connections: Blocks of edges in the order of the network's operations.
        inputs: Nodes of the network's inputs, [I].
        output: Nodes of the network's outputs, of one after the other, in the order of the classes,
            [K].
        aliases: Further names of parameters and buffers that a network shares, to the names that
            stand here.
        outside: Parameters that are in no slot and no connection; they are kept as they are.
        unfollowed: Operations that the trace could not follow, each with the reason; the neurons
            before and behind them stay.
        followed: Which operations follow the neurons, but for linear ones.
        constraints: What pruning must respect.
    """

    groups: tuple[NeuronGroup, ...]
    connections: tuple[Connection, ...]
    inputs: Tensor
    output: Tensor
    constraints: PruningConstraints
    aliases: dict[str, str] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    unfollowed: tuple[str, ...] = ()
    followed: tuple[Followed, ...] = ()

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.groups[-1].stop

    @property
    def num_edges(self) -> int:
        """Number of edges, without those off an identity's diagonal or between conv groups."""
        return sum(connection.num_edges for connection in self.connections)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters and buffers that lie in the graph."""
        slots = [name for group in self.groups for name in group.slots.values()]
        return (*slots, *(c.parameter for c in self.connections if c.parameter is not None))

    def macs(self, kept: Tensor) -> int:
        """Multiply-accumulates for one image of the network that keeps some of its neurons.

        Args:
            kept: Whether each node stays, bool [N].
        """
        products = self.constraints.products
        total = sum(int(kept[product.nodes].sum()) * product.positions for product in products)
        for connection in self.connections:
            if connection.positions:
                outputs = kept[connection.target].sum(1)
                inputs = kept[connection.source].sum(1)
                total += int((outputs * inputs).sum()) * connection.shape[3] * connection.positions
        return total
