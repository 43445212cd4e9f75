"""Measured times of single layers at several widths, and the times between them."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.graphs.weight_graph import Connection
from metaprune_pl.networks.examples import Example, call
from metaprune_pl.networks.widths import set_tensors
from metaprune_pl.pruning.cost.timing import time_in_turn

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Shares of a layer's width that are measured."""
BLOCK = 8
"""Widths that are measured are multiples of this, as processors compute in blocks."""
SECONDS = 0.005
"""How long each width is measured at least."""
ROUNDS = 3
_KNOWN: dict[tuple[Any, ...], Tensor] = {}
"""Times that were measured in this process, by what they depend on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerTimes:
    """Milliseconds of a layer at several widths.

    Attributes:
        connection: Its edges.
        outputs: Numbers of outputs that were measured, increasing, [P].
        inputs: The same of inputs, [Q].
        times: Milliseconds, [P, Q].
    """

    connection: Connection
    outputs: Tensor
    inputs: Tensor
    times: Tensor

    def of(self, kept: Tensor) -> float:
        """Return the time for nodes that are kept, bool [N], linear between what was measured."""
        target, source = self.connection.target, self.connection.source
        row, up = _between(self.outputs, int(kept[target].sum()))
        column, right = _between(self.inputs, int(kept[source[0]].sum()))
        below, above = self.times[row, column], self.times[row + 1, column]
        if right:
            below = below + right * (self.times[row, column + 1] - below)
            above = above + right * (self.times[row + 1, column + 1] - above)
        return float(below + up * (above - below))


def _between(widths: Tensor, width: int) -> tuple[int, float]:
    """Return the measured width below one, and how far it lies towards the next, in [0, 1]."""
    index = int((widths <= width).sum().clamp(1, max(1, len(widths) - 1))) - 1
    if len(widths) == 1:
        return 0, 0.0
    low, high = float(widths[index]), float(widths[index + 1])
    return index, max(0.0, (width - low) / (high - low))


def layer_times(
    network: nn.Module, graph: WeightGraph, example: Example
) -> Iterator[tuple[LayerTimes, float]]:
    """Measure the layers of a network that can be cut by themselves.

    Args:
        network: In evaluation mode; left as it is.
        graph: Its graph.
        example: A batch as large as those whose time counts, on the network's device.

    Yields:
        Times of a layer, and its milliseconds now.
    """
    inputs = _inputs(network, example)
    for connection in graph.connections:
        module = inputs.get(connection.name, (None, None))[0]
        if module is None or connection.parameter != f"{connection.name}.weight":
            continue
        if isinstance(module, nn.Linear) or _is_plain(module):
            yield _measured(connection, module, inputs[connection.name][1])


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a convolution of one group, or one of single channels."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return False
    return module.groups == 1 or module.groups == module.in_channels == module.out_channels


@torch.no_grad()
def _inputs(network: nn.Module, example: Example) -> Mapping[str, tuple[nn.Module, Tensor]]:
    """Run a network, and note what its layers read."""
    seen: dict[str, tuple[nn.Module, Tensor]] = {}
    hooks = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            seen.setdefault(name, (module, inputs[0]))

    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            hooks.append(module.register_forward_pre_hook(partial(note, name)))
    call(network, example)
    for hook in hooks:
        hook.remove()
    return seen


def _measured(
    connection: Connection, module: nn.Module, images: Tensor
) -> tuple[LayerTimes, float]:
    groups, outputs, inputs, _ = connection.shape
    heights, widths = _widths(groups * outputs), _widths(inputs)
    key = _key(connection, module, images)
    if key not in _KNOWN:
        _KNOWN[key] = _time(connection, module, images, heights, widths)
    measured = LayerTimes(
        connection=connection,
        outputs=torch.tensor(heights),
        inputs=torch.tensor(widths),
        times=_KNOWN[key],
    )
    return measured, float(_KNOWN[key][-1, -1])


def _widths(full: int) -> list[int]:
    rounded = (max(1, min(full, round(share * full / BLOCK) * BLOCK)) for share in SHARES)
    return sorted({*rounded, full})


def _key(connection: Connection, module: nn.Module, images: Tensor) -> tuple[Any, ...]:
    names = ("stride", "padding", "dilation", "groups", "kernel_size")
    settings = tuple(str(getattr(module, name, None)) for name in names)
    threads = torch.get_num_threads()
    return type(module), connection.shape, settings, tuple(images.shape), images.device, threads


@torch.inference_mode()
def _time(
    connection: Connection, module: nn.Module, images: Tensor, heights: list[int], widths: list[int]
) -> Tensor:
    """Time copies of a layer at all pairs of widths, in turn, [P, Q]."""
    runs = []
    for outputs in heights:
        for inputs in widths:
            copied, some = cut(connection, module, images, outputs, inputs)
            runs.append(partial(copied, some))
    times = time_in_turn(runs, seconds=SECONDS, device=images.device, fewest=ROUNDS)
    grid = torch.tensor([time.median for time in times])
    return grid.reshape(len(heights), len(widths))


def cut(
    connection: Connection, module: nn.Module, images: Tensor, outputs: int, inputs: int
) -> tuple[nn.Module, Tensor]:
    """Return a copy of a layer with the first of its outputs and inputs, and what it reads.

    Args:
        connection: Its edges.
        module: The layer.
        images: What it reads, [B, C, ...] of a convolution, [..., C] of a linear layer.
        outputs: Number of outputs.
        inputs: Number of inputs; as many as outputs where each channel is by itself.
    """
    several = 1 if connection.rows is None else connection.rows.shape[1]
    weight = module.get_parameter("weight")
    if isinstance(module, nn.Linear):
        taps = module.in_features // connection.shape[2]
        own = weight[: outputs * several, : inputs * taps]
        some = images[..., : inputs * taps]
    else:
        alone = connection.shape[0] > 1
        own = weight[:outputs] if alone else weight[:outputs, :inputs]
    tensors = {"weight": own.detach().clone()}
    if module.bias is not None:
        tensors["bias"] = module.get_parameter("bias")[: outputs * several].detach().clone()
    copied = copy.deepcopy(module)
    set_tensors(copied, tensors)
    if not isinstance(copied, nn.Linear):
        some = images[:, : copied.in_channels]
    return copied, some.contiguous()
