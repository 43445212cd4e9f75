"""Operations that move data without changing it: they are run on the labels themselves."""

from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, moved, shrink
from metaprune_pl.graphs.weight_graph import Extent

MOVES = frozenset(
    (
        "flatten.using_ints view.default reshape.default _unsafe_view.default permute.default transpose.int "
        "swapaxes.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims slice.Tensor select.int "
        "cat.default chunk.default roll.default unbind.int unflatten.int expand.default split.Tensor "
        "split_with_sizes.default"
    ).split()
)
"""Operations for `move`."""
_NAMING = {"view.default", "reshape.default", "_unsafe_view.default", "unflatten.int"}
"""Operations whose arguments are sizes."""
_COPYING = {"clone.default", "contiguous.default", "detach.default", "alias.default", "to.dtype"}
"""Operations that leave a parameter as it is."""


def move(call: Call) -> Any:
    """Moves data without changing it: run on the labels themselves."""
    first: Any = call.node.args[0]
    several = isinstance(first, list | tuple)
    sources = list(first) if several else [first]
    full = [_full_labels(call, source, sources) for source in sources]
    if call.operator == "cat.default":
        full = _joined(call, full)
    result = _run(call, full if several else full[0])
    if isinstance(result, list | tuple):
        parts = [shrink(part) for part in result]
        for part in [shrink(full[0]), *parts]:
            rows = part.reshape(-1, [size for size in part.shape if size > 1][-1]) if part.numel() > 1 else part
            call.builder.extents.append(Extent(module=call.module, nodes=rows.flatten()[: rows.shape[-1]]))
        if len({part.shape for part in parts}) == 1 and parts[0].numel() > 1:  # halves stay as wide as each other
            call.builder.tie(torch.stack([part.flatten() for part in parts]))
        return [Activation(part) for part in parts]
    labels = shrink(result)
    varying = [size for size in labels.shape if size > 1]
    if len(varying) > 1 and not several and call.activation().labels.numel() == max(call.activation().labels.shape):
        grid = labels.reshape(-1, varying[-1])
        call.builder.tie(grid)  # rows stay as long as each other
        call.builder.extents.append(Extent(module=call.module, nodes=grid[0]))
    if not several and len(varying) == 1 and call.operator in _NAMING:
        call.builder.extents.append(Extent(module=call.module, nodes=labels.flatten()))
    owner = None if several else call.activation().owner
    if owner is not None:
        group = call.builder.group(owner)
        whole = torch.arange(group.start, group.start + group.size)
        owner = owner if torch.equal(labels.flatten(), whole) else None
    return Activation(labels, owner)


def _joined(call: Call, full: list[Tensor]) -> list[Tensor]:
    """Places of different producers side by side (a class token of its own): their channels go together."""
    axis = call.argument(1, 0)
    small = [shrink(labels) for labels in full]
    if any(part.shape[axis] > 1 or bool((part == NOBODY).any()) for part in small) or small[0].numel() == 1:
        return full
    for index, part in enumerate(small[1:], 1):
        if part.shape == small[0].shape and not torch.equal(part, small[0]):
            call.builder.connect_identity(call.module, part.flatten(), small[0].flatten())
            full[index] = small[0].expand(full[index].shape)
    return full


def like(call: Call) -> Activation:
    """Takes the shape of another tensor."""
    x = call.activation()
    labels = shrink(x.labels.expand(call.shape_of(call.argument(0))).reshape(call.shape_of(call.node)))
    return Activation(labels)


def _full_labels(call: Call, source: Any, sources: list[Any]) -> Tensor:
    """Labels of every element of an operand; a parameter beside activations (class token) follows their channels."""
    value, shape = call.value(source), call.shape_of(source)
    if isinstance(value, Activation):
        return value.labels.expand(shape)
    beside = next((v for s in sources if isinstance(v := call.value(s), Activation)), None)
    if not isinstance(value, Parameter) or beside is None:
        return torch.full(shape, NOBODY)
    axis = call.argument(1, 0)
    if beside.labels.shape[axis] > 1:
        raise TraceError(f"operator 'aten.{call.operator}' joins channels with a parameter: {call.where}.")
    labels = beside.labels.expand(shape)
    call.builder.follow(value.name, value.shape, value.elements.expand(shape), labels)
    return labels


def _run(call: Call, first: Any) -> Any:
    assert callable(call.node.target)
    return call.node.target(first, *call.node.args[1:], **call.node.kwargs)


def moved_parameter(call: Call) -> Parameter | None:
    """Return a parameter that was only moved; None is anything else that no activation has a part in."""
    first = call.node.args[0] if call.node.args else None
    value = call.value(first) if isinstance(first, torch.fx.Node) else None
    if isinstance(value, Parameter) and call.operator in _COPYING:
        return value
    if isinstance(value, Parameter) and call.operator in MOVES:
        result = _run(call, value.elements)
        if isinstance(result, Tensor):
            return Parameter(value.name, value.shape, result)
    return None


def item(call: Call) -> Any:
    """One part of a split tensor."""
    return call.value(call.node.args[0])[call.node.args[1]]


def pad(call: Call) -> Activation:
    """Padding of places leaves channels as they are; padded channels belong to nobody."""
    x = call.activation()
    amounts = list(call.argument(1))
    sizes = list(x.labels.shape)
    if x.labels.numel() == 1:  # a single neuron does not show where channels are
        sizes[1 if len(sizes) > 3 else -1] = 2
    for index in range(0, len(amounts), 2):
        if sizes[-1 - index // 2] == 1:
            amounts[index] = amounts[index + 1] = 0
    if not any(amounts):
        return x
    return Activation(moved(x, x.labels.shape, lambda labels: torch.nn.functional.pad(labels, amounts, value=NOBODY)))
