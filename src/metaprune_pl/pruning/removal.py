"""A network without some of its neurons, and the check that it is the network with them masked."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import Connection, WeightGraph
from metaprune_pl.graphs.constraints import AttentionScale
from metaprune_pl.graphs.masked import Incomparable
from metaprune_pl.graphs.weight_graph import NeuronGroup
from metaprune_pl.networks.examples import Example, call, random_like, single, tensors_of
from metaprune_pl.networks.widths import all_tensors, copy_network, set_conv_groups, set_tensors

FORWARD_ERRORS = (
    RuntimeError,
    AssertionError,
    ValueError,
    TypeError,
    IndexError,
    ZeroDivisionError,
)
"""What forward passes raise that count on a fixed width."""
TOLERANCE = {
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
    torch.float32: 1e-4,
    torch.float64: 1e-9,
}
"""Share of the largest output that a pruned network may differ by."""


def remove(network: nn.Module, graph: WeightGraph, kept: Tensor) -> nn.Module:
    """Return a copy of a network without some of its neurons.

    Args:
        network: Left as it is.
        graph: Its topology.
        kept: Which nodes stay, bool [N].
    """
    no_tensor_twice = {id(value): value for value in all_tensors(network).values()}
    pruned = copy_network(network, no_tensor_twice)
    own = {name: value.clone() for name, value in _cut_tensors(network, graph, kept).items()}
    set_tensors(pruned, own)
    _set_attributes(pruned, graph, kept)
    return pruned


@contextmanager
def removed(network: nn.Module, graph: WeightGraph, kept: Tensor) -> Iterator[None]:
    """Remove neurons from a network itself for as long as a block lasts: a copy takes longer."""
    before = [(module, dict(vars(module))) for module in network.modules()]
    # Hooks, too: some networks hang them up in their first pass and note so in an attribute.
    inside = [
        (held, dict(held))
        for _, attributes in before
        for held in attributes.values()
        if isinstance(held, dict)
    ]
    try:
        set_tensors(network, _cut_tensors(network, graph, kept))
        _set_attributes(network, graph, kept)
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)
        for held, entries in inside:
            held.clear()
            held.update(entries)


def _cut_tensors(network: nn.Module, graph: WeightGraph, kept: Tensor) -> dict[str, Tensor]:
    """Parameters and buffers without some neurons; those that keep all are the network's own."""
    tensors = {name: value.detach() for name, value in all_tensors(network).items()}
    _keep_lengths(graph, tensors, kept)
    for scale in graph.constraints.scales:
        _fold(scale, tensors, kept)
    for group in graph.groups:
        if not bool(kept[group.start : group.stop].all()):
            _cut_slots(group, tensors, kept)
    for connection in graph.connections:
        if connection.parameter is not None and not connection.whole(kept):
            tensors[connection.parameter] = _cut(connection, tensors[connection.parameter], kept)
    for follower in graph.constraints.followers:
        stays = ((follower.nodes < 0) | kept[follower.nodes]).nonzero().flatten()
        value = tensors[follower.parameter]
        tensors[follower.parameter] = value.index_select(follower.dim, stays.to(value.device))
    tensors.update({alias: tensors[name] for alias, name in graph.aliases.items()})
    return tensors


def _masked(connection: Connection, parameter: Tensor, kept: Tensor) -> Tensor:
    """A layer's weights, 0 from neurons that are not kept."""
    mask = kept[connection.source].to(parameter)[:, None, :, None]
    return connection.unblock(connection.block(parameter) * mask, parameter)


def _keep_lengths(graph: WeightGraph, tensors: dict[str, Tensor], kept: Tensor) -> None:
    """Let each row of weights that is given a length have that of the part which is kept."""
    for connection in graph.connections:
        gain = graph.constraints.lengths.get(connection.parameter or "")
        if gain is not None and not bool(kept[connection.source].all()):
            weight = tensors[connection.parameter or ""]
            left = _masked(connection, weight, kept).flatten(1).norm(dim=1)
            share = left / weight.flatten(1).norm(dim=1)
            tensors[gain] = tensors[gain] * share.reshape(tensors[gain].shape)


def _factor(scale: AttentionScale, kept: Tensor) -> float:
    """Width of a head now over that of before."""
    before = scale.nodes.shape[1]
    return int(kept[scale.nodes].sum(1).max()) / before


