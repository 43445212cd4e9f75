"""Weights that become zero in place of channels that are removed.

Unstructured, and N of every M (paper, 6.2).

A mask is the zeros of a stored network, and `NetworkCard.masked` names the weights that have one.
Every training keeps them: see `Finetuning`.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.groups import input_dimensions
from metaprune_pl.pruning.importance import Importance

Ranking = Literal["global", "uniform"]


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Which weights become zero. A sibling of `PruningSettings`, whose steps and floors are all about channels.

    Attributes:
        sparsities: Shares of the weights of convolutions and linear layers that become zero, such
            as 0.8.
        patterns: `N:M` keeps the N most important of each M weights that follow each other along
            the input channels, the layout that sparse tensor cores take (2:4). In YAML in quotes,
            or it is a time of day.
        ranking: Whether a share is of all weights together (`global`) or of each layer's
            (`uniform`).
    """

    sparsities: list[float] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    ranking: Ranking = "global"

    def __post_init__(self) -> None:
        if not self.sparsities and not self.patterns:
            raise ConfigError(
                "masks: give sparsities, such as [0.5, 0.8], or patterns, such as ['2:4']."
            )
        if wrong := [share for share in self.sparsities if not 0 < share < 1]:
            raise ConfigError(f"masks.sparsities: {wrong[0]:g} is no share between 0 and 1.")
        for pattern in self.patterns:
            pattern_numbers(pattern)

    @property
    def targets(self) -> list[float | str]:
        """Shares, then patterns."""
        return [*self.sparsities, *self.patterns]


def pattern_numbers(pattern: str) -> tuple[int, int]:
    """Return (N, M) of `N:M`.

    Raises:
        ConfigError: It is none.
    """
    found = re.fullmatch(r"(\d+):(\d+)", pattern)
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise ConfigError(
            f"masks.patterns: '{pattern}' is no pattern N:M with 0 < N < M, such as '2:4'."
        )
    return int(found[1]), int(found[2])


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """Which weights of a network stay.

    Attributes:
        kept: Parameter to which of its entries stay, bool in its shape.
        dense: Weights that a pattern leaves whole, as M does not divide their input channels.
    """

    kept: dict[str, Tensor]
    dense: tuple[str, ...] = ()


@torch.no_grad()
def find_masks(
    graph: WeightGraph,
    state: Mapping[str, Tensor],
    criterion: Importance,
    target: float | str,
    ranking: Ranking = "global",
) -> Masks:
    """Choose the weights that stay.

    Args:
        graph: Topology.
        state: What the criterion measures, by the name of a parameter; a network's own weights for
            magnitudes.
        criterion: What is important.
        target: Share of the weights that become zero, or a pattern.
        ranking: For shares.

    Raises:
        PruningError: The pattern fits no layer.
    """
    dimensions = input_dimensions(graph)
    scores = criterion.weight_scores({name: state[name] for name in dimensions})
    if isinstance(target, str):
        keep, of = pattern_numbers(target)
        fits = [
            n for n, (dim, groups) in dimensions.items() if scores[n].shape[dim] // groups % of == 0
        ]
        if not fits:
            raise PruningError(
                f"no layer of the network has input channels that {of} divides, as {target} needs."
            )
        kept = {name: pattern_mask(scores[name], keep, of, dimensions[name][0]) for name in fits}
        return Masks(kept=kept, dense=tuple(sorted(dimensions.keys() - kept.keys())))
    if ranking == "uniform":
        return Masks(
            kept={
                name: _largest(score.flatten(), target).view_as(score)
                for name, score in scores.items()
            }
        )
    flat = _largest(torch.cat([score.flatten() for score in scores.values()]), target)
    parts = flat.split([score.numel() for score in scores.values()])
    return Masks(
        kept={name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}
    )


def _largest(scores: Tensor, sparsity: float) -> Tensor:
    """Mark all but the share of lowest scores, [W] -> bool [W]."""
    order = torch.argsort(scores, stable=True)
    return torch.ones_like(scores, dtype=torch.bool).index_fill(
        0, order[: round(sparsity * len(order))], False
    )


def pattern_mask(scores: Tensor, keep: int, of: int, dim: int) -> Tensor:
    """Mark the `keep` largest of each `of` entries that follow each other along a dimension.

    Of equals the first.
    """
    moved = scores.movedim(dim, -1)
    grouped = moved.reshape(-1, of)
    order = torch.argsort(grouped, dim=1, descending=True, stable=True)
    mask = torch.zeros_like(grouped, dtype=torch.bool).scatter(1, order[:, :keep], True)
    return mask.reshape(moved.shape).movedim(-1, dim)


@torch.no_grad()
def apply_masks(network: nn.Module, masks: Masks) -> nn.Module:
    """Return a copy of a network whose other weights are zero."""
    result = copy.deepcopy(network)
    parameters = dict(result.named_parameters())
    for name, kept in masks.kept.items():
        parameters[name].masked_fill_(~kept.to(parameters[name].device), 0.0)
    return result


def left_parameters(network: nn.Module) -> float:
    """Share of all parameters, biases and norms too, that are not zero (paper, table 3)."""
    parameters = list(network.parameters())
    return sum(int(p.count_nonzero()) for p in parameters) / sum(p.numel() for p in parameters)
