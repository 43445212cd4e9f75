"""How much of what a unit says is heard: from unlabelled images."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import Connection, WeightGraph
from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.importance.base import Images, Normalized
from metaprune_pl.pruning.layerwise import Layer, LayerwiseNetwork, equal_batches


@dataclass(frozen=True, kw_only=True)
class Energy(Normalized):
    """Share of the variance of what reads a unit that comes from it.

    For each layer that reads a unit: its mean square activation times the squared weights that read
    it, over the variance of each output, averaged over the outputs; summed over these layers.

    Attributes:
        normalize: What scores are divided by within their group: 1 (`none`), their `mean` or `max`.
        images: Number of unlabelled images that are measured.
        readers: Power of the number of layers that read a unit, by which its score is multiplied
            after the division: a residual stream counts for more than what is inside a block. The
            loss grows with that number, and so does what removal saves: 1 heeds the first alone, 0
            leaves scores as they are.
    """

    normalize: Literal["none", "mean", "max"] = "mean"
    images: int = 512
    readers: float = 0.5

    def __post_init__(self) -> None:
        if self.images < 4:
            raise ConfigError(f"criterion.images is {self.images}; at least 4 are needed.")
        if not 0 <= self.readers < math.inf:
            raise ConfigError(f"criterion.readers is {self.readers}; it is a power of at least 0.")

    @property
    def unlabelled(self) -> int:
        """Number of training images that are measured."""
        return self.images

    @torch.no_grad()
    def measure(
        self, network: nn.Module, graph: WeightGraph, images: Images | None = None
    ) -> dict[str, Tensor]:
        """Measure the energy of each node, [N], NaN where nothing reads it."""
        moments: dict[str, list[Tensor]] = {}
        weights = {}
        for layer in self._visits(network, graph, images):
            read, given = (
                values.double().movedim(layer.channel_dim, 0).flatten(1)
                for values in (layer.inputs, layer.compute())
            )
            parts = [
                read.square().mean(1),
                given.mean(1),
                given.square().mean(1),
            ]
            moments.setdefault(layer.name, []).append(torch.cat(parts))
            weights[layer.name] = layer.weight.double()
        energy = torch.full((graph.num_nodes,), torch.nan, dtype=torch.float64)
        for name, connection in readers(graph).items():
            if name in moments:
                source = connection.source[0]
                shares = _shares(
                    connection,
                    weights[name],
                    torch.stack(moments[name]).mean(0),
                )
                energy[source] = energy[source].nan_to_num() + shares.cpu()
        return {"energy": energy}

    def _visits(
        self, network: nn.Module, graph: WeightGraph, images: Images | None
    ) -> Iterator[Layer]:
        """Give each layer that mixes channels, for each of several batches of the same size."""
        batches = equal_batches(self._sample(images))
        known = readers(graph)
        program = LayerwiseNetwork(network, graph, batches[0])
        names = [name for name in program.layers if name in known]
        for batch in batches:
            yield from program.run(batch, names, fixed=True)

    def _sample(self, images: Images | None) -> Tensor:
        """Return the images that are measured, [B, C, H, W].

        Raises:
            ConfigError: There are less than four.
        """
        batches: list[Tensor] = []
        for batch, _ in images() if images is not None else ():
            batches.append(batch[: self.images - sum(map(len, batches))])
            if sum(map(len, batches)) == self.images:
                break
        if sum(map(len, batches)) < 4:
            raise ConfigError(f"criterion: {type(self).__name__} needs at least 4 images.")
        return torch.cat(batches)

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Sum the energy of a unit's nodes: see `Importance.scores`."""
        energy = measured["energy"]
        unread = energy.isnan()
        zeros = energy.new_zeros(len(groups.group))
        total = zeros.index_add(
            0,
            groups.unit,
            energy.masked_fill(unread, 0.0),
        )
        heard = zeros.index_add(0, groups.unit, (~unread).to(energy))
        return total.masked_fill(heard == 0, torch.inf)

    def normalizer(
        self, groups: PruningGroups, scores: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """Return the group's divisor over a power of the number of layers that read a unit, [U]."""
        divisor = super().normalizer(groups, scores, kept)
        counts = torch.zeros_like(divisor)
        for connection in readers(groups.graph).values():
            counts[groups.unit[connection.source[0]].unique()] += 1
        return divisor / counts.clamp(min=1).pow(self.readers)


def readers(graph: WeightGraph) -> dict[str, Connection]:
    """Return the layers that mix channels, by the name of their weight."""
    return {
        connection.parameter: connection
        for connection in graph.connections
        if connection.parameter is not None
        and connection.shape[0] == 1
        and not connection.inputs_first
    }


def _shares(connection: Connection, weight: Tensor, moments: Tensor) -> Tensor:
    """Return the share of the variance of a layer's outputs that is from each node it reads, [I].

    Args:
        connection: The layer.
        weight: Its weight, [O, I, ...].
        moments: Mean squares of its inputs, then means and mean squares of its outputs.
    """
    outputs = len(weight)
    kernel = [1] * (weight.dim() - 2)
    squares, mean, power = moments.split([len(moments) - 2 * outputs, outputs, outputs])
    variance = power - mean.square()
    parts = weight.square() * squares.reshape(1, -1, *kernel)
    parts = parts / variance.reshape(-1, 1, *kernel)
    parts = torch.where(parts.isfinite(), parts, 0.0)  # an output that never changes
    return connection.block(parts).sum((1, 3))[0] / outputs
