"""A network with some neurons masked, run operation by operation: what a pruned network must equal.

Weights from masked neurons are taken to be 0 by the caller. Operations that normalise neurons
together (layer norm, softmax over channels, attention scores) see those that are kept alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

from metaprune_pl.graphs.constants import Constants
from metaprune_pl.graphs.wrapped import function_of
from metaprune_pl.networks.examples import Example, tensors_of

_WITH_WEIGHTS = {
    "layer_norm.default": (-1, (2, 3)),
    "rms_norm.default": (-1, (2,)),
    "group_norm.default": (1, (2, 3)),
    "batch_norm.default": (1, (1, 2, 3, 4)),
}
"""Norms to the dimension of the channels, and the arguments that have a value for each of them."""
_SUMS = ("matmul", "bmm", "mm", "mv", "addmm", "baddbmm", "einsum", "linear", "scaled_dot", "sum")
"""Operations in which a neuron that is 0 is as good as none."""


class Incomparable(Exception):
    """A masked network cannot be computed in this way."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixing:
    """An operation that puts neurons together.

    Attributes:
        inputs: Labels of each of its operands that is an activation, and further ones where an
            element belongs to several neurons.
        results: Labels of each of its results; empty where a result belongs to no neuron.
        shapes: Shape of each result of the whole network.
    """

    inputs: Mapping[torch.fx.Node, tuple[Tensor, ...]]
    results: tuple[tuple[Tensor, ...], ...]
    shapes: tuple[torch.Size, ...]


class MaskedProgram:
    """An exported program that can be run with some neurons masked.

    Args:
        program: What `torch.export` gave.
        mixing: Its operations that put neurons together.
    """

    def __init__(self, program: Any, mixing: Mapping[torch.fx.Node, Mixing]) -> None:
        self.module: torch.fx.GraphModule = program.graph_module
        self.mixing = mixing
        self._constants: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._inputs: list[str] = []
        for spec in program.graph_signature.input_specs:
            name = spec.arg.name
            if spec.kind is InputKind.USER_INPUT:
                self._inputs.append(name)
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                self._constants[name] = program.constants[spec.target]
            else:
                self._names[name] = str(spec.target)
                if spec.target in program.constants:
                    self._constants[name] = program.constants[spec.target]

    def __call__(self, state: Mapping[str, Tensor], kept: Tensor, example: Example) -> list[Tensor]:
        """Run it on one input.

        Args:
            state: Parameters and buffers by name, weights from masked neurons 0.
            kept: Which nodes stay, bool [N].
            example: One input, as it was exported with.

        Returns:
            All tensors of the output, in order.

        Raises:
            Incomparable: Neurons are masked that an operation cannot do without.
        """
        given = dict(zip(self._inputs, (t for _, t in tensors_of(example)), strict=False))
        values = self._known(state)
        for node, value in values.items():
            values[node] = given.get(node.name, value)
        return self._run(self.module, values, kept)

    def without_input(self, state: Mapping[str, Tensor]) -> Constants:
        """Return what computes values that depend on no input, by their nodes.

        Args:
            state: Parameters and buffers by name.
        """
        return Constants(self._known(state))

    def _known(self, state: Mapping[str, Tensor]) -> dict[torch.fx.Node, Any]:
        """Values of the program's arguments; None for inputs."""
        return {
            node: state.get(self._names.get(node.name, ""), self._constants.get(node.name))
            for node in self.module.graph.find_nodes(op="placeholder")
        }

    def _run(
        self, module: torch.fx.GraphModule, values: dict[torch.fx.Node, Any], kept: Tensor
    ) -> list[Tensor]:
        for node in module.graph.nodes:
            if node.op == "get_attr":
                values[node] = getattr(module, str(node.target))
            elif node.op == "call_function":
                values[node] = self._step(node, values, kept)
            elif node.op == "output":
                outputs: Any = torch.fx.map_arg(node.args[0], values.__getitem__)
                return list(outputs) if isinstance(outputs, tuple | list) else [outputs]
        raise AssertionError("an exported program has an output")

    def _step(self, node: torch.fx.Node, values: dict[torch.fx.Node, Any], kept: Tensor) -> Any:
        function = function_of(node)
        mixing = self.mixing.get(node)
        if mixing is None or not _touched(mixing, kept):
            args = torch.fx.map_arg(node.args, values.__getitem__)
            keywords = torch.fx.map_arg(node.kwargs, values.__getitem__)
            return function(*args, **keywords)
        if str(node.target).removeprefix("aten.").startswith(_SUMS):
            return _with_zeros(
                node,
                mixing,
                values,
                kept,
            )
        return _with_kept_only(
            node,
            mixing,
            values,
            kept,
        )


