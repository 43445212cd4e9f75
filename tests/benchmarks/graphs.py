"""Seconds to trace networks, and milliseconds to read and write their weights.

Run with `python -m tests.benchmarks.graphs`.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torchvision

from metaprune_pl.graphs import read, trace, write
from metaprune_pl.graphs.features import schema_of
from metaprune_pl.networks import create_network

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


def main() -> None:
    """Measure."""
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
    main()
