"""Attributes of modules that count neurons, by the module's class and the attribute's name."""

from dataclasses import replace

from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.graphs.constraints import Extent

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


def with_guesses(network: nn.Module, graph: WeightGraph) -> WeightGraph:
    """Return the graph where more attributes count neurons, which no operation names.

    A module that checks how wide its input is keeps that as an attribute: as many as a layer within
    it reads, or gives where the attribute's name has `out`.
    """
    modules = dict(network.named_modules())
    known = {(extent.module, name) for extent in graph.constraints.extents for name in extent.names}
    guesses = []
    for layer in graph.connections:
        path = layer.name.rpartition(".")[0]
        if path not in modules or _kind(network, path).startswith("torch.nn."):
            continue
        for nodes, given in ((layer.source.flatten(), False), (layer.target.flatten(), True)):
            extent = Extent(module=path, parts=(nodes,)).named(modules[path])
            names = [name for name in extent.names if ("out" in name) == given]
            names = [name for name in names if (path, name) not in known]
            guesses.append(replace(extent, names=tuple(names)))
            known |= {(path, name) for name in names}
    extents = (*graph.constraints.extents, *(guess for guess in guesses if guess.names))
    return replace(graph, constraints=replace(graph.constraints, extents=extents))


def attributes_set(graph: WeightGraph, kept: Tensor | None = None) -> tuple[str, ...]:
    """Return the paths of the attributes that pruning sets.

    Args:
        graph: Topology.
        kept: Which nodes are left, bool [N]; None is of all attributes that it may set.
    """
    paths = {
        f"{extent.module}.{name}".lstrip(".")
        for extent in graph.constraints.extents
        for name in extent.names
        if kept is None or not all(bool(kept[part].all()) for part in extent.parts)
    }
    return tuple(sorted(paths))


def _kind(network: nn.Module, path: str) -> str:
    module = type(network.get_submodule(path))
    return f"{module.__module__}.{module.__qualname__}"
