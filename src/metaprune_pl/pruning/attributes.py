"""Attributes of modules that count neurons, by the module's class and the attribute's name."""

from dataclasses import replace

from torch import nn

from metaprune_pl.graphs import WeightGraph

Pair = tuple[str, str]
"""Class of a module and name of its attribute."""


def pairs_of(network: nn.Module, graph: WeightGraph) -> list[Pair]:
    """Return the attributes that pruning would set, of modules that are not PyTorch's own."""
    pairs = {
        (_kind(network, extent.module), name)
        for extent in graph.constraints.extents
        for name in extent.names
    }
    return sorted(pair for pair in pairs if not pair[0].startswith("torch.nn."))


def without_pairs(network: nn.Module, graph: WeightGraph, pairs: set[Pair]) -> WeightGraph:
    """Return the graph where some attributes do not count neurons, but equal a width by chance."""
    extents = tuple(
        replace(
            extent,
            names=tuple(
                name for name in extent.names if (_kind(network, extent.module), name) not in pairs
            ),
        )
        for extent in graph.constraints.extents
    )
    return replace(graph, constraints=replace(graph.constraints, extents=extents))


def attributes_set(graph: WeightGraph) -> tuple[str, ...]:
    """Return the paths of all attributes that pruning sets."""
    paths = {
        f"{extent.module}.{name}".lstrip(".")
        for extent in graph.constraints.extents
        for name in extent.names
    }
    return tuple(sorted(paths))


def _kind(network: nn.Module, path: str) -> str:
    module = type(network.get_submodule(path))
    return f"{module.__module__}.{module.__qualname__}"
