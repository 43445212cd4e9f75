"""The control `depgraph`: torch-pruning's own pruner (Fang et al. 2023) in place of ours."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.plan import PruningSettings
from metaprune_pl.pruning.unpruned import Unpruned


def prune_by_depgraph(
    network: nn.Module,
    unpruned: Unpruned,
    settings: PruningSettings,
    budgets: Sequence[float],
) -> Iterator[nn.Module]:
    """Prune a network as torch-pruning does, by its own importance, ranking and groups.

    Args:
        network: Left as it is.
        unpruned: What is known of it.
        settings: Of these `step`, `max_ratio`, `round_to`, `cost` count, and whether the ranking
            is global.
        budgets: Costs to come down to, largest first.

    Yields:
        A copy of the network for each budget.

    Raises:
        PruningError: A budget is out of reach.
    """
    pruned = copy.deepcopy(network).eval()
    example = unpruned.example_for(network)
    ignored = [pruned.get_submodule(name) for name in _output_layers(unpruned.graph)]
    pruner = _pruner(pruned, example, ignored, settings)
    for budget in budgets:
        while settings.cost.of_network(pruned, example) > budget:
            pruner.step()  # which may be too small for a channel
            if pruner.current_step > pruner.iterative_steps:
                raise PruningError(
                    f"a cost of {budget:.0f} is out of reach of torch-pruning's pruner. Lower the "
                    "target."
                )
        yield copy.deepcopy(pruned)


def _pruner(
    network: nn.Module,
    example: Any,
    ignored: list[nn.Module],
    settings: PruningSettings,
) -> Any:
    import torch_pruning  # takes some time, for a control alone

    return torch_pruning.pruner.GroupNormPruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=settings.ranking == "global",
        pruning_ratio=1.0,
        max_pruning_ratio=settings.max_ratio,
        iterative_steps=max(1, round(1 / settings.step)),
        ignored_layers=ignored,
        round_to=None if settings.round_to in {1, "auto"} else settings.round_to,
    )


def _output_layers(graph: WeightGraph) -> list[str]:
    """Names of the layers that make the classes."""
    outputs = set(graph.output.tolist())
    layers = (layer for layer in graph.connections if layer.parameter is not None)
    return [layer.name for layer in layers if outputs & set(layer.target.flatten().tolist())]
