"""Runs a network layer by layer: a run stops before each layer, which may get new weights there.

`torch.export` gives a forward pass as a list of operations. Several batches are run in turn, each
holding what the operations ahead of it still need, and nothing else.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node, map_arg

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.graphs.export import explanation
from metaprune_pl.graphs.wrapped import function_of, inline
from metaprune_pl.networks.widths import all_tensors, copy_network

_DIMENSIONS = {
    "aten.linear.default": 0,
    "aten.conv1d.default": 1,
    "aten.conv1d.padding": 1,
    "aten.conv2d.default": 2,
    "aten.conv2d.padding": 2,
    "aten.conv3d.default": 3,
    "aten.conv3d.padding": 3,
}
"""Layers with weights, and the dimensions of their kernels."""
BATCH = 32
"""Most images that run together."""
PIXELS = 2**18
"""Most pixels of them, unless one image has more."""


def equal_batches(images: Tensor) -> list[Tensor]:
    """Split four images or more into four batches or more of equal size; a few may be left over.

    Raises:
        ConfigError: An image is not finite.
    """
    check_images(images)
    most = max(1, min(BATCH, PIXELS // images[0, 0].numel()))
    size = len(images) // max(4, -(-len(images) // most))
    return [part for part in images.split(size) if len(part) == size]


def check_images(images: Tensor) -> None:
    """Refuse images, [B, C, H, W], of which nothing can be learnt.

    Raises:
        ConfigError: An image is not finite.
    """
    if not bool(images.isfinite().all()):
        raise ConfigError("images: one holds NaN or infinity. Leave it out.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer that is about to read its inputs.

    Letters: G conv groups, O outputs and I inputs of one, K = I times the taps of the kernel.

    Attributes:
        name: Name of the parameter that the graph has for its weight.
        weight: The weight as it multiplies the inputs, [G * O, I, ...].
        bias: Its bias, [G * O], where that is a parameter that nothing else reads.
        constant: Another bias, such as one put together from several parameters, [G * O].
        inputs: What it reads, [B, C, ...] for a convolution, [..., C] for a linear layer.
        compute: Returns what it gives.
        groups: G.
        stride: Of each dimension of the kernel; empty for a linear layer.
        padding: Before and after, of each dimension.
        dilation: Of each dimension.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    constant: Tensor | None
    inputs: Tensor
    compute: Callable[[], Tensor]
    groups: int = 1
    stride: Sequence[int] = ()
    padding: Sequence[tuple[int, int]] = ()
    dilation: Sequence[int] = ()

    @property
    def channel_dim(self) -> int:
        """Dimension of the channels, of inputs and outputs."""
        return 1 if self.stride else -1

    @property
    def matrix(self) -> Tensor:
        """The weights, one row per output, [G, O, K]."""
        return self.weight.reshape(self.groups, -1, self.weight[0].numel())

    def patches(self, inputs: Tensor) -> Tensor:
        """Return what the rows of `matrix` are multiplied with, [G, rows, K]."""
        if not self.stride:
            return inputs.reshape(1, -1, inputs.shape[-1])
        padded = F.pad(
            inputs,
            [side for pair in reversed(self.padding) for side in pair],
        )
        taps = [padded[window].flatten(2) for window in self._windows(padded.shape[2:])]
        stacked = torch.stack(taps, -1)  # [B, C, positions, T]
        parts: Tensor = stacked.unflatten(1, (self.groups, -1)).permute(
            1,
            0,
            3,
            2,
            4,
        )
        return parts.reshape(self.groups, -1, self.weight[0].numel())

    def _windows(self, sizes: torch.Size) -> Iterator[tuple[slice, ...]]:
        """Give the part of the padded inputs that each tap meets."""
        kernel = self.weight.shape[2:]
        dims = range(len(sizes))
        steps = [
            (sizes[d] - self.dilation[d] * (kernel[d] - 1) - 1) // self.stride[d] for d in dims
        ]
        for tap in itertools.product(*map(range, kernel)):
            first = [self.dilation[d] * tap[d] for d in dims]
            spans = [
                slice(first[d], first[d] + self.stride[d] * steps[d] + 1, self.stride[d])
                for d in dims
            ]
            yield (slice(None), slice(None), *spans)

    def rows(self, outputs: Tensor) -> Tensor:
        """Return outputs in the order of `patches`, [G, rows, O]."""
        if not self.stride:
            return outputs.reshape(1, -1, outputs.shape[-1])
        by_group: Tensor = outputs.flatten(2).unflatten(
            1, (self.groups, -1)
        )  # [B, G, O, positions]
        return by_group.permute(1, 0, 3, 2).flatten(1, 2)


class LayerwiseNetwork:
    """A network in evaluation mode, as a list of operations.

    Its parameters and buffers are those of the network: what is copied into them counts from then
    on. A layer is a convolution or a linear layer whose weight is a parameter of the graph that
    nothing else reads, or is computed from one (weight normalisation and standardisation).

    Args:
        network: Left as it is.
        graph: Topology of it, or of a network that it was pruned from.
        example: As many images as every batch will have, [B, C, H, W].

    Raises:
        PruningError: The network cannot be exported.
    """

    def __init__(self, network: nn.Module, graph: WeightGraph, example: Tensor) -> None:
        program = _export(network, example)  # has copies of the weights, and is not kept
        self._module = program.graph_module
        kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        own = all_tensors(network)
        self._weights = {c.parameter for c in graph.connections if c.parameter is not None}
        self._tensors: dict[Node, Any] = {}
        self._names: dict[Node, str] = {}
        for node in self._module.graph.find_nodes(op="placeholder"):
            spec = kinds[node.name]
            if spec.kind is InputKind.USER_INPUT:
                self._input = node
            elif spec.target in own:
                self._tensors[node] = own[spec.target].detach()
                self._names[node] = graph.aliases.get(spec.target, spec.target)
            else:
                self._tensors[node] = program.constants[str(spec.target)]
        layers = [(node, self._parameters_of(node.args[1])) for node in self._layer_nodes()]
        uses = Counter(name for _, names in layers for name in names)
        one = ((names.pop(), node) for node, names in layers if len(names) == 1)
        self._layers = {name: node for name, node in one if uses[name] == 1}
        nodes = self._module.graph.nodes
        self._last_use = {used: node for node in nodes for used in node.all_input_nodes}

    @property
    def layers(self) -> list[str]:
        """Names of the layers' weights, in the order of the forward pass."""
        return list(self._layers)

    @property
    def own_layers(self) -> list[str]:
        """Names of those weights that are parameters, which may be changed."""
        return [name for name, node in self._layers.items() if self._own(node.args[1])]

    def _layer_nodes(self) -> Iterator[Node]:
        for node in self._module.graph.nodes:
            if (dimensions := _DIMENSIONS.get(str(node.target))) is not None:
                if not dimensions or node.args[0].meta["val"].dim() == dimensions + 2:
                    yield node

    def _parameters_of(self, weight: Any) -> set[str]:
        """Return those of the graph's parameters that a weight is, or is computed from."""
        if weight in self._names and not self._own(weight):
            return set()
        behind = {weight: None}
        pending = [weight]
        while pending:
            new = [node for node in pending.pop().all_input_nodes if node not in behind]
            behind.update(dict.fromkeys(new))
            pending += new
        size = weight.meta["val"].numel()
        if self._input in behind:
            return set()
        return {
            self._names[node]
            for node in behind
            if self._names.get(node) in self._weights and self._tensors[node].numel() == size
        }

    def _own(self, node: Any) -> bool:
        """Whether a node is a parameter, and the only reader of it reads nothing else."""
        if node not in self._names:
            return False
        address = self._tensors[node].data_ptr()
        same = [other for other in self._names if self._tensors[other].data_ptr() == address]
        return sum(len(other.users) for other in same) == 1

    def run(
        self, images: Tensor, names: Sequence[str], *, fixed: bool = False
    ) -> Generator[Layer, None, Tensor]:
        """Run the network on a batch, and stop before each of the layers that are named.

        Args:
            images: [B, C, H, W].
            names: Names of weights, in the order of the forward pass.
            fixed: Weights stay as they are, so that a layer is computed once.

        Returns:
            The network's first output.
        """
        values: dict[Node, Any] = {**self._tensors, self._input: images}
        stops = {self._layers[name]: name for name in names}
        for node in self._module.graph.nodes:
            if node.op == "get_attr":
                values[node] = getattr(self._module, str(node.target))
            elif node.op == "call_function":
                compute = self._call(node, values)
                if node in stops:
                    compute = cache(compute) if fixed else compute
                    yield self._layer(stops[node], node, values, compute)
                values[node] = compute()
                del compute
            elif node.op == "output":
                outputs: Any = node.args[0]
                return values[outputs[0]]  # type: ignore[no-any-return]
            for used in node.all_input_nodes:
                if self._last_use[used] is node:
                    values.pop(used, None)
        raise AssertionError("an exported program has an output")

    def held(self, names: Sequence[str]) -> list[int]:
        """Return the bytes that a run holds at each of the layers that are named, or a later one.

        Args:
            names: Names of weights, in the order of the forward pass.

        Returns:
            The most from each layer on, without weights.
        """
        stops = {self._layers[name] for name in names}
        values: dict[Node, int] = {}
        held = []
        for node in self._module.graph.nodes:
            if node in stops:
                held.append(sum(values.values()))
            if node not in self._tensors and isinstance(given := node.meta.get("val"), Tensor):
                values[node] = given.numel() * given.element_size()
            for used in node.all_input_nodes:
                if self._last_use[used] is node:
                    values.pop(used, None)
        return list(itertools.accumulate(reversed(held), max))[::-1]

    @staticmethod
    def _call(node: Node, values: dict[Node, Any]) -> Callable[[], Any]:
        function = function_of(node)
        arguments = map_arg(node.args, values.__getitem__)
        return partial(
            function,
            *arguments,
            **map_arg(node.kwargs, values.__getitem__),
        )

    def _layer(
        self,
        name: str,
        node: Node,
        values: dict[Node, Any],
        compute: Callable[[], Tensor],
    ) -> Layer:
        given: tuple[Any, ...] = node.args
        inputs, weight = given[:2]
        bias: Any = given[2] if len(given) > 2 else None
        options: dict[str, Any] = {}
        if dimensions := _DIMENSIONS[str(node.target)]:
            defaults: list[Any] = [
                [1] * dimensions,
                [0] * dimensions,
                [1] * dimensions,
                1,
            ]
            stride, padding, dilation, groups = (*given[3:], *defaults[max(0, len(given) - 3) :])
            kernel = values[weight].shape[2:]
            options = {
                "stride": stride,
                "padding": _sides(padding, kernel, dilation),
                "dilation": dilation,
                "groups": groups,
            }
        return Layer(
            name=name,
            weight=values[weight],
            bias=self._tensors[bias] if self._own(bias) else None,
            constant=None if bias is None or self._own(bias) else values[bias],
            inputs=values[inputs],
            compute=compute,
            **options,
        )


def _sides(
    padding: str | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Return how far each dimension is padded before and after."""
    if padding == "valid":
        return [(0, 0) for _ in kernel]
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in reach]
    return [(int(side), int(side)) for side in padding]


def _export(network: nn.Module, example: Tensor) -> ExportedProgram:
    try:
        with torch.no_grad():
            program = torch.export.export(
                copy_network(network).eval(),
                (example,),
                strict=False,
            )
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        raise PruningError(
            f"with {len(example)} images at a time {explanation(error, network, example)} With "
            "criterion Magnitude and without a repair, one is enough."
        ) from error
    inline(program.graph_module)
    return program
