"""What pruning must respect: which neurons go together, which stay, and what counts them."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metaprune_pl.graphs.masked import MaskedProgram


@dataclass(frozen=True, kw_only=True, eq=False)
class Follower:
    """A parameter outside the graph with a value for each neuron, such as a position embedding.

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
    """A count of neurons that a forward pass relies on, perhaps as an attribute of its module.

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
    """Return what an attribute counts; dimensions of 1, as of a shape (C, 1, 1), are left out."""
    if type(value) is int:
        return [value]
    if isinstance(value, list | tuple) and all(type(part) is int for part in value):
        return [part for part in value if part != 1] or list(value)
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
class Use:
    """What a layer multiplies its inputs with: a parameter, or what is computed from it.

    Attributes:
        parameter: Name of the parameter, each element of which stands for one of the weight.
        node: The operation that gives the weight.
        order: Which of the parameter's elements each of the weight is, [W]; None is each in turn.
        companions: Names of further parameters that the weight is computed from.
    """

    parameter: str
    node: torch.fx.Node
    order: Tensor | None = None
    companions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningConstraints:
    """What pruning must respect in a network.

    Attributes:
        fixed: Nodes that have to stay, since something is made for as many (zero padding of a
            shortcut, a constant).
        ties: Pairs of nodes that a forward pass keeps as many of, such as the halves of a split,
            [2, pairs].
        equals: Pairs of nodes of attention and of what it reads, where both are as wide: some
            forward passes count on that, [2, pairs].
        named: Pairs of nodes of a layer and of what it reads, where both are as wide and the
            forward pass names their number, [2, pairs].
        mixed: Nodes that are normalised together with others of their layer (layer norm), so that
            removing one changes what the others give.
        lengths: Parameters each row of which is divided by its length, to those that are the
            length instead (weight normalisation).
        uses: What layers multiply their inputs with.
        several: Nodes of which more than one of each pruning group has to stay: weights from them
            are standardised.
        unmasked: Those of them that cannot be masked: it takes more operations than a batch norm.
        followers: Parameters outside the graph that are as wide as neurons are many.
        products: Multiplications of activations with each other.
        extents: Where a forward pass names numbers of neurons.
        attentions: Attention of several heads.
        scales: Attention whose scale follows its width.
        masked: Runs the network with neurons masked.
    """

    fixed: Tensor
    ties: Tensor
    equals: Tensor
    named: Tensor
    mixed: Tensor
    several: Tensor
    unmasked: Tensor
    lengths: dict[str, str] = field(default_factory=dict)
    uses: tuple[Use, ...] = ()
    followers: tuple[Follower, ...] = ()
    products: tuple[Product, ...] = ()
    extents: tuple[Extent, ...] = ()
    attentions: tuple[Attention, ...] = ()
    scales: tuple[AttentionScale, ...] = ()
    masked: MaskedProgram | None = None
