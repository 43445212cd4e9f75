"""The loss's change to first order (Molchanov et al. 2019; of single weights Lee et al. 2019)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.importance.base import Images, Normalized, check_exponent
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

        Of a normalised weight w = g v / |v|, w * dL/dw is v * dL/dv + (w / g)^2 * g * dL/dg.
        """
        own = super().measure(network, graph)
        measured = dict(own)
        named = network.named_parameters(remove_duplicate=False)
        parameters = {name: value for name, value in named if value.requires_grad}
        gradients, count = _summed_gradients(
            network,
            list(parameters.values()),
            images,
        )
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            measured[name] = (parameter.detach() * gradient / count).cpu()
        for weight, length in graph.constraints.lengths.items():
            if {weight, length} <= parameters.keys():
                shares = (own[weight] / own[length]).square().nan_to_num()
                measured[weight] += shares * measured[length]
        return measured

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


def _summed_gradients(
    network: nn.Module, parameters: list[nn.Parameter], images: Images | None
) -> tuple[list[Tensor], int]:
    """Return the gradients of the summed cross-entropy, and the number of images."""
    total = [torch.zeros_like(parameter) for parameter in parameters]
    count = 0
    with torch.enable_grad():
        for batch, labels in images() if images is not None else ():
            loss = F.cross_entropy(network(batch), labels, reduction="sum")
            count += len(labels)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for sums, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    sums += gradient
    if not count:
        raise ConfigError(
            "criterion: Taylor is of the loss on validation images, and there are none."
        )
    return total, count
