"""Normalisations: their parameters belong to the neurons that they read."""

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import Activation, varying
from metaprune_pl.graphs.reductions import as_map


def batch_norm(call: Call) -> Activation:
    """Batch norm: each channel by itself."""
    names = ("norm.weight", "norm.bias", "norm.mean", "norm.var")
    slots = {
        slot: p.name
        for index, slot in enumerate(names, 1)
        if (p := call.parameter(index)) is not None
    }
    x = as_map(call, call.activation())
    return _norm(call, x, 1, x.owner, slots)


def prelu(call: Call) -> Activation:
    """A slope for all channels, or for each, in the second dimension."""
    x = call.activation()
    slope = call.parameter(1)
    if slope is not None and slope.elements.numel() > 1:
        call.share(x, 1, [slope])
    return x


def group_norm(call: Call) -> Activation:
    """Group norm: channels of one norm group together."""
    x = as_map(call, call.activation())
    groups = call.argument(1)
    nodes = call.neurons(x, 1)
    if groups > 1:  # whole norm groups are removed: their nodes go together
        call.builder.tie(nodes.reshape(groups, -1).t())
        call.builder.count(call.module, nodes.reshape(groups, -1)[:, 0])
    else:
        call.builder.mixed.append(nodes)
    call.builder.count(call.module, nodes)
    names = (("norm.weight", 2), ("norm.bias", 3))
    slots = {slot: p.name for slot, index in names if (p := call.parameter(index)) is not None}
    return _norm(call, x, 1, x.owner, slots)


def layer_norm(call: Call) -> Activation:
    """Layer norm, or one by the root mean square, over the last dimension."""
    x = call.activation()
    if len(call.argument(1)) != 1:
        raise TraceError(f"{call.name} over several dimensions is not supported: {call.where}")
    names = [("layer_norm.weight", 2), ("layer_norm.bias", 3)]
    if call.operator.startswith("rms"):
        names.pop()
    if x.labels.shape[-1] == 1 and call.shape_of(call.argument(0))[-1] > 1:
        raise TraceError(f"{call.name} over places is not supported: {call.where}")
    if len(varying(x.labels)) > 1 and x.labels.shape[-1] > 1:
        # each head by itself, with the same parameters
        call.builder.mixed.append(x.labels.flatten())
        parameters = [p for _, index in names if (p := call.parameter(index)) is not None]
        call.share(x, -1, parameters)
        return Activation(x.labels, None, x.partners)
    nodes = call.neurons(x, -1)
    call.builder.mixed.append(nodes)
    call.builder.count(call.module, nodes)
    slots = {slot: p.name for slot, index in names if (p := call.parameter(index)) is not None}
    # the norm that reads a stream is kept on the stream's nodes (paper, G.1)
    home = call.builder.owner_of(nodes)
    return _norm(call, x, -1, home, slots)


def _norm(
    call: Call,
    x: Activation,
    dim: int,
    home: str | None,
    slots: dict[str, str],
) -> Activation:
    """Keep a norm's parameters on the neurons of `home`, or on its own where those are taken."""
    source = call.neurons(x, dim)
    if not slots:
        return x
    known = call.builder.filled_by(set(slots.values()))
    if known is not None:  # the same norm once more: the same neurons
        call.builder.reuse(next(iter(slots.values())), known, source)
        return Activation(x.labels, None, x.partners)
    group = None if home is None else call.builder.group(home)
    if (
        group is not None
        and group.size == len(source)
        and not any(slot in group.slots for slot in slots)
    ):
        group.slots.update(slots)
        return x
    depth = call.builder.depth(source)
    owner, target = call.builder.new_group(
        call.module,
        len(source),
        depth=depth,
    )
    call.builder.connect_identity(call.module, source, target)
    call.builder.group(owner).slots.update(slots)
    shape = [1] * x.labels.dim()
    shape[dim] = -1
    return Activation(target.reshape(shape), owner, x.partners)
