"""A network without some of its neurons, and the check that it is the network with them masked."""

import copy

import torch
from torch import Tensor, nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import Connection, WeightGraph
from metaprune_pl.networks.widths import all_tensors, set_tensors

FORWARD_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError)
"""What forward passes raise that count on a fixed width."""


def remove(network: nn.Module, graph: WeightGraph, kept: Tensor) -> nn.Module:
    """Return a copy of a network without some of its neurons.

    Args:
        network: Left as it is.
        graph: Its topology.
        kept: Which nodes stay, bool [N].
    """
    tensors = {name: value.detach() for name, value in all_tensors(network).items()}
    for group in graph.groups:
        stays = kept[group.start : group.stop]
        for name in set(group.slots.values()):
            rows = [
                group.rows[slot]
                for slot in group.slots
                if group.slots[slot] == name and slot in group.rows
            ]
            index = torch.cat([part[stays] for part in rows]).sort().values if rows else stays
            tensors[name] = tensors[name][index.to(tensors[name].device)]
    for connection in graph.connections:
        if connection.parameter is not None:
            tensors[connection.parameter] = _cut(connection, tensors[connection.parameter], kept)
    for follower in graph.followers:
        stays = ((follower.nodes < 0) | kept[follower.nodes]).nonzero().flatten()
        value = tensors[follower.parameter]
        tensors[follower.parameter] = value.index_select(follower.dim, stays.to(value.device))
    tensors.update({alias: tensors[name] for alias, name in graph.aliases.items()})
    pruned = copy.deepcopy(
        network, {id(value): value for value in all_tensors(network).values()}
    )  # no tensor twice
    set_tensors(pruned, {name: value.detach().clone() for name, value in tensors.items()})
    for extent in graph.extents:
        old, new = (
            [len(part) for part in extent.parts],
            [int(kept[part].sum()) for part in extent.parts],
        )
        attributes, module = (
            vars(network.get_submodule(extent.module)),
            pruned.get_submodule(extent.module),
        )
        if len(old) == 1:
            names = [
                name for name, value in attributes.items() if type(value) is int and value == old[0]
            ]
            for name in [name for name in names if _counts_heads(name) == extent.heads] or names:
                setattr(module, name, new[0])
            continue
        for name, value in attributes.items():
            if isinstance(value, list | tuple) and list(value) == old:
                setattr(module, name, type(value)(new))
    return pruned


def _counts_heads(name: str) -> bool:
    """Whether an attribute of this name is a number of heads, not the width of one."""
    return "head" in name and not any(word in name for word in ("dim", "size", "width", "channel"))


def _cut(connection: Connection, parameter: Tensor, kept: Tensor) -> Tensor:
    block = connection.block(parameter)
    targets, sources = (
        kept[connection.target].to(block.device),
        kept[connection.source].to(block.device),
    )
    if connection.rows is not None:
        rows = connection.rows.to(block.device)[targets[0]].flatten().sort().values
        return parameter[rows][:, sources[0]]
    if connection.shape[0] > 1:
        block = block[targets[:, 0]]
        assert bool((targets == targets[:, :1]).all()) and bool((sources == targets[:, :1]).all())
    else:
        block = block[:, targets[0]][:, :, sources[0]]
    groups, outputs, inputs, _ = block.shape
    if parameter.dim() == 2:
        return (block.transpose(2, 3) if connection.taps_first else block).reshape(outputs, -1)
    if connection.inputs_first:
        return block.transpose(1, 2).reshape(groups * inputs, outputs, *parameter.shape[2:])
    return block.reshape(groups * outputs, inputs, *parameter.shape[2:])


@torch.no_grad()
def check_masked(
    network: nn.Module, pruned: nn.Module, graph: WeightGraph, kept: Tensor, example: Tensor
) -> None:
    """Compare a pruned network with the original whose removed channels nobody reads.

    Args:
        network: The original.
        pruned: The result of `remove`.
        graph: Topology of the original.
        kept: Which nodes stay, bool [N].
        example: One image as a batch, [1, C, H, W].

    Raises:
        PruningError: The pruned network does not run, or differs.
    """
    masked = copy.deepcopy(network).eval()
    state = masked.state_dict()
    for connection in graph.connections:
        if connection.parameter is not None:
            parameter = state[connection.parameter]
            block = (
                connection.block(parameter)
                * kept[connection.source].to(parameter)[:, None, :, None]
            )
            parameter.copy_(connection.unblock(block, parameter))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *example.shape[1:], generator=generator).to(example)
    try:
        after = pruned.eval()(images)
    except FORWARD_ERRORS as error:
        raise PruningError(
            f"the pruned network does not run: {error}. Its forward counts on a fixed width."
        ) from error
    if not bool(kept[graph.mixed].all()):
        return  # a layer norm over fewer channels gives other values than over masked ones
    before = masked(images)
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()) + 1e-6):
        gap = float((before - after).abs().max())
        raise PruningError(
            f"the pruned network differs from the masked one by {gap:.2g}: it cannot be pruned "
            "exactly."
        )
