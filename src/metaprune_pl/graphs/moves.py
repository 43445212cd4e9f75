"""Operations that move data without changing it: they are run on the labels themselves."""

from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import (
    NOBODY,
    Activation,
    Parameter,
    is_nobody,
    moved,
    shrink,
)

MOVES = frozenset(
    (
        "flatten.using_ints view.default reshape.default _unsafe_view.default permute.default "
        "transpose.int "
        "swapaxes.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims slice.Tensor "
        "select.int "
        "cat.default stack.default chunk.default roll.default unbind.int unflatten.int "
        "expand.default split.Tensor "
        "split_with_sizes.default movedim.int movedim.intlist narrow.default flip.default "
        "repeat.default tile.default "
        "repeat_interleave.self_int unfold.default pixel_shuffle.default pixel_unshuffle.default "
        "channel_shuffle.default t.default tensor_split.sections im2col.default"
    ).split()
)
"""Operations for `move`."""
_NAMING = {
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "unflatten.int",
    "expand.default",
}
"""Operations whose arguments are sizes."""


def move(call: Call) -> Any:
    """Moves data without changing it: run on the labels themselves."""
    first: Any = call.node.args[0]
    if isinstance(first, list | tuple):
        return _move_several(call, list(first))
    x = call.activation()
    shape = call.shape_of(first)
    results = [rerun(call, labels.expand(shape)) for labels in x.all_labels]
    if isinstance(results[0], list | tuple):
        parts = [[shrink(part) for part in result] for result in results]
        _count_parts(call, shrink(x.labels), parts[0])
        return [
            Activation(labels, None, tuple(partners))
            for labels, *partners in zip(*parts, strict=True)
        ]
    labels, *partners = (shrink(result) for result in results)
    sizes = [size for size in labels.shape if size > 1]
    if (
        call.operator == "slice.Tensor"
        and call.argument(4, 1) > 1
        and not torch.equal(labels, x.labels)
    ):
        _tie_strides(call, x.labels)
    if len(sizes) > 1 and x.labels.numel() == max(x.labels.shape) and becomes_map(call.node):
        _tie_places(call, labels)
    elif len(sizes) > 1 and x.labels.numel() == max(x.labels.shape):
        grid = labels.reshape(-1, sizes[-1])
        call.builder.tie(grid)  # rows stay as long as each other
        call.builder.count(call.module, grid[0])
    if len(sizes) == 1 and call.operator in _NAMING:
        _count_named(call, labels)
    if (
        len(sizes) == 1
        and call.operator == "slice.Tensor"
        and labels.numel() < x.labels.numel() == max(x.labels.shape)
    ):
        start = int((x.labels.flatten() == labels.flatten()[0]).nonzero()[0])
        call.builder.count(call.module, labels)
        call.builder.count(call.module, x.labels.flatten()[:start])
    owner = x.owner
    if owner is not None:
        group = call.builder.group(owner)
        whole = torch.arange(group.start, group.start + group.size)
        owner = owner if torch.equal(labels.flatten(), whole) else None
    return Activation(labels, owner, tuple(partners))


