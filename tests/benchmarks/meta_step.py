"""A whole meta-step of ResNet-56, 20 micro-batches of images, beside the authors' way.

Run with `python -m tests.benchmarks.meta_step [--images 500] [--device cuda]`. The authors keep
the metanetwork's graph through the step and go backward through it once for every micro-batch;
their way runs with the PyG reference. The share of the metanetwork is its two forward passes and
its backward pass in the whole step.
"""

import argparse
import sys
from typing import Any

import torch
import torch.nn.functional as F
from tests.benchmarks.common import now, report, serve, side_by_side, where
from torch.func import functional_call

from metaprune_pl.graphs import trace
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.metanetworks.pna_pyg import PyGMetanetwork
from metaprune_pl.networks import create_network
from metaprune_pl.pruning import Magnitude, Sparsity, find_groups
from metaprune_pl.stages.objectives import Accuracy, DataModel, Rewritten


def step(way: str, micro_batches: int, depth: int, size: int, device: str) -> Any:
    """Return what runs a step one way."""
    torch.manual_seed(0)
    network = create_network("cifar_resnet", depth=depth).eval()
    graph = trace(network, torch.zeros(1, 3, 32, 32))
    network.to(device)
    groups, state = (
        find_groups(graph),
        {name: value.detach() for name, value in network.state_dict().items()},
    )
    model = DataModel(network, graph, groups, state)
    images, labels = (
        torch.randn(size, 3, 32, 32, device=device),
        torch.randint(10, (size,), device=device),
    )
    metanetwork = (PyGMetanetwork if way == "authors" else PNAMetanetwork)(layers=8, hidden=64).to(
        device
    )
    names = [name for name, _ in network.named_parameters()]
    sparsity = Sparsity()

    def authors() -> None:
        metanetwork.zero_grad()
        new = metanetwork.rewrite(graph, state)
        for _ in range(micro_batches):
            values = {
                name: value if value.requires_grad else value.clone() for name, value in new.items()
            }
            loss = F.cross_entropy(functional_call(network, values, (images,)), labels)
            (loss / micro_batches).backward(retain_graph=True)
        sparse, _ = sparsity.gradient(
            Magnitude(), groups, {name: new[name].detach() for name in names}
        )
        torch.autograd.backward([new[name] for name in sparse], list(sparse.values()))

    def ours() -> None:
        start = now(device)
        metanetwork.zero_grad()
        with torch.no_grad():
            new = metanetwork.rewrite(graph, state)
        mine = now(device) - start
        leaves = {name: new[name].clone().requires_grad_() for name in names}
        accuracy = Accuracy().start(Rewritten(model, leaves))
        for _ in range(micro_batches):
            accuracy.add(images, labels)
        vector, _ = accuracy.result()
        sparsity.gradient(Magnitude(), groups, leaves, vector)
        again = now(device)
        new = metanetwork.rewrite(graph, state)
        torch.autograd.backward([new[name] for name in names], [vector[name] for name in names])
        end = now(device)
        print(
            f"  share of the metanetwork {(mine + end - again) / (end - start):.1%}",
            file=sys.stderr,
        )

    return authors if way == "authors" else ours


def main() -> None:
    """Measure, or be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child")
    parser.add_argument("--images", type=int, default=100, help="of a micro-batch")
    parser.add_argument("--device", default="cpu")
    parsed = parser.parse_args()
    if parsed.child:
        return serve(
            step(parsed.child, 20, 56, parsed.images, parsed.device),
            step(parsed.child, 1, 8, parsed.images, parsed.device),
            parsed.device,
        )
    settings = ["--images", str(parsed.images), "--device", parsed.device]
    ways = {way: ["--child", way, *settings] for way in ("authors", "ours")}
    found = side_by_side("tests.benchmarks.meta_step", ways, 1)
    report(
        f"ResNet-56, 20 micro-batches of {parsed.images}, {where(parsed.device)}", found, "authors"
    )


if __name__ == "__main__":
    main()