def _touched(mixing: Mixing, kept: Tensor) -> bool:
    labels = [part.flatten() for parts in mixing.inputs.values() for part in parts]
    return not bool(_stays(torch.cat(labels), kept).all())


def _stays(labels: Tensor, kept: Tensor) -> Tensor:
    return kept[labels] | (labels < 0)


def _with_zeros(
    node: torch.fx.Node,
    mixing: Mixing,
    values: Mapping[torch.fx.Node, Any],
    kept: Tensor,
) -> Any:
    def value(source: torch.fx.Node) -> Any:
        result = values[source]
        for labels in mixing.inputs.get(source, ()):
            result = result * _stays(labels, kept).to(result)
        return result

    function = function_of(node)
    args = torch.fx.map_arg(node.args, value)
    keywords = torch.fx.map_arg(node.kwargs, value)
    return function(*args, **keywords)


def _index(parts: tuple[Tensor, ...], kept: Tensor) -> dict[int, Tensor]:
    """Indices that are kept along each dimension that neurons lie in."""
    result: dict[int, Tensor] = {}
    for labels in parts:
        mask = _stays(labels, kept)
        whole = torch.ones_like(mask)
        for dim, size in enumerate(labels.shape):
            if size > 1:
                along = mask.movedim(dim, 0).flatten(1).any(1)
                result[dim] = along.nonzero().flatten()
                shape = [1] * mask.dim()
                shape[dim] = -1
                whole = whole & along.reshape(shape)
        if not torch.equal(whole, mask):
            raise Incomparable
    return result


def _chosen(value: Tensor, index: Mapping[int, Tensor]) -> Tensor:
    for dim, places in index.items():
        value = value.index_select(dim, places.to(value.device))
    return value


def _with_kept_only(
    node: torch.fx.Node,
    mixing: Mixing,
    values: Mapping[torch.fx.Node, Any],
    kept: Tensor,
) -> Any:
    indices = {source: _index(parts, kept) for source, parts in mixing.inputs.items()}

    def value(source: torch.fx.Node) -> Any:
        return _chosen(values[source], indices[source]) if source in indices else values[source]

    function = function_of(node)
    name = str(node.target).removeprefix("aten.")
    args: list[Any] = [torch.fx.map_arg(argument, value) for argument in node.args]
    if name in _WITH_WEIGHTS:
        dim, positions = _WITH_WEIGHTS[name]
        along = indices[node.args[0]].get(dim % args[0].dim())  # type: ignore[index]
        if along is not None:
            for position in positions:
                if len(args) > position and args[position] is not None:
                    args[position] = args[position][along.to(args[position].device)]
            if dim == -1:
                args[1] = [len(along)]
    keywords = torch.fx.map_arg(node.kwargs, value)
    result = function(*args, **keywords)
    several = isinstance(result, tuple | list)
    results = result if several else [result]
    parts = [
        _spread(part, labels, shape, kept)
        for part, labels, shape in zip(results, mixing.results, mixing.shapes, strict=True)
    ]
    return parts if several else parts[0]


def _spread(
    part: Tensor,
    labels: tuple[Tensor, ...],
    shape: torch.Size,
    kept: Tensor,
) -> Tensor:
    """Put what is kept back where it lies in the whole tensor; the rest is 0."""
    if part.shape == shape:
        return part
    for dim, places in _index(labels, kept).items():
        sizes = list(part.shape)
        sizes[dim] = shape[dim]
        part = part.new_zeros(sizes).index_copy(
            dim,
            places.to(part.device),
            part,
        )
    if part.shape != shape:
        raise Incomparable
    return part
