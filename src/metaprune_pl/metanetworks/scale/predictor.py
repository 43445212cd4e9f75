"""The predictor: one number for a network, the same for all of its rescaled and permuted forms."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs import Features, WeightGraph, read
from metaprune_pl.metanetworks.base import Metanetwork
from metaprune_pl.metanetworks.scale.folding import fold
from metaprune_pl.metanetworks.scale.layers import Perceptron, ScaleInv, Symmetry
from metaprune_pl.metanetworks.scale.trunk import Direction, Trunk
from metaprune_pl.metanetworks.scale.wiring import HIDDEN, INPUT, OUTPUT, wire

Readout = Literal["last_layer", "full_graph"]
"""What the prediction is read from: the outputs, or also the inputs and a mean of the hidden
nodes."""


class ScalePredictor(Metanetwork):
    """Predicts a network's accuracy from its weights, as a logit.

    Args:
        layers: Number of message passing layers.
        hidden: Width H of hidden node and edge features.
        symmetry: See `ScaleMetanetwork`.
        direction: The same.
        readout: What the prediction is read from.
        schema: The same.
        kernel_sizes: The same.
        positions: Largest number of hidden layers, and the number of inputs and of outputs, which
            all networks must have.

    Raises:
        ConfigError: A size is below 1, or an unknown symmetry or direction.
    """

    def __init__(
        self,
        *,
        layers: int = 4,
        hidden: int = 128,
        symmetry: Symmetry = "scale",
        direction: Direction = "forward",
        readout: Readout = "last_layer",
        schema: str = "bias",
        kernel_sizes: Sequence[int] = (3,),
        positions: Sequence[int] = (3, 1, 10),
    ) -> None:
        super().__init__(
            schema=schema,
            arguments={
                "layers": layers,
                "hidden": hidden,
                "symmetry": symmetry,
                "direction": direction,
                "readout": readout,
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
        self.kinds = (OUTPUT,) if readout == "last_layer" else (INPUT, OUTPUT)
        rows = sum(positions[kind] for kind in self.kinds) + (readout == "full_graph")
        self.pool = ScaleInv(hidden, hidden, hidden, symmetry) if readout == "full_graph" else None
        self.head = Perceptron(rows * hidden, 1, hidden)

    def predict(self, graph: WeightGraph, state: Mapping[str, Tensor]) -> Tensor:
        """Return the logit of a network's predicted accuracy; differentiable.

        Args:
            graph: Topology of the network.
            state: Its parameters and buffers by name.
        """
        result: Tensor = self(graph, read(graph, state, self.schema))
        return result

    def forward(self, graph: WeightGraph, features: Features) -> Tensor:
        """Return the logit of a network's predicted accuracy, one number."""
        symmetric = self.trunk.symmetry != "permutation"
        device = features.nodes.device
        wiring = wire(
            graph,
            width=self.trunk.hidden,
            symmetric=symmetric,
            device=device,
        )
        self.trunk.check(graph, wiring)
        nodes, _ = self.trunk(
            wiring, fold(features.nodes, wiring.normed, self.schema), features.edges
        )
        rows = []
        for kind in self.kinds:
            rows.append(nodes[(wiring.kinds == kind).nonzero()[:, 0]])
            if len(rows[-1]) != self.trunk.sizes[kind]:
                raise TraceError(
                    f"the predictor was made for {self.trunk.sizes[kind]} "
                    f"{'inputs' if kind == INPUT else 'outputs'}, and the network has "
                    f"{len(rows[-1])}. Set its `positions` and train it."
                )
        if self.pool is not None:
            hidden = nodes[(wiring.kinds == HIDDEN).nonzero()[:, 0]]
            rows.append(self.pool(hidden).mean(0, keepdim=True))
        return self.head(torch.cat(rows).flatten())[0]  # type: ignore[no-any-return]
