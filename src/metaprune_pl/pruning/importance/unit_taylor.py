"""The loss's change to first order without a whole unit (Molchanov et al. 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.importance.base import Images, Normalized
from metaprune_pl.pruning.importance.gradients import Products, labelled


@dataclass(frozen=True, kw_only=True)
class UnitTaylor(Normalized):
    """Change of the loss without a unit: the sum of w * dL/dw over it, squared, over batches.

    Unlike `Taylor` it does not vanish where training has converged: single batches still pull at
    the weights, though not all of them together.

    Attributes:
        normalize: What scores are divided by within their group: 1 (`none`), their `mean` or `max`.
        of: What w is: scale and shift of a unit's norms, which is a gate behind them
            (`norms`; units without one stay), or the `weights` that make it, biases and norms too.
        batch: Images in each of the batches.
    """

    normalize: Literal["none", "mean", "max"] = "mean"
    of: Literal["norms", "weights"] = "norms"
    batch: int = 32

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"criterion.batch is {self.batch}; it is at least 1.")

    def measure(
        self, network: nn.Module, graph: WeightGraph, images: Images | None = None
    ) -> dict[str, Tensor]:
        """Measure the sum of each node for each batch, [batches, N], NaN where it has no w."""
        products = Products(network, graph, "UnitTaylor")
        changes = [
            self._by_node(graph, products(*part)).cpu() / len(part[0])
            for batch, labels in labelled(images, "UnitTaylor")
            for part in zip(batch.split(self.batch), labels.split(self.batch), strict=True)
        ]
        return {"changes": torch.stack(changes)}

    def _by_node(self, graph: WeightGraph, products: Mapping[str, Tensor]) -> Tensor:
        """Sum products of parameters and their gradients over each node, [N]."""
        first = next(iter(products.values()))
        total = first.new_full((graph.num_nodes,), torch.nan, dtype=torch.float64)
        for group in graph.groups:
            own = total[group.start : group.stop]
            for slot, held in group.slots.items():
                if held in products and (self.of == "weights" or "norm." in slot):
                    values = products[held].flatten()
                    own.copy_(own.nan_to_num() + values[group.rows.get(slot, slice(None))])
        for connection in graph.connections:
            name = connection.parameter
            if self.of == "weights" and name is not None and name in products:
                edges = connection.block(products[name]).sum((2, 3))
                target = connection.target.to(total.device)
                total[target] = total[target].nan_to_num() + edges
        return total

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Mean square over the batches of a unit's sum: see `Importance.scores`."""
        changes = measured["changes"]
        zeros = changes.new_zeros(len(changes), len(groups.group))
        sums = zeros.index_add(1, groups.unit, changes.nan_to_num())
        counted = zeros[0].index_add(
            0,
            groups.unit,
            (~changes[0].isnan()).to(changes),
        )
        return sums.square().mean(0).masked_fill(counted == 0, torch.inf)