def _tie_strides(call: Call, labels: Tensor) -> None:
    """Every second channel is another one where there are fewer, unless two go at a time."""
    dim, first, last, step = (call.argument(i, d) for i, d in enumerate((0, 0, None, 1), 1))
    size = labels.shape[dim]
    whole = (first or 0) in range(step) and (last is None or last >= size) and size % step == 0
    if not whole or bool((labels == NOBODY).any()):
        call.builder.fix(labels)
        return
    blocks = labels.movedim(dim, 0).reshape(size // step, step, -1)
    call.builder.tie(blocks.transpose(0, 1).flatten(1))


def _count_named(call: Call, labels: Tensor) -> None:
    """Note neurons whose number is given as a size, perhaps as that of what a layer read."""
    call.builder.count(call.module, labels)
    call.builder.named += call.builder.as_wide_as_input(labels.flatten())


_SEEN_THROUGH = {
    "relu.default",
    "leaky_relu.default",
    "gelu.default",
    "silu.default",
    "elu.default",
    "tanh.default",
    "sigmoid.default",
    "clone.default",
    "contiguous.default",
    "dropout.default",
    "mul.Tensor",
    "add.Tensor",
}


def becomes_map(node: torch.fx.Node) -> bool:
    """Whether a tensor [B, C, ...] is read as a map: its second dimension are channels."""
    if str(node.target) == "aten.pixel_shuffle.default":
        return True
    for user in node.users:
        name = str(user.target).removeprefix("aten.").replace("_.", ".")
        if name.startswith(("conv", "batch_norm", "instance_norm", "group_norm", "upsample")):
            return user.args[0] is node
        if "pool" in name:
            return True
        if name in _SEEN_THROUGH and becomes_map(user):
            return True
    return False


def _tie_places(call: Call, labels: Tensor) -> None:
    """Neurons of all places of a channel go together."""
    by_channel = labels.movedim(1, -1).reshape(-1, labels.shape[1])
    call.builder.tie(by_channel.unique(dim=0))
    call.builder.count(call.module, by_channel[0])


def _count_parts(call: Call, whole: Tensor, parts: list[Tensor]) -> None:
    """A split names widths; parts of equal width stay so."""
    rows = []
    for part in (whole, *parts):
        varied = [size for size in part.shape if size > 1]
        rows.append(part.reshape(-1, varied[-1])[0] if varied else part.flatten())
        call.builder.count(call.module, rows[-1])
    if call.operator == "split_with_sizes.default":
        call.builder.count(call.module, *rows[1:])
    if len({part.shape for part in parts}) == 1 < parts[0].numel():
        call.builder.tie(torch.stack([part.flatten() for part in parts]))


def _move_several(call: Call, sources: list[Any]) -> Activation:
    sources = [part for part in sources if call.shape_of(part) != (0,)] or sources  # empty caches
    full = [_full_labels(call, source, sources) for source in sources]
    if any(
        isinstance(value := call.value(source), Activation) and value.partners for source in sources
    ):
        raise TraceError(f"{call.name} of products of channels is not supported: {call.where}")
    if call.operator == "cat.default":
        full = _joined(call, full)
    return Activation(shrink(rerun(call, full)))


def _joined(call: Call, full: list[Tensor]) -> list[Tensor]:
    """Places of different producers side by side (a class token of its own).

    Their channels go together.
    """
    axis = call.argument(1, 0)
    small = [shrink(labels) for labels in full]
    if (
        any(part.shape[axis] > 1 or bool((part == NOBODY).any()) for part in small)
        or small[0].numel() == 1
    ):
        return full
    for index, part in enumerate(small[1:], 1):
        if part.shape == small[0].shape and not torch.equal(part, small[0]):
            call.builder.connect_identity(
                call.module,
                part.flatten(),
                small[0].flatten(),
            )
            full[index] = small[0].expand(full[index].shape)
    return full


def like(call: Call) -> Activation:
    """Takes the shape of another tensor."""
    x = call.activation()
    shape = call.shape_of(call.argument(0))
    labels, *partners = (
        shrink(
            part.expand(shape).reshape(call.shape_of(call.node))
            if "expand" not in call.operator
            else part
        )
        for part in x.all_labels
    )
    return Activation(labels, None, tuple(partners))


def _full_labels(call: Call, source: Any, sources: list[Any]) -> Tensor:
    """Labels of every element of an operand.

    A parameter beside activations (class token) follows their channels.
    """
    value = call.value(source)
    shape = call.shape_of(source)
    if isinstance(value, Activation):
        return value.labels.expand(shape)
    beside = next(
        (v for s in sources if isinstance(v := call.value(s), Activation)),
        None,
    )
    if not isinstance(value, Parameter) or beside is None:
        return torch.full(shape, NOBODY)
    axis = call.argument(1, 0)
    if beside.labels.shape[axis] > 1:  # channels of its own
        call.builder.whole.add(value.name)
        return torch.full(shape, NOBODY)
    labels = beside.labels.expand(shape)
    call.builder.follow(
        value.name,
        value.shape,
        value.elements.expand(shape),
        labels,
    )
    return labels


def rerun(call: Call, first: Any) -> Any:
    """Run a moving operation on another tensor than its own, of the same shape."""
    target: Any = call.node.target
    if call.operator == "im2col.default":  # not there for whole numbers
        return target(first.double(), *call.node.args[1:], **call.node.kwargs).long()
    if call.operator == "view.default":  # labels may lie otherwise in memory
        return first.reshape(call.node.args[1])
    return target(first, *call.node.args[1:], **call.node.kwargs)


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
    return Activation(
        moved(
            x, x.labels.shape, lambda labels: torch.nn.functional.pad(labels, amounts, value=NOBODY)
        )
    )


def overwritten(call: Call) -> Activation:
    """A tensor written over another of the same neurons."""
    old = call.activation()
    new = call.activation(1)
    if not torch.equal(old.labels, new.labels) and not (
        is_nobody(old.labels) and is_nobody(new.labels)
    ):
        raise TraceError(f"{call.name} writes over other channels: {call.where}")
    return Activation(old.labels, None, old.partners)


def constant(call: Call) -> None:
    """A tensor that takes only its shape or type from an activation."""
