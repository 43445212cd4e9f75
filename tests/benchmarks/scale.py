"""Memory and time of the scale-equivariant operator on VGG19 without norms, forward and backward.

`python -m tests.benchmarks.scale [WIDTH]`. The public code's operator takes about 12 GB and 24 s of
forward and backward pass at width 64 (extrapolated from half of it).
"""

import resource
import sys
import time

import torch

from metaprune_pl.graphs import trace
from metaprune_pl.metanetworks import ScaleMetanetwork
from metaprune_pl.networks import create_network


def main(width: int = 64) -> None:
    """Print one line for each direction."""
    network = create_network("plain_vgg", seed=0, width=width)
    graph, state = trace(network, torch.zeros(1, 3, 32, 32)), network.state_dict()
    print(f"plain_vgg of width {width}: {graph.num_nodes:,} nodes, {graph.num_edges:,} edges")
    for direction in ("forward", "both"):
        operator = ScaleMetanetwork(positions=(18, 3, 10), direction=direction)
        start, cpu = time.perf_counter(), time.process_time()
        new = operator.rewrite(graph, state)
        torch.stack([value.square().sum() for value in new.values()]).sum().backward()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"{direction:8} {wall:6.1f} s, {cpu:6.1f} s of CPU, at most {peak:.2f} GB so far")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
