"""The operator: new weights for a network, equivariant to the scales or signs of its channels."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import Features, WeightGraph
from metaprune_pl.metanetworks.base import Rewriter
from metaprune_pl.metanetworks.scale.again import again
from metaprune_pl.metanetworks.scale.folding import NORMS, Folded, fold, unfold
from metaprune_pl.metanetworks.scale.layers import EdgeUpdate, NodeFunction, ScaleInv, Symmetry
from metaprune_pl.metanetworks.scale.trunk import (
    Direction,
    Trunk,
    join,
    smallest_square,
    window,
)
from metaprune_pl.metanetworks.scale.wiring import Piece, Wiring, wire


class ScaleMetanetwork(Rewriter):
    """Rewrites a network so that rescaling it first or afterwards is all the same.

    Untrained it is the identity. Batch norms are folded into the layers before them for reading;
    biases change by an addition, norms' weights by a factor, and kernels by a linear map of
    themselves.

    Args:
        layers: Number of message passing layers.
        hidden: Width H of hidden node and edge features.
        symmetry: What a network's hidden channels may be multiplied by without changing it:
            `scale` (any positive number, for ReLU), `sign` (-1, for tanh) or `permutation`
            (nothing: the plain graph metanetwork).
        direction: Whether messages go along the edges only (`forward`) or also against them.
        schema: Node features: `bias` for networks without norms, `resnet`, `vgg` or `universal`
            for those with batch norms.
        kernel_sizes: Sides of squares; each kernel is centred in the smallest one that holds it.
        positions: Largest number of a network's hidden layers, inputs and outputs.

    Raises:
        ConfigError: A size is below 1, or an unknown symmetry or direction.
    """

    def __init__(
        self,
        *,
        layers: int = 2,
        hidden: int = 18,
        symmetry: Symmetry = "scale",
        direction: Direction = "forward",
        schema: str = "bias",
        kernel_sizes: Sequence[int] = (3,),
        positions: Sequence[int] = (16, 3, 10),
    ) -> None:
        super().__init__(
            schema=schema,
            arguments={
                "layers": layers,
                "hidden": hidden,
                "symmetry": symmetry,
                "direction": direction,
                "schema": schema,
                "kernel_sizes": list(kernel_sizes),
                "positions": list(positions),
            },
        )
        self.trunk = Trunk(
            layers=layers,
            hidden=hidden,
            symmetry=symmetry,
            direction=direction,
            kernel_sizes=kernel_sizes,
            positions=positions,
        )
        norms = sum(f"{norm}.weight" in self.schema.slots for norm in NORMS)
        self.bias_head = NodeFunction(hidden, 1, hidden, symmetry)
        self.gain_head = ScaleInv(hidden, norms, hidden, symmetry) if norms else None
        self.edge_heads = nn.ModuleDict(
            {str(side): EdgeUpdate(side * side, hidden, symmetry) for side in kernel_sizes}
        )
        self._begin_as_identity()

    def _begin_as_identity(self) -> None:
        self.bias_head.begin_at_zero()
        if self.gain_head is not None:
            self.gain_head.perceptron.begin_at_zero()
        for head in self.edge_heads.values():
            assert isinstance(head, EdgeUpdate)
            head.perceptron.begin_at_zero()

    def forward(self, graph: WeightGraph, features: Features) -> Features:
        """Return new features of the same shapes."""
        symmetric = self.trunk.symmetry != "permutation"
        device = features.nodes.device
        wiring = wire(
            graph,
            width=self.trunk.hidden,
            symmetric=symmetric,
            device=device,
        )
        self.trunk.check(graph, wiring)
        folded = fold(features.nodes, wiring.normed, self.schema)
        nodes, known = self.trunk(wiring, folded, features.edges)
        bias = self.bias_head.at(nodes, wiring.symmetric)[:, 0]
        gains = () if self.gain_head is None else self.gain_head(nodes).unbind(1)
        return Features(
            nodes=unfold(
                features.nodes,
                wiring.normed,
                self.schema,
                bias,
                gains,
            ),
            edges=self._new_edges(
                graph,
                features,
                wiring,
                folded,
                nodes,
                known,
            ),
        )

    def _new_edges(
        self,
        graph: WeightGraph,
        features: Features,
        wiring: Wiring,
        folded: Folded,
        nodes: Tensor,
        known: Sequence[tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """New kernels of each connection; those of identities are as they were."""
        ends = {}
        for side, head in self.edge_heads.items():
            ends[side] = head.ends(nodes)  # type: ignore[operator]
        parts: list[list[Tensor]] = [[] for _ in graph.connections]
        for piece, own in zip(wiring.pieces, known, strict=True):
            if graph.connections[piece.member].parameter is None:
                continue
            side = str(smallest_square(piece.kernel, self.trunk.kernel_sizes))
            head = self.edge_heads[side]
            factor = folded.at(piece)
            (change,) = again(
                partial(self._decode, head, int(side)),
                piece,
                [head, self.trunk],
                factor,
                *ends[side],
                *own,
            )
            kernels = features.edges[piece.member][piece.where]
            parts[piece.member].append(kernels + change)
        edges = []
        for new_parts, old in zip(parts, features.edges, strict=True):
            new = old
            if new_parts:
                new = torch.cat([part.flatten(0, 1) for part in new_parts]).reshape(old.shape)
            edges.append(new)
        return tuple(edges)

    def _decode(
        self,
        head: nn.Module,
        side: int,
        piece: Piece,
        factor: Tensor,
        source: Tensor,
        target: Tensor,
        *known: Tensor,
    ) -> tuple[Tensor]:
        """Changes of a piece's kernels, [G, R, I, T]."""
        state = self.trunk.edges(piece, factor, *known)
        square: Tensor = head(state, state * factor, join((source, target), piece))
        return (square[..., window(piece.kernel, side)],)