def _fold(scale: AttentionScale, tensors: dict[str, Tensor], kept: Tensor) -> None:
    """Give the queries the factor by which the scale of a narrower head is too large."""
    factor = _factor(scale, kept) ** (scale.power / 2)
    if factor in (0.0, 1.0):
        return
    for name, rows in scale.rows.items():
        value = tensors[name].clone()
        value[rows.to(value.device)] *= factor
        tensors[name] = value


def _cut_slots(group: NeuronGroup, tensors: dict[str, Tensor], kept: Tensor) -> None:
    stays = kept[group.start : group.stop]
    for name in set(group.slots.values()):
        rows = [
            group.rows[slot]
            for slot in group.slots
            if group.slots[slot] == name and slot in group.rows
        ]
        index = torch.cat([part[stays] for part in rows]).sort().values if rows else stays
        tensors[name] = tensors[name][index.to(tensors[name].device)]


def _set_attributes(pruned: nn.Module, graph: WeightGraph, kept: Tensor) -> None:
    """Set the attributes that count neurons, and scales that follow the width of a head."""
    for extent in graph.constraints.extents:
        module = pruned.get_submodule(extent.module)
        new = [int(kept[part].sum()) for part in extent.parts]
        for name in extent.names:
            setattr(module, name, _resized(getattr(module, name), new))
    for connection in graph.connections:
        if connection.shape[0] > 1 and connection.parameter is not None:
            left = int(kept[connection.target].any(1).sum())
            set_conv_groups(pruned.get_submodule(connection.name), left)
    for scale in graph.constraints.scales:
        if (factor := _factor(scale, kept)) not in (0.0, 1.0):
            written_out = scale.nodes.shape[1] ** -0.5
            module = pruned.get_submodule(scale.module)
            for name, value in vars(module).items():
                same = type(value) is float and math.isclose(value, written_out)
                if same and "scal" in name and scale.certain:
                    setattr(module, name, value / factor**0.5)


def _resized(value: Any, sizes: list[int]) -> Any:
    """Return an attribute with other sizes; dimensions of 1 beside them stay."""
    if isinstance(value, int):
        return sizes[0]
    left = iter(sizes)
    alone = len(value) != len(sizes)
    return type(value)(1 if alone and part == 1 else next(left) for part in value)


