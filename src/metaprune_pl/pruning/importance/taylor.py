"""The loss's change to first order (Molchanov et al. 2019; of single weights Lee et al. 2019)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.importance.base import Images, Normalized, check_exponent
from metaprune_pl.pruning.importance.gradients import Products, labelled
from metaprune_pl.pruning.importance.magnitude import power_sums, power_sums_of_kept, powers


@dataclass(frozen=True, kw_only=True)
class Taylor(Normalized):
    """How large weight times gradient of the loss is: the sum of |w * dL/dw|^p.

    The loss is the mean cross-entropy over the validation images.

    Attributes:
        normalize: What scores are divided by within their group: 1 (`none`), their `mean` or `max`.
        p: Exponent of the norm.
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        check_exponent(self.p)

    def measure(
        self, network: nn.Module, graph: WeightGraph, images: Images | None = None
    ) -> dict[str, Tensor]:
        """Measure weight times gradient: see `Importance.measure`.

        A weight that is computed in each pass counts as it multiplies its inputs.
        """
        products = Products(network, graph, "Taylor")
        named = network.named_parameters(remove_duplicate=False)
        sums = {name: torch.zeros_like(value) for name, value in named}
        count = 0
        for batch, labels in labelled(images, "Taylor"):
            count += len(labels)
            for name, product in products(batch, labels).items():
                sums[name] = sums.get(name, 0) + product
        means = {name: (total / count).cpu() for name, total in sums.items()}
        return super().measure(network, graph) | means

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Mean of |w * dL/dw|^p: see `Importance.scores`."""
        return power_sums(groups, measured, self.p, kept)

    def of_kept(
        self, groups: PruningGroups, measured: Mapping[str, Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """Raise to powers once: see `Importance.of_kept`."""
        return power_sums_of_kept(groups, measured, self.p)

    def raw_weight_scores(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return |w * dL/dw|^p of each weight."""
        return powers(measured, self.p)
