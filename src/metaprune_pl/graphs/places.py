"""Operations along a dimension of places: indices, sorting, running sums, patches."""

import torch

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import Activation, shrink, varying
from metaprune_pl.graphs.moves import rerun


def along(call: Call) -> Activation:
    """Places along one dimension act on each other, or are chosen; channels there would not."""
    x = call.activation()
    dim = call.argument(1)
    if x.labels.dim() and any(part.shape[dim] > 1 for part in x.all_labels):
        raise TraceError(f"{call.name} along the channels is not supported: {call.where}")
    for node in call.node.all_input_nodes[1:]:
        other = call.activation_of(node)
        if other is None or not varying(other.labels):
            continue
        if not torch.equal(other.labels, x.labels):
            raise TraceError(f"{call.name} of several activations: {call.where}")
    return Activation(x.labels, None, x.partners)


def sorted_along(call: Call) -> list[Activation]:
    """Values in order, and where they were."""
    x = call.activation()
    position = 2 if call.operator.startswith("topk") else 1
    dim = call.argument(position, -1)
    if any(part.shape[dim] > 1 for part in x.all_labels):
        raise TraceError(f"{call.name} along the channels is not supported: {call.where}")
    return [Activation(x.labels, None, x.partners)] * 2


def indexed(call: Call) -> Activation:
    """Elements chosen by constant places, or by computed ones where all have the same neurons."""
    x = call.activation()
    places = call.places()
    computed = places is None
    if places is None:
        indices = call.argument(1)
        places = [
            None if index is None else torch.zeros(call.shape_of(index), dtype=torch.long)
            for index in indices
        ]
    chosen = {dim for dim, index in enumerate(places) if index is not None}
    if chosen & varying(x.labels):
        if computed:
            raise TraceError(f"{call.name} with computed places is not supported: {call.where}")
        call.builder.fix(x.labels)  # the places are for this width
    full = x.labels.expand(call.shape_of(call.argument(0)))
    return Activation(shrink(torch.ops.aten.index.Tensor(full, places)))


def overlapped(call: Call) -> Activation:
    """Places of patches are summed back into a map (fold): each channel by itself."""
    x = call.activation()
    full = x.labels.expand(call.shape_of(call.argument(0))).double()
    total = rerun(call, full)
    times = rerun(call, torch.ones_like(full))
    labels = (total / times.clamp(min=1)).round().long()
    return Activation(shrink(labels.where(times > 0, labels.flatten()[0])))
