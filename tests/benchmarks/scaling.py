"""Time and memory of a metanetwork pass over the number of edges, with the fitted exponents.

Run with `python -m tests.benchmarks.scaling`. The networks are three linear layers of equal width.
"""

import argparse

import numpy as np
import torch
from tests.benchmarks.common import Child, serve
from torch import nn

from metaprune_pl.graphs import read, trace
from metaprune_pl.metanetworks import PNAMetanetwork

EDGES = (10**4, 10**5, 10**6, 10**7, 10**8)
SETTINGS = {"layers": 3, "hidden": 4, "kernels": "per_size", "taps": [1]}


def main() -> None:
    """Measure, or be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=int)
    parsed = parser.parse_args()
    if parsed.child:
        return serve(passes(parsed.child), passes(100))
    found = []
    for edges in EDGES:
        child = Child("tests.benchmarks.scaling", ["--child", str(edges)])
        runs = [child.run() for _ in range(2 if edges >= 10**8 else 4)]
        child.close()
        found.append((edges, min(s for s, _ in runs[1:]), max(m for _, m in runs)))
        print(f"{edges:>11,} edges {found[-1][1]:8.3f} s {found[-1][2]:7.3f} GB", flush=True)
    large = np.log(np.array([row for row in found if row[0] >= 10**5]))
    time, memory = (np.polyfit(large[:, 0], large[:, column], 1)[0] for column in (1, 2))
    print(f"from 10^5 edges on: time grows with edges^{time:.2f}, memory with edges^{memory:.2f}")


def passes(edges: int) -> object:
    """Forward and backward pass over two hidden layers with about so many edges."""
    width = round((edges / 2) ** 0.5)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(3, width), *(nn.Linear(width, width) for _ in range(2))
    )
    graph = trace(network, torch.zeros(1, 3, 1, 1))
    metanetwork = PNAMetanetwork(**SETTINGS, engine="native")  # type: ignore[arg-type]
    features = read(
        graph, {n: v.detach() for n, v in network.state_dict().items()}, metanetwork.schema
    )

    def run() -> None:
        metanetwork.zero_grad()
        new = metanetwork(graph, features)
        outputs = (new.nodes, *new.edges)
        torch.autograd.backward(outputs, [torch.ones_like(value) for value in outputs])

    return run


if __name__ == "__main__":
    main()
