"""The topology of a network: which neurons there are, and which parameters connect them. It holds no values."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from metaprune_pl.graphs.masked import MaskedProgram


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

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(G, O, I, T)."""
        return (*self.target.shape, self.source.shape[1], self.kernel[0] * self.kernel[1])

    @property
    def num_edges(self) -> int:
        """Number of edges: pairs of connected neurons."""
        groups, outputs, inputs, _ = self.shape
        return groups * outputs * inputs

    def block(self, parameter: Tensor) -> Tensor:
        """View the parameter as edges: its own shape -> [G, O, I, T]."""
        groups, outputs, inputs, taps = self.shape
        if self.rows is not None:
            rows = parameter.reshape(len(parameter), inputs, -1)[self.rows]  # [O, R, I, K]
            return rows.transpose(1, 2).reshape(1, outputs, inputs, taps)
        if self.taps_first:
            return parameter.reshape(groups, outputs, taps, inputs).transpose(2, 3)
        if self.inputs_first:
            return parameter.reshape(groups, inputs, outputs, taps).transpose(1, 2)
        return parameter.reshape(groups, outputs, inputs, taps)

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
class Follower:
    """A parameter that is not in the graph but as wide as neurons are many, such as a position embedding.

    Attributes:
        parameter: Name of the parameter.
        dim: Dimension of it that belongs to neurons.
        nodes: Node of each index of that dimension; -1 is none.
    """

    parameter: str
    dim: int
    nodes: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """A product of activations, such as attention scores.

    Attributes:
        nodes: Nodes whose values are multiplied, in the order of one operand.
        positions: Multiply-accumulates for each of them.
    """

    nodes: Tensor
    positions: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Extent:
    """A place where a forward pass names how many neurons there are, perhaps by an attribute of its module.

    Attributes:
        module: Path of the module.
        parts: The neurons that it counts; several parts are the sizes of a split.
        heads: Whether these stand for attention heads.
        names: Attributes of the module that are as large.
    """

    module: str
    parts: tuple[Tensor, ...]
    heads: bool = False
    names: tuple[str, ...] = ()

    def named(self, module: object) -> "Extent":
        """Return it with the attributes of its module that are as large."""
        sizes = [len(part) for part in self.parts]
        known = {
            name: value
            for name, value in vars(module).items()
            if not name.startswith("_") and _as_sizes(value) == sizes
        }
        fitting = [name for name in known if _counts_heads(name) == self.heads]
        return replace(self, names=tuple(fitting or known))


def _as_sizes(value: object) -> list[int]:
    if type(value) is int:
        return [value]
    if isinstance(value, list | tuple) and all(type(part) is int for part in value):
        return list(value)
    return []


def _counts_heads(name: str) -> bool:
    """Whether an attribute of this name is a number of heads, not the width of one."""
    return "head" in name and not any(word in name for word in ("dim", "size", "width", "channel"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """Attention of several heads.

    Attributes:
        module: Path of its module.
        parts: Nodes of queries, keys and values, each [heads, width].
    """

    module: str
    parts: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionScale:
    """Attention that divides its scores by the root of the width of a head, whatever that is.

    Attributes:
        module: Path of its module.
        nodes: Nodes of the queries, [heads, width].
        rows: Parameters that give the queries a factor, each with the rows that do.
        power: 1/2 where these give the keys the same factor.
        certain: Whether it is known to follow the width; else a trial has to show.
    """

    module: str
    nodes: Tensor
    rows: dict[str, Tensor]
    power: float = 1.0
    certain: bool = True


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
    """A network's topology.

    Attributes:
        groups: Neuron groups in node order; the first is the input.
        connections: Blocks of edges in the order of the network's operations.
        inputs: Nodes of the network's inputs, [I].
        output: Nodes of the network's outputs, of one after the other, in the order of the classes,
            [K].
        fixed: Nodes that have to stay, since something is made for as many (zero padding of a
            shortcut, a constant).
        ties: Pairs of nodes that a forward pass keeps as many of, such as the halves of a split,
            [2, pairs].
        equals: Pairs of nodes of attention and of what it reads, where both are as wide: some
            forward passes count on that, [2, pairs].
        mixed: Nodes that are normalised together with others of their layer (layer norm), so that
            removing one changes what the others give.
        several: Nodes of which more than one of each pruning group has to stay: weights from them
            are standardised.
        followers: Parameters outside the graph that are as wide as neurons are many.
        products: Multiplications of activations with each other.
        extents: Where a forward pass names numbers of neurons.
        attentions: Attention of several heads.
        scales: Attention whose scale follows its width.
        aliases: Further names of parameters and buffers that a network shares, to the names that
            stand here.
        outside: Parameters that are in no slot and no connection; they are kept as they are.
        unfollowed: Operations that the trace could not follow, each with the reason; the neurons
            before and behind them stay.
        followed: Which operations follow the neurons, but for linear ones.
        masked: Runs the network with neurons masked.
    """

    groups: tuple[NeuronGroup, ...]
    connections: tuple[Connection, ...]
    inputs: Tensor
    output: Tensor
    fixed: Tensor
    ties: Tensor
    equals: Tensor
    mixed: Tensor
    several: Tensor
    followers: tuple[Follower, ...] = ()
    products: tuple[Product, ...] = ()
    extents: tuple[Extent, ...] = ()
    attentions: tuple[Attention, ...] = ()
    scales: tuple[AttentionScale, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    unfollowed: tuple[str, ...] = ()
    followed: tuple[Followed, ...] = ()
    masked: MaskedProgram | None = None

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.groups[-1].stop

    @property
    def num_edges(self) -> int:
        """Number of edges; absent ones (an identity's off-diagonal, other conv groups) are not counted."""
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
        total = sum(int(kept[product.nodes].sum()) * product.positions for product in self.products)
        for connection in self.connections:
            if connection.positions:
                outputs, inputs = kept[connection.target].sum(1), kept[connection.source].sum(1)
                total += int((outputs * inputs).sum()) * connection.shape[3] * connection.positions
        return total
