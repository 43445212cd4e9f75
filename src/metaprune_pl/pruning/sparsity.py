"""The sparsity term of a training (paper, B.2.4).

Its gradient for a network's own weights or for generated ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning.groups import PruningGroups, input_dimensions
from metaprune_pl.pruning.importance import Magnitude


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """The sparsity term of a training.

    Attributes:
        weight: Factor of its gradient against that of the mean cross-entropy. The paper's `pruner
            reg` of 10 stands against a sum over 100 (CIFAR) or 200 (ImageNet) micro-batches, so it
            is 0.1 or 0.05 here.
        alpha: Strength of the shrinkage of unimportant channels, equation (27); 0 is none.
            torch-pruning's base is 2^alpha.
        form: `decay` gives each parameter the gradient gamma * w, summed over the groups that it is
            in, as torch-pruning's sparsity learning does; `norm` is the exact gradient of equation
            (26). `l1` is for masks (paper, 6.2): the gradient of the sum of |w| over all weights
            that may be masked, without groups.
    """

    weight: float = 0.1
    alpha: float = 4.0
    form: Literal["decay", "norm", "l1"] = "decay"

    def __post_init__(self) -> None:
        if not (0 <= self.weight < math.inf and 0 <= self.alpha < math.inf):
            raise ConfigError("sparsity.weight and sparsity.alpha are finite and at least 0.")

    def shrinkage(self, groups: PruningGroups, scores: Tensor) -> Tensor:
        """Equation (27): gamma of each unit, between 1 and 2^alpha.

        1 where all scores of a group are equal, [U].
        """
        roots = scores.detach().clamp(min=0).sqrt()
        index = groups.group.to(roots.device)
        zeros = roots.new_zeros(len(groups.names))
        high = zeros.scatter_reduce(0, index, roots, "amax", include_self=False)[index]
        low = zeros.scatter_reduce(0, index, roots, "amin", include_self=False)[index]
        spread = torch.where(high > low, high - low, 1.0)
        return 2 ** (self.alpha * (high - roots) / spread)

    def gradient(
        self,
        criterion: Magnitude,
        groups: PruningGroups,
        state: Mapping[str, Tensor],
        into: dict[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradient of the term for each parameter, times `weight`, and the term's value.

        The value is that of equation (26), or the l1 norm.

        Args:
            criterion: Scores that the shrinkage follows.
            groups: Pruning groups.
            state: Trainable parameters by name.
            into: Gradients to add it to in place; None starts from zero.
        """
        gradients = {} if into is None else into
        if self.form == "l1":
            return gradients, self._l1(groups, state, gradients)
        names = [name for name in groups.graph.parameters if name in state]
        exact = self.form == "norm"
        with torch.set_grad_enabled(exact):
            leaves = {name: state[name].detach().requires_grad_(exact) for name in names}
            scores = criterion.scores(groups, leaves)
            gamma = self.shrinkage(groups, scores) * groups.prunable.to(scores.device)
            value = (gamma * scores / criterion.normalizer(groups, scores)).sum()
        if exact:
            parts = torch.autograd.grad(
                value,
                list(leaves.values()),
                allow_unused=True,
            )
            for name, own in zip(names, parts, strict=True):
                if own is not None:
                    self._add(gradients, name, own)
        else:
            _decay(groups, state, self.weight * gamma, gradients)
        return gradients, value.detach()

    def _l1(
        self, groups: PruningGroups, state: Mapping[str, Tensor], into: dict[str, Tensor]
    ) -> Tensor:
        """Add the gradient of the l1 norm, and return that."""
        norms = []
        for name in input_dimensions(groups.graph):
            if name in state:
                weight = state[name].detach()
                self._add(into, name, weight.sign())
                norms.append(weight.abs().sum())
        return torch.stack(norms).sum()

    def _add(self, into: dict[str, Tensor], name: str, own: Tensor) -> None:
        if name in into:
            into[name].add_(own, alpha=self.weight)
        else:
            into[name] = self.weight * own


@torch.no_grad()
def _decay(
    groups: PruningGroups,
    state: Mapping[str, Tensor],
    gamma: Tensor,
    into: dict[str, Tensor],
) -> None:
    """Add gamma * w for each parameter, summed over the groups that it is in."""
    node = gamma[groups.unit.to(gamma.device)]

    def add(name: str, weight: Tensor, factor: Tensor, own: Tensor | None) -> None:
        if own is None:
            into[name] = (weight * factor).reshape(state[name].shape)
        else:
            own.addcmul_(weight, factor)

    for connection in groups.graph.connections:
        if (name := connection.parameter) is not None:
            factor = node[connection.target][:, :, None, None]
            if not connection.by_groups:
                factor = factor + node[connection.source][:, None, :, None]
            weight = connection.block(state[name])
            if (
                connection.rows is None
                and not connection.taps_first
                and into.get(name, weight).is_contiguous()
            ):
                add(
                    name,
                    weight,
                    factor,
                    connection.block(into[name]) if name in into else None,
                )
            else:
                own = connection.unblock(weight * factor, state[name])
                into[name] = into[name].add_(own) if name in into else own
    for group in groups.graph.groups:
        for slot, name in group.slots.items():
            if slot.endswith("norm.weight"):
                add(
                    name,
                    state[name],
                    node[group.start : group.stop],
                    into.get(name),
                )