def _cut(connection: Connection, parameter: Tensor, kept: Tensor) -> Tensor:
    block = connection.block(parameter)
    targets = kept[connection.target].to(block.device)
    sources = kept[connection.source].to(block.device)
    if connection.rows is not None:
        rows = connection.rows.to(block.device)[targets[0]].flatten().sort().values
        return parameter[rows][:, sources[0]]
    left = targets.any(1)  # conv groups: all of them lose the same
    assert not bool(sources[~left].any())
    targets, sources = targets[left], sources[left]
    assert bool((targets == targets[0]).all()) and bool((sources == sources[0]).all())
    block = block[left][:, targets[0]][:, :, sources[0]]
    groups, outputs, inputs, _ = block.shape
    if parameter.dim() == 2:
        if connection.inputs_first:
            return block.reshape(outputs, inputs).t().contiguous()
        return (block.transpose(2, 3) if connection.taps_first else block).reshape(outputs, -1)
    if connection.inputs_first:
        return block.transpose(1, 2).reshape(groups * inputs, outputs, *parameter.shape[2:])
    return block.reshape(groups * outputs, inputs, *parameter.shape[2:])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Comparison of a pruned network and the original with masked neurons.

    Attributes:
        outputs: Paths of the outputs whose values were compared; '' is a single tensor.
        difference: Largest difference of an element, as a share of the largest one of its output.
        reason: Why values were not compared, where they were not.
    """

    outputs: tuple[str, ...]
    difference: float
    reason: str = ""


@torch.no_grad()
def check_masked(
    network: nn.Module,
    pruned: nn.Module,
    graph: WeightGraph,
    kept: Tensor,
    example: Example,
) -> Comparison:
    """Compare a pruned network with the original whose removed channels nobody reads.

    Norms of the original take the kept channels alone.

    Args:
        network: The original.
        pruned: The result of `remove`.
        graph: Topology of the original.
        kept: Which nodes stay, bool [N].
        example: One input as a batch.

    Raises:
        PruningError: The pruned network does not run, or differs.
    """
    images = drawn(example)
    after = outputs_of(pruned, images)
    return compare(after, masked_outputs(network, graph, kept, images))


def drawn(example: Example) -> Example:
    """Return an example with random values, the same each time."""
    return random_like(single(example), torch.Generator().manual_seed(0))


@torch.no_grad()
def outputs_of(pruned: nn.Module, images: Example) -> dict[str, Tensor]:
    """Return all outputs of a pruned network by path.

    Raises:
        PruningError: It does not run.
    """
    try:
        return dict(tensors_of(call(pruned.eval(), images)))
    except FORWARD_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PruningError(
            f"the pruned network does not run: {reason}. Its forward counts on a fixed width."
        ) from error


def compare(after: Mapping[str, Tensor], masked: list[Tensor] | str) -> Comparison:
    """Compare outputs of a pruned network with what `masked_outputs` returned for the same input.

    Raises:
        PruningError: They differ.
    """
    if isinstance(masked, str):
        return Comparison(outputs=(), difference=0.0, reason=masked)
    if len(masked) != len(after):
        raise PruningError("the pruned network gives other outputs than the original.")
    pairs = zip(after.items(), masked, strict=True)
    gaps = [_difference(path, before, value) for (path, value), before in pairs]
    return Comparison(outputs=tuple(after), difference=max(gaps, default=0.0))


@torch.no_grad()
def check_repeatable(network: nn.Module, example: Example) -> None:
    """Refuse a network that gives other outputs each time, as nothing can be compared with it.

    Raises:
        PruningError: It does.
    """
    network = copy_network(network).eval()
    first, second = (dict(tensors_of(call(network, example))) for _ in range(2))
    if any(not torch.equal(value, second[path]) for path, value in first.items()):
        raise PruningError(
            "the network's outputs are random in evaluation mode. Dropout that is always on: give "
            "it training=self.training."
        )


@torch.no_grad()
def masked_outputs(
    network: nn.Module,
    graph: WeightGraph,
    kept: Tensor,
    images: Example,
) -> list[Tensor] | str:
    """Return all outputs of the masked network in order, or why they cannot be told."""
    assert graph.constraints.masked is not None
    if not bool(kept[graph.constraints.unmasked].all()):
        return "weights are standardised over their inputs"
    state = {name: value.detach() for name, value in all_tensors(network).items()}
    _keep_lengths(graph, state, kept)
    for connection in graph.connections:
        if connection.parameter is not None and not bool(kept[connection.source].all()):
            parameter = state[connection.parameter]
            masked = _masked(connection, parameter, kept)
            if connection.parameter in graph.constraints.lengths:  # rows of 0 have no direction
                empty = ~masked.flatten(1).any(1)
                masked[empty] = parameter[empty]
            state[connection.parameter] = masked
    state.update({alias: state[name] for alias, name in graph.aliases.items()})
    try:
        return graph.constraints.masked(state, kept, images)
    except Incomparable:
        return "neurons that are normalised together do not form a block"


def _difference(path: str, before: Tensor, after: Tensor) -> float:
    """Largest difference of an element as a share of the largest one.

    Raises:
        PruningError: It is too large, or the shapes differ.
    """
    where = f"output '{path}' of the pruned network" if path else "the output of the pruned network"
    if before.shape != after.shape:
        raise PruningError(f"{where} is {tuple(after.shape)}, not {tuple(before.shape)}.")
    if not before.is_floating_point():
        if not torch.equal(before, after):
            raise PruningError(f"{where} differs from that of the masked one.")
        return 0.0
    share = TOLERANCE[before.dtype]
    finite = before.abs().nan_to_num(posinf=0)
    high = float(finite.max()) if before.numel() else 0.0
    close = torch.allclose(
        before,
        after,
        rtol=10 * share,
        atol=share * high + share / 100,
        equal_nan=True,
    )
    if not close:
        raise PruningError(
            f"{where} differs from that of the masked one by {_gap(before, after):.2g} (largest "
            f"value {high:.2g}): it cannot be pruned exactly."
        )
    return _gap(before, after) / max(high, 1e-12) if before.numel() else 0.0


def _gap(before: Tensor, after: Tensor) -> float:
    return float((before.double() - after.double()).abs().nan_to_num().max())
