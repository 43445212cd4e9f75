"""What every importance has in common.

Letters in shapes: N nodes, U units, W weights.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.computed_weights import weights_in_use
from metaprune_pl.pruning.groups import PruningGroups

Images = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Starts over batches of images [B, C, H, W] and labels [B]."""


@dataclass(frozen=True, kw_only=True)
class Importance(ABC):
    """How much each prunable channel, or each weight, matters.

    An importance first measures a network, then scores its units by what was measured, as often as
    the plan asks for it. Scores are compared after a division within each pruning group.
    """

    @property
    def unlabelled(self) -> int:
        """Number of training images that are measured without labels; 0 are those of validation."""
        return 0

    def measure(
        self, network: nn.Module, graph: WeightGraph, images: Images | None = None
    ) -> dict[str, Tensor]:
        """Measure what the scores are made of: by default the network's own parameters and buffers.

        A weight that is computed in each pass counts as it multiplies its inputs.

        Args:
            network: In evaluation mode; left as it is, gradients too.
            graph: The network's graph.
            images: Images of the data that the network is pruned on, if there are any.

        Returns:
            Values on the CPU, those that belong to a parameter or buffer by its name.

        Raises:
            ConfigError: Images are needed and there are none.
        """
        measured = {name: value.detach().cpu() for name, value in network.state_dict().items()}
        for name, uses in weights_in_use(graph, network.state_dict()).items():
            measured[name] = uses[0].cpu()
        return measured

    @abstractmethod
    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Score each unit, [U]; infinite where there is nothing to go by.

        Args:
            groups: Pruning groups.
            measured: Result of `measure`.
            kept: Which nodes are there, bool [N]; None is all.
        """

    def of_kept(
        self, groups: PruningGroups, measured: Mapping[str, Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """Return a function from which nodes are there, bool [N], to the scores, [U].

        A plan calls it some hundred times, so what is the same for all of them may be done before.

        Args:
            groups: Pruning groups.
            measured: Result of `measure`.
        """
        return lambda kept: self.scores(groups, measured, kept)

    def weight_scores(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score each single weight, divided within its layer.

        Args:
            measured: Result of `measure` for the weights alone.

        Returns:
            Scores in the shapes of the weights.

        Raises:
            ConfigError: The importance is one of whole channels only.
        """
        scores = {}
        for name, score in self.raw_weight_scores(measured).items():
            flat = score.flatten()
            layer = torch.zeros(
                len(flat),
                dtype=torch.long,
                device=flat.device,
            )
            divisors = self.divisors(
                flat,
                layer,
                1,
                torch.ones_like(layer).bool(),
            )
            scores[name] = (flat / divisors).view_as(score)
        return scores

    def raw_weight_scores(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score each single weight, not yet divided within its layer: see `weight_scores`."""
        raise ConfigError(
            f"criterion: {type(self).__name__} scores whole channels, not single weights. "
            "For masks take Magnitude, Lamp, Taylor or Random."
        )

    def divisors(
        self,
        scores: Tensor,
        index: Tensor,
        count: int,
        there: Tensor,
    ) -> Tensor:
        """Return what each score is divided by: by default nothing, that is 1.

        Args:
            scores: Without gradient, [U] or [W].
            index: Group of each score.
            count: Number of groups.
            there: Which scores count, bool.
        """
        return torch.ones_like(scores)

    def normalizer(
        self, groups: PruningGroups, scores: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """Denominator of equation (25) for each unit, without gradient, [U].

        Args:
            groups: Pruning groups.
            scores: Result of `scores`.
            kept: Which units are there, bool [U]; None is all.
        """
        index = groups.group.to(scores.device)
        there = torch.ones_like(index, dtype=torch.bool) if kept is None else kept.to(scores.device)
        return self.divisors(
            scores.detach(),
            index,
            len(groups.names),
            there & scores.isfinite(),
        )

    def importance(self, groups: PruningGroups, measured: Mapping[str, Tensor]) -> Tensor:
        """Equation (25): score of each unit, divided within its group, [U]."""
        scores = self.scores(groups, measured)
        return scores / self.normalizer(groups, scores)


@dataclass(frozen=True, kw_only=True)
class Normalized(Importance):
    """An importance whose scores are divided by a value of their group.

    Attributes:
        normalize: That value: 1 (`none`), the group's `mean`, or its `max`.
    """

    normalize: Literal["none", "mean", "max"] = "max"

    def divisors(
        self,
        scores: Tensor,
        index: Tensor,
        count: int,
        there: Tensor,
    ) -> Tensor:
        """Return the divisor of each score's group."""
        if self.normalize == "none":
            return torch.ones_like(scores)
        scores = torch.where(there, scores, 0.0)
        zeros = scores.new_zeros(count)
        if self.normalize == "max":
            value = zeros.scatter_reduce(
                0,
                index,
                scores,
                "amax",
            )
        else:
            sizes = zeros.index_add(0, index, there.to(scores))
            value = zeros.index_add(0, index, scores) / sizes.clamp(min=1)
        return torch.where(value > 0, value, 1.0)[index]


def check_exponent(p: float) -> None:
    """Refuse an exponent that makes no norm.

    Raises:
        ConfigError: It is not above 0, or not finite.
    """
    if not 0 < p < math.inf:
        raise ConfigError(f"criterion.p is {p}; the exponent of a norm is above 0.")
