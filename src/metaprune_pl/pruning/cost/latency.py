"""Measured time of a forward pass as a cost, and for several networks in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks.examples import Example, call, convert, single, tensors_of
from metaprune_pl.networks.widths import layer_widths
from metaprune_pl.pruning.cost.base import Cost
from metaprune_pl.pruning.cost.layer_times import layer_times
from metaprune_pl.pruning.cost.timing import Timing, time_in_turn


class Runtime(NamedTuple):
    """What a network runs in.

    Attributes:
        name: What people call it.
        ready: Makes a network ready to run, given images [B, C, H, W]; None is PyTorch as it is.
    """

    name: str = "PyTorch"
    ready: Callable[[nn.Module, Tensor], Callable[[Tensor], object]] | None = None

    def run(self, network: nn.Module, images: Any) -> Callable[[Tensor], object]:
        """Return a network as it runs in the end, given images on its device."""
        return self.ready(network, images) if self.ready else partial(call, network)


EAGER = Runtime()
"""PyTorch as it is."""


@dataclass(frozen=True, kw_only=True)
class Latency(Cost):
    """Milliseconds of a forward pass on this machine, in PyTorch.

    Each layer is measured at several widths. What is left of the whole network's time, of norms and
    activations, is taken to fall with the number of values that layers give out.

    Attributes:
        batch: Images in a pass.
    """

    unit: ClassVar[str] = "milliseconds"
    batch: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}: give a number of images of at least 1.")

    def of_network(self, network: nn.Module, example: Example) -> float:
        """Measure a forward pass: see `Cost.of_network`."""
        return measure_latencies([network], example, self.batch)[0].median

    def ratio(
        self, network: nn.Module, example: Example, other: nn.Module, others: Example
    ) -> float:
        """Measure both in turn: see `Cost.ratio`."""
        if layer_widths(network) == layer_widths(other):
            return 1.0
        own, time = measure_latencies([network, other], example, self.batch)
        return own.median / time.median

    def of_kept(
        self, network: nn.Module, graph: WeightGraph, example: Example
    ) -> Callable[[Tensor], float]:
        """Measure the layers, and add up those of kept nodes: see `Cost.of_kept`."""
        batch = as_batch(example, self.batch)
        measured = list(layer_times(network, graph, batch))
        everything = torch.ones(graph.num_nodes, dtype=torch.bool)
        whole, all_values = self.of_network(network, example), _values(graph, everything)
        rest = max(0.0, whole - sum(now for _, now in measured))

        def of(kept: Tensor) -> float:
            in_layers = sum(times.of(kept) for times, _ in measured)
            return in_layers + rest * _values(graph, kept) / all_values

        return of


def _values(graph: WeightGraph, kept: Tensor) -> int:
    """Number of values that the layers of kept nodes give out for one image, at least 1."""
    counts = (
        connection.positions * int(kept[connection.target].sum())
        for connection in graph.connections
    )
    return max(1, sum(counts))


def as_batch(example: Example, size: int) -> Any:
    """Return the first input of an example as a batch of so many."""

    def spread(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != 1:
            return tensor  # one for all of a batch
        return tensor.expand(size, *tensor.shape[1:]).contiguous()

    return convert(single(example), spread)


@torch.inference_mode()
def measure_latencies(
    networks: Sequence[nn.Module],
    example: Example,
    batch_size: int,
    *,
    runtime: Runtime = EAGER,
    seconds: float = 0.1,
) -> list[Timing]:
    """Measure the time of a forward pass of several networks in turn.

    Args:
        networks: In evaluation mode on the device to measure.
        example: One input as a batch, such as an image [1, C, H, W], on that device.
        batch_size: Images per pass.
        runtime: What they run in.
        seconds: How long to measure each.
    """
    images = as_batch(example, batch_size)
    device = next(tensor.device for _, tensor in tensors_of(example))
    runs = [partial(runtime.run(network, images), images) for network in networks]
    return time_in_turn(runs, seconds=seconds, device=device)
