"""What matters least: criteria for whole pruning groups and for single weights, as functions of a dictionary.

The group norm (paper, B.2.3) works on a network's own weights and on generated ones, with
gradients. The baselines are the same sums over something else than weights: `measure` gives the
dictionary that a criterion sums.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning.groups import PruningGroups, count_scales, magnitudes

Images = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Starts over batches of images [B, C, H, W] and labels [B]."""


@dataclass(frozen=True, kw_only=True)
class GroupNorm:
    """How much each prunable channel, or each weight, matters.

    Attributes:
        p: Exponent of the norm.
        reduce: What a unit's score is of its parameters' |w|^p: their `mean`, or that of the
            `first` layer.
        normalize: What scores are divided by within their group: nothing, their `mean`, their
            `max`, or for each the sum of those that are at least as high (`lamp`: Lee et al. 2021,
            Layer-adaptive sparsity).
        of: What w is: the `weights`; the `scales` of norms alone, units without one staying (Liu et
            al. 2017, Network slimming); `taylor`, weight times gradient of the loss on the
            validation images: its |w| is the loss's change to first order (Molchanov et al. 2019)
            and SNIP's sensitivity (Lee et al. 2019); or nothing: scores are `random`.
        seed: Of random scores.
    """

    p: float = 2.0
    reduce: Literal["mean", "first"] = "mean"
    normalize: Literal["none", "mean", "max", "lamp"] = "max"
    of: Literal["weights", "scales", "taylor", "random"] = "weights"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.p <= 0:
            raise ConfigError(f"criterion.p is {self.p}; the exponent of a norm is above 0.")
        if self.of == "scales" and self.reduce == "first":
            raise ConfigError(
                "criterion: the first layer has no scale; of: scales goes with reduce: mean."
            )

    def scores(
        self, groups: PruningGroups, state: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Equation (24): score of each unit, differentiable, [U].

        Infinite where there is nothing to go by.

        Args:
            groups: Pruning groups.
            state: Parameters by name, or what `measure` makes of them.
            kept: Which nodes are there, bool [N]; None is all.
        """
        if self.of == "random":
            generator = torch.Generator().manual_seed(self.seed)
            return torch.rand(len(groups.group), generator=generator)
        values = magnitudes(groups.graph, state, self.p, kept)
        index, members = groups.entry_unit.to(values.device), groups.members.to(values.device)
        if self.reduce == "first":
            values = values * groups.entry_first.to(values.device)
        if self.of == "scales":
            scales = count_scales(groups.graph)
            values, index = values[len(values) - scales :], index[len(index) - scales :]
            members = torch.bincount(index, minlength=len(members))
        total = values.new_zeros(len(groups.group)).index_add(0, index, values)
        if self.of == "scales":
            total = total.masked_fill(members == 0, torch.inf)
        return total if self.reduce == "first" else total / members.clamp(min=1)

    def weight_scores(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score of each single weight, |w|^p, normalised within its layer.

        Each in the shape of its parameter.

        Args:
            weights: Parameters by name, or what `measure` makes of them.

        Raises:
            ConfigError: The criterion is none of single weights.
        """
        if self.of == "scales":
            raise ConfigError("criterion.of: scales of norms say nothing of single weights.")
        generator = torch.Generator().manual_seed(self.seed)
        scores = {}
        for name, value in weights.items():
            drawn = torch.rand(value.shape, generator=generator) if self.of == "random" else value
            score = drawn.detach().abs().pow(self.p)
            layer = torch.zeros(score.numel(), dtype=torch.long, device=score.device)
            scores[name] = score / self._denominator(
                score.flatten(), layer, 1, torch.ones_like(layer).bool()
            ).view_as(score)
        return scores

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
        return self._denominator(
            scores.detach(), index, len(groups.names), there & scores.isfinite()
        )

    def _denominator(self, scores: Tensor, index: Tensor, count: int, there: Tensor) -> Tensor:
        """What each score is divided by, given which of `count` groups it is in and whether it is there."""
        if self.normalize == "none":
            return torch.ones_like(scores)
        scores = torch.where(there, scores, 0.0)
        zeros = scores.new_zeros(count)
        if self.normalize == "max":
            value = zeros.scatter_reduce(0, index, scores, "amax")[index]
        elif self.normalize == "mean":
            value = (
                zeros.index_add(0, index, scores)
                / zeros.index_add(0, index, there.to(scores)).clamp(min=1)
            )[index]
        else:
            order = torch.argsort(scores, descending=True, stable=True)
            order = order[torch.argsort(index[order], stable=True)]
            sums = zeros.double().index_add(0, index, scores.double())
            so_far = scores[order].double().cumsum(0) - (sums.cumsum(0) - sums)[index[order]]
            value = torch.empty_like(scores).index_copy(0, order, so_far.to(scores))
        return torch.where(value > 0, value, 1.0)

    def importance(self, groups: PruningGroups, state: Mapping[str, Tensor]) -> Tensor:
        """Equation (25): normalised score of each unit, [U]."""
        scores = self.scores(groups, state)
        return scores / self.normalizer(groups, scores)


def measure(
    network: nn.Module, criterion: GroupNorm, images: Images | None = None
) -> dict[str, Tensor]:
    """Return what a criterion sums, by the name of a parameter or buffer, on the CPU.

    Args:
        network: In evaluation mode; left as it is, gradients too.
        criterion: What is important.
        images: For `taylor`: what the loss, mean cross-entropy, is of.

    Raises:
        ConfigError: Images are needed and there are none.
    """
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    if criterion.of != "taylor":
        return state
    names, parameters = zip(
        *((n, p) for n, p in network.named_parameters(remove_duplicate=False) if p.requires_grad),
        strict=True,
    )
    total, count = [torch.zeros_like(parameter) for parameter in parameters], 0
    with torch.enable_grad():
        for batch, labels in images() if images is not None else ():
            loss = F.cross_entropy(network(batch), labels, reduction="sum")
            count += len(labels)
            for sums, gradient in zip(
                total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
            ):
                if gradient is not None:
                    sums += gradient
    if not count:
        raise ConfigError(
            "criterion.of: taylor is of the loss on validation images, and there are none."
        )
    for name, parameter, sums in zip(names, parameters, total, strict=True):
        state[name] = (parameter.detach() * sums / count).cpu()
    return state
