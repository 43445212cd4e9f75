"""What targets that make zeros have in common: masks.

A mask is the zeros of a stored network, and `NetworkCard.masked` names the weights that have one.
Every training keeps them: see `Finetuning`.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks.checks import to_plain_weight
from metaprune_pl.networks.widths import all_tensors
from metaprune_pl.pruning.computed_weights import masks_elsewhere
from metaprune_pl.pruning.groups import input_dimensions
from metaprune_pl.pruning.importance import Images, Importance
from metaprune_pl.pruning.targets.base import Masks, PrunedNetwork, Target
from metaprune_pl.pruning.unpruned import Unpruned

Ranking = Literal["global", "uniform"]


@dataclass(frozen=True, kw_only=True)
class MaskTarget(Target):
    """A target whose networks have zeros for the weights that matter least (paper, 6.2)."""

    channels: ClassVar[bool] = False
    verb: ClassVar[str] = "masked"

    @property
    def folder(self) -> str:
        """Name of the folder that its networks go to."""
        return f"masked_{self.text.replace(':', '_of_')}"

    @property
    @abstractmethod
    def text(self) -> str:
        """What is asked for, as a config has it."""

    def check(self, network: nn.Module, unpruned: Unpruned) -> None:
        """Refuse weights whose zeros would not be those of what multiplies the inputs."""
        _check_weights(unpruned.graph, all_tensors(network))

    @abstractmethod
    def masks(
        self, scores: Mapping[str, Tensor], dimensions: Mapping[str, tuple[int, int]]
    ) -> Masks:
        """Choose the weights that stay.

        Args:
            scores: Score of each single weight.
            dimensions: See `input_dimensions`.

        Raises:
            PruningError: The target fits no layer.
        """

    @classmethod
    def reach(
        cls,
        targets: Sequence[Self],
        network: nn.Module,
        unpruned: Unpruned,
        criterion: Importance,
        images: Images | None = None,
        weights: nn.Module | None = None,
    ) -> Iterator[PrunedNetwork]:
        """Set weights to zero: see `Target.reach`."""
        _check_weights(unpruned.graph, all_tensors(network))
        measured = criterion.measure(network, unpruned.graph, images)
        for target in targets:
            masks = find_masks(
                unpruned.graph,
                measured,
                criterion,
                target,
            )
            masked = apply_masks(network if weights is None else weights, masks)
            kept = torch.ones(unpruned.graph.num_nodes, dtype=torch.bool)
            yield PrunedNetwork(network=masked, kept=kept, masks=masks)


@torch.no_grad()
def find_masks(
    graph: WeightGraph,
    measured: Mapping[str, Tensor],
    criterion: Importance,
    target: MaskTarget,
) -> Masks:
    """Choose the weights that stay.

    Args:
        graph: Topology.
        measured: What the criterion measured; a network's own weights for magnitudes.
        criterion: Which weights matter.
        target: How many become zero, and where.

    Raises:
        PruningError: The target fits no layer.
    """
    dimensions = input_dimensions(graph)
    scores = criterion.weight_scores({name: measured[name] for name in dimensions})
    return target.masks(scores, dimensions)


def _check_weights(graph: WeightGraph, state: Mapping[str, Tensor]) -> None:
    if names := masks_elsewhere(graph, state):
        raise PruningError(
            f"masks: a weight is computed from '{names[0]}' in each pass, and zeros there are not "
            f"zeros of the weight. Make it permanent first ({to_plain_weight(names[0])}), or "
            "remove channels (--speed_ups)."
        )


@torch.no_grad()
def apply_masks(network: nn.Module, masks: Masks) -> nn.Module:
    """Return a copy of a network whose other weights are zero."""
    result = copy.deepcopy(network)
    parameters = dict(result.named_parameters())
    for name, kept in masks.kept.items():
        parameters[name].masked_fill_(~kept.to(parameters[name].device), 0.0)
    return result


def left_parameters(network: nn.Module, original: nn.Module | None = None) -> float:
    """Share of all parameters, biases and norms too, that are not zero (paper, table 3).

    Args:
        network: Where they are counted.
        original: The network before any pruning, whose parameters are all; None is the network.
    """
    whole = network if original is None else original
    left = sum(int(parameter.count_nonzero()) for parameter in network.parameters())
    return left / sum(parameter.numel() for parameter in whole.parameters())
