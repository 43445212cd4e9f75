"""Optimal brain surgeon for whole units (Hassibi and Stork 1993), from unlabelled images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import Connection, WeightGraph
from metaprune_pl.pruning.groups import find_groups
from metaprune_pl.pruning.importance.base import Images
from metaprune_pl.pruning.importance.energy import Energy, readers
from metaprune_pl.pruning.layerwise import Layer
from metaprune_pl.pruning.least_squares import NormalEquations, slices, with_bias

STEPS = 64
"""Steps that a group goes in at most: one unit each up to so many units."""
RIDGE = 1e-2
"""Share of the mean square of a layer's inputs that is added to all of them."""


@dataclass(frozen=True, kw_only=True)
class Elimination(Energy):
    """What the layers that read a unit lose with it, when the others make up for it.

    The units of a group go one by one, or a 64th of a large group at a time: each time those whose
    loss costs the layers that read them least, by least squares, and what they read of the others
    is changed to make up for it. That gives the order within a group; how much its units matter
    against those of other groups is their energy, the largest for the last one to go.

    Attributes:
        normalize: What scores are divided by within their group: 1 (`none`), their `mean` or `max`.
        images: Number of unlabelled images that are measured.
        readers: Power of the number of layers that read a unit: see `Energy`.
    """

    @torch.no_grad()
    def measure(
        self, network: nn.Module, graph: WeightGraph, images: Images | None = None
    ) -> dict[str, Tensor]:
        """Measure the energy of each node, [N], exchanged among the units of its group."""
        measured = super().measure(network, graph, images)
        groups = find_groups(graph)
        energy = self.scores(groups, measured)
        layers = self._readers(network, graph, images)
        for index in range(len(groups.names)):
            units = ((groups.group == index) & groups.prunable).nonzero().flatten()
            own = [copied for reader in layers if (copied := reader.of(groups.unit, units))]
            if len(units) > 1 and own:
                energy[units[eliminate(own)]] = energy[units].sort().values
        return {"energy": (energy / torch.bincount(groups.unit))[groups.unit]}

    def _readers(
        self, network: nn.Module, graph: WeightGraph, images: Images | None
    ) -> list["Reader"]:
        """Return what elimination needs of each layer that mixes channels."""
        layers: dict[str, tuple[NormalEquations, list[Tensor], Layer]] = {}
        for layer in self._visits(network, graph, images):
            outputs = layer.compute()
            equations, moments, _ = layers.setdefault(layer.name, (NormalEquations(), [], layer))
            for inputs, rows in slices(layer, outputs):
                equations.add(inputs, rows)
            values = outputs.double().movedim(layer.channel_dim, 0).flatten(1)
            moments.append(torch.stack([values.mean(1), values.square().mean(1)]))
        return [
            Reader.of_layer(
                layer,
                readers(graph)[name],
                equations.gram[0],
                torch.stack(moments),
            )
            for name, (equations, moments, layer) in layers.items()
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A layer that reads units that are eliminated.

    Letters: K inputs (channels times taps, and 1 for the bias), U units, C inputs of each of them.

    Attributes:
        inverse: Inverse of the second moments of its inputs, [K, K].
        weights: Its weights in units of each output's deviation, [O, K].
        source: Node of each of its inputs; -1 is none, [K].
        columns: Inputs of each unit, [U, C].
    """

    inverse: Tensor
    weights: Tensor
    source: Tensor
    columns: Tensor

    @staticmethod
    def of_layer(
        layer: Layer,
        connection: Connection,
        gram: Tensor,
        moments: Tensor,
    ) -> "Reader":
        """Make one of a layer.

        Args:
            layer: The layer.
            connection: The same in the graph.
            gram: Sums of products of its inputs, [K, K].
            moments: Means and mean squares of its outputs for each batch, [batches, 2, O].
        """
        mean, power = moments.mean(0)
        variance = (power - mean.square()).clamp(min=0)
        matrix = with_bias(layer, layer.matrix.double(), layer.bias)[0]
        weights = matrix / variance.sqrt()[:, None]
        gram = gram / gram.diagonal().mean()
        ridge = RIDGE * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        order = torch.arange(layer.matrix.shape[2]).expand_as(layer.matrix[0])
        index = connection.block(order.reshape(layer.weight.shape))[0, 0]  # [I, T]
        source = torch.full((len(gram),), -1)
        source[index] = connection.source[0][:, None].expand_as(index)
        return Reader(
            inverse=torch.linalg.inv(gram + ridge),
            weights=torch.where(weights.isfinite(), weights, 0.0),
            source=source,
            columns=source[:0, None],
        )

    def of(self, unit: Tensor, units: Tensor) -> "Reader | None":
        """Return it for the elimination of some units, [U]; None where it reads them unequally.

        Args:
            unit: Unit of each node, [N].
            units: The units.
        """
        owner = torch.where(self.source >= 0, unit[self.source], -1)
        columns = [(owner == index).nonzero().flatten() for index in units.tolist()]
        counts = {len(own) for own in columns}
        if len(counts) != 1 or 0 in counts:
            return None
        stacked = torch.stack(columns)
        return replace(self, columns=stacked.to(self.weights.device))

    def costs(self) -> Tensor:
        """Return the cost of losing each unit, as a share of the outputs' variance, [U]."""
        blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        weights = self.weights[:, self.columns].transpose(0, 1)  # [U, O, C]
        solved = torch.linalg.solve(blocks, weights.mT).mT
        costs: Tensor = (solved * weights).sum((1, 2))
        return costs / len(self.weights)

    def without(self, gone: Tensor) -> "Reader":
        """Return it without some units, for which what it reads of the others makes up.

        Args:
            gone: Which of its units, [R].
        """
        lost = self.columns[gone].flatten()
        stays = torch.ones(len(self.inverse), dtype=torch.bool, device=lost.device)
        stays[lost] = False
        units = torch.ones(len(self.columns), dtype=torch.bool, device=lost.device)
        units[gone] = False
        rows = self.inverse[lost]
        change = torch.linalg.solve(rows[:, lost], rows[:, stays])  # [R C, K - R C]
        moved = stays.cumsum(0) - 1
        return replace(
            self,
            inverse=self.inverse[stays][:, stays].sub_(rows[:, stays].T @ change),
            weights=self.weights[:, stays] - self.weights[:, lost] @ change,
            columns=moved[self.columns[units]],
        )


def eliminate(layers: Sequence[Reader]) -> Tensor:
    """Return the units that layers read in the order in which they go, [U]."""
    left = torch.arange(len(layers[0].columns))
    step = max(1, len(left) // STEPS)
    order = []
    while len(left) > step:
        costs = torch.stack([layer.costs() for layer in layers]).sum(0)
        gone = costs.argsort()[:step]
        layers = [layer.without(gone) for layer in layers]
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[gone.cpu()] = False
        order.append(left[gone.cpu()])
        left = left[stays]
    costs = torch.stack([layer.costs() for layer in layers]).sum(0)
    return torch.cat([*order, left[costs.argsort().cpu()]])
