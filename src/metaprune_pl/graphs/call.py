"""One operation of the exported program, and what its arguments stand for."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.builder import GraphBuilder
from metaprune_pl.graphs.labels import NOBODY, Activation, Joined, Parameter, channels, shrink
from metaprune_pl.graphs.masked import Mixing
from metaprune_pl.graphs.weight_graph import Followed

_LAYER = re.compile(r"(\.parametrizations\.\w+\.original\d*|\.weight(_v)?)$")
"""What a layer's weight is called behind its path."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One operation of the exported program.

    Attributes:
        builder: What the trace has collected so far.
        node: The operation.
        operator: Its name without `aten.`.
        module: Path of the innermost module that it runs in.
        values: What the nodes before it stand for.
        constant: Gives the value of a node that depends on no activation and no parameter, or None.
    """

    builder: GraphBuilder
    node: torch.fx.Node
    operator: str
    module: str
    values: dict[torch.fx.Node, Any]
    constant: Callable[[Any], Tensor | None]

    @property
    def name(self) -> str:
        """The operation's name, for errors."""
        return f"operator 'aten.{self.operator}'"

    @property
    def where(self) -> str:
        """Module path and tensor of the operation, for errors."""
        shape = "x".join(map(str, self.shape_of(self.node)))
        of_shape = f" of shape {shape}" if shape else ""
        return f"module '{self.module or 'the network'}', tensor '{self.node.name}'{of_shape}"

    @staticmethod
    def module_of(node: torch.fx.Node) -> str:
        """Path of the innermost module that an operation runs in."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return str(stack[-1][0]) if stack else ""

    @staticmethod
    def shape_of(node: Any) -> torch.Size:
        """Shape of a node's tensor."""
        value = node.meta.get("val")
        return value.shape if isinstance(value, Tensor) else torch.Size()

    def value(self, argument: Any) -> Any:
        """What an argument stands for.

        An `Activation`, a `Parameter`, None (a constant tensor), or a plain number or list.
        """
        return self.values.get(argument) if isinstance(argument, torch.fx.Node) else argument

    def argument(self, index: int, default: Any = None) -> Any:
        """Return a raw argument; export leaves out trailing defaults."""
        return self.node.args[index] if len(self.node.args) > index else default

    def activation_of(self, node: Any) -> Activation | None:
        """Return a node's activation, if it has one; fresh where nobody else reads it."""
        value = self.value(node)
        if not isinstance(value, Activation):
            return None
        return replace(
            value,
            owner=value.owner if len(node.users) == 1 else None,
        )

    def activation(self, index: int = 0) -> Activation:
        """Return an argument that must be an activation."""
        value = self.activation_of(self.argument(index))
        if value is None:
            raise TraceError(f"{self.name} on a tensor without neurons: {self.where}")
        return value

    def parameter(self, index: int) -> Parameter | None:
        """Return an argument that is absent, a parameter or buffer, or elementwise of one."""
        node = self.argument(index)
        value = self.value(node)
        if node is None:
            return None
        if isinstance(value, Parameter) and value.in_order:
            return value
        raise TraceError(f"{self.name} with computed weights is not supported: {self.where}")

    def places(self) -> list[Tensor | None] | None:
        """Return the constant indices along each dimension, or None where some are computed."""
        chosen = self.argument(1)
        places = [None if index is None else self.constant(index) for index in chosen]
        known = all(
            index is None or position is not None
            for index, position in zip(chosen, places, strict=True)
        )
        return places if known else None

    def neurons(self, activation: Activation, dim: int) -> Tensor:
        """Return the nodes along a dimension of the first argument, [C].

        Partners may lie along others only.
        """
        nodes = channels(
            activation.labels,
            dim,
            self.shape_of(self.argument(0)),
        )
        crossed = any(part.shape[dim] > 1 for part in activation.partners)
        if nodes is None or crossed or bool((nodes == NOBODY).all()):
            raise TraceError(
                f"{self.name} reads a tensor whose channels are not in one dimension: {self.where}"
            )
        constant = nodes == NOBODY  # coordinates, zeros, a mask beside channels
        if bool(constant.any()):
            name = f"{self.module}.constant".lstrip(".")
            _, beside = self.builder.new_group(name, int(constant.sum()))
            self.builder.fix(beside)
            nodes = nodes.masked_scatter(constant, beside)
        return nodes

    def share(self, activation: Activation, dim: int, parameters: list[Parameter]) -> None:
        """Let parameters follow a dimension where neurons also change along others (heads)."""
        along = activation.labels.movedim(dim, -1)
        for parameter in parameters:
            self.builder.follow(
                parameter.name,
                parameter.shape,
                parameter.elements.flatten(1)[:, 0].expand(along.shape)
                if parameter.elements.dim() > 1
                else parameter.elements.expand(along.shape),
                along,
            )

    def produce(
        self,
        outputs: int,
        inputs: Tensor,
        weight: Parameter,
        bias: int | None,
    ) -> tuple[str, Tensor]:
        """Add the neurons of a layer that reads the given nodes.

        `bias` is the index of that argument, where there is one.
        """
        owner, target = self.builder.new_group(
            _LAYER.sub("", weight.name),
            outputs,
            depth=self.builder.depth(inputs) + 1,
        )
        slots = self.builder.group(owner).slots
        for companion in weight.companions:
            elements = companion.elements
            if (
                elements.numel() == outputs == len(elements)
                and companion.in_order
                and "scale" not in slots
            ):
                slots["scale"] = companion.name
                continue
            for dim, nodes in enumerate((target, inputs)):
                if elements.dim() > dim and elements.shape[dim] == len(nodes) > 1:
                    along = elements.movedim(dim, 0).flatten(1)[:, 0]
                    self.builder.follow(
                        companion.name,
                        companion.shape,
                        along,
                        nodes,
                    )
        self._note_norms(weight, inputs, target)
        if bias is not None:
            self._add_bias(bias, owner, target)
        return owner, target

    def _note_norms(self, weight: Parameter, inputs: Tensor, target: Tensor) -> None:
        """Note that a layer's weight is normalised, or the product of a length and a direction."""
        if weight.gain:
            self.builder.lengths[weight.name] = weight.gain
        if weight.normalized:
            self.builder.several.append(inputs)
            self._mask_norm(weight, inputs, len(target))
        if weight.normalized or weight.gain:
            nodes = torch.cat([inputs, target])
            self.builder.followed.append(
                Followed(nodes=nodes, operator="weight norm", module=self.module, keeps=frozenset())
            )

    def _mask_norm(self, weight: Parameter, inputs: Tensor, outputs: int) -> None:
        """Note which inputs the elements of a batch norm's operand, a weight, are of."""
        plain = self.operator.startswith(("conv1d", "conv2d", "conv3d", "linear"))
        if weight.norm is None or not plain or len(inputs) % weight.shape[1]:
            self.builder.unmasked.append(inputs)
            return
        node, elements = weight.norm
        row, column, *_ = torch.unravel_index(elements, weight.shape)
        group = row * (len(inputs) // weight.shape[1]) // outputs
        labels = (shrink(inputs[group * weight.shape[1] + column]),)
        (operand, *_) = node.all_input_nodes
        shape = self.shape_of(node)
        self.builder.mixing[node] = Mixing(
            inputs={operand: labels},
            results=(labels,),
            shapes=(shape,),
        )

    def _add_bias(self, index: int, owner: str, target: Tensor) -> None:
        value = self.value(self.argument(index))
        if isinstance(value, Joined):
            first = 0
            for part, size in value.parts:
                if part is not None:
                    self.builder.follow(
                        part.name,
                        part.shape,
                        part.elements,
                        target[first : first + size],
                    )
                first += size
        elif self.argument(index) is not None:
            bias = self.parameter(index)
            assert bias is not None
            self.builder.group(owner).slots["bias"] = bias.name
            for companion in bias.companions:
                self.builder.follow(
                    companion.name,
                    companion.shape,
                    companion.elements.expand(target.shape),
                    target,
                )

    def again(self, weight: Parameter, inputs: Tensor, positions: int) -> Tensor | None:
        """Return the neurons of a layer that has run before, [O].

        They are the same, and so are those that it reads.
        """
        builder = self.builder
        builder.use(weight)
        for index, connection in enumerate(builder.connections):
            if connection.parameter != weight.name:
                continue
            ends = (connection.source.flatten(), connection.target.flatten())
            if connection.inputs_first and self.operator == "linear.default":
                ends = ends[::-1]  # the table of an embedding that also gives the scores of tokens
            if len(ends[0]) != len(inputs):
                raise TraceError(
                    f"parameter '{weight.name}' is used for inputs of other widths: {self.where}"
                )
            builder.reuse(weight.name, ends[0], inputs)
            if weight.normalized:
                self._mask_norm(weight, ends[0], len(ends[1]))
            builder.connections[index] = replace(
                connection, positions=connection.positions + positions
            )
            return ends[1]
        return None
