"""Seconds to trace networks and to read and write their weights; seconds to plan 2x.

Planning is tracing, finding the pruning groups with all trials, and choosing the channels; beside
it torch-pruning's graph and pruner in the same steps, in CPU seconds of one thread.

Run with `python -m tests.benchmarks.graphs`, or with the names of networks to plan alone.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torchvision
from tests.other_pruner import ERRORS, prune_with_torch_pruning
from torch import Tensor, nn

from metaprune_pl.graphs import read, trace, write
from metaprune_pl.graphs.features import schema_of
from metaprune_pl.networks import create_network
from metaprune_pl.pruning import Magnitude, PruningSettings, examine, plan

NETWORKS = {
    "ResNet-56": (lambda: create_network("cifar_resnet", depth=56), 32),
    "ResNet-50": (torchvision.models.resnet50, 64),
    "ViT-B/16": (torchvision.models.vit_b_16, 224),
}


def median(work: Callable[[], object], repetitions: int = 5) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


PLANNED = ("efficientnet_b4", "vit_b_16", "convnext_base", "swin_b")
"""Networks of torchvision that are planned to 2x."""
LIMIT = 240
"""CPU seconds that torch-pruning may take."""


def cpu_seconds(work: Callable[[], object]) -> tuple[float, str]:
    """CPU seconds of a call, and why it failed, if it did."""
    start, failure = time.process_time(), ""
    try:
        work()
    except ERRORS as error:
        failure = f" and fails ({type(error).__name__}: {str(error).splitlines()[0][:60]})"
    return time.process_time() - start, failure


def plan_to_2x(network: nn.Module, image: Tensor, settings: PruningSettings) -> None:
    """Trace, find the pruning groups, and choose the channels that stay."""
    unpruned, criterion = examine(network, image), Magnitude(normalize="mean")
    assert unpruned.groups is not None
    budget = unpruned.base(settings.cost) / 2
    cost = settings.cost.of_kept(network, unpruned.graph, image)
    measured = criterion.measure(network, unpruned.graph)
    plan(unpruned.groups, measured, criterion, settings, [budget], cost)


def compare_planning(names: Sequence[str], step: float) -> None:
    """Plan torchvision's networks to 2x in both ways, in turn."""
    settings = PruningSettings(step=step)
    for name in names:
        network, image = torchvision.models.get_model(name).eval(), torch.zeros(1, 3, 224, 224)
        own, failed = cpu_seconds(lambda: plan_to_2x(network, image, settings))  # noqa: B023
        assert not failed, failed
        theirs, why = cpu_seconds(
            lambda: prune_with_torch_pruning(network, image, round(1 / step), LIMIT)  # noqa: B023
        )
        print(
            f"{name}, steps of {step:g}: to 2x {own:.1f} s, torch-pruning {theirs:.1f} s{why}: "
            f"{theirs / own:.1f}x",
            flush=True,
        )


def main(names: Sequence[str]) -> None:
    """Measure."""
    torch.set_num_threads(1)
    if not names:
        trace_read_write()
    for step in (0.005, 0.05):
        compare_planning(names or PLANNED, step)


def trace_read_write() -> None:
    """Time a trace, and reading and writing."""
    schema = schema_of("universal")
    for name, (make, size) in NETWORKS.items():
        network, image = make().eval(), torch.zeros(1, 3, size, size)
        graph, state = trace(network, image), network.state_dict()
        features = read(graph, state, schema)
        forward = median(lambda: network(image), 3)  # noqa: B023
        traced = median(lambda: trace(network, image), 1)  # noqa: B023
        reading = median(lambda: read(graph, state, schema))  # noqa: B023
        writing = median(lambda: write(graph, features, state, schema))  # noqa: B023
        print(
            f"{name}: trace {traced:.2f} s, read {1e3 * reading:.1f} ms, write "
            f"{1e3 * writing:.1f} ms; one image "
            f"through the network {1e3 * forward:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
