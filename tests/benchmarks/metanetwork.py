"""A metanetwork's forward and backward pass beside the PyG reference.

Run with `python -m tests.benchmarks.metanetwork [CASE ...] [--device cuda]`. Where the reference
does not fit into memory (it takes some 40 numbers for each edge, hidden channel and layer) it is
left out: compare the smaller case of the same network.
"""

import argparse
from typing import Any

import torch
import torchvision
from tests.benchmarks.common import report, serve, side_by_side, where
from torch import nn

from metaprune_pl.graphs import read, trace
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.metanetworks.pna_pyg import PyGMetanetwork
from metaprune_pl.networks import create_network

RESNET50 = {"layers": 6, "hidden": 16, "kernels": "per_size", "taps": [1, 9, 49]}
VIT = {"layers": 3, "hidden": 4, "kernels": "per_size", "taps": [1, 3, 256], "schema": "vit"}
CASES: dict[
    str, tuple[bool, dict[str, Any]]
] = {  # whether the reference fits, and the paper's metanetwork
    "resnet56": (True, {"layers": 8, "hidden": 64}),
    "resnet50_0.25": (True, RESNET50),
    "resnet50_0.5": (False, RESNET50),
    "resnet50_1": (False, RESNET50),
    "vit_1": (True, VIT),
    "vit_2": (True, VIT),
    "vit_12": (False, VIT),
}


def resnet50(width: float) -> nn.Module:
    """ResNet-50 with every layer's width times a factor."""
    network = torchvision.models.resnet50()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                inputs = 3 if child.in_channels == 3 else round(child.in_channels * width)
                new: nn.Module = nn.Conv2d(
                    inputs,
                    round(child.out_channels * width),
                    child.kernel_size,
                    child.stride,  # type: ignore[arg-type]
                    child.padding,
                    bias=False,  # type: ignore[arg-type]
                )
            elif isinstance(child, nn.BatchNorm2d):
                new = nn.BatchNorm2d(round(child.num_features * width))
            elif isinstance(child, nn.Linear):
                new = nn.Linear(round(child.in_features * width), child.out_features)
            else:
                continue
            setattr(module, name, new)
    return network


def network_of(case: str) -> tuple[nn.Module, torch.Tensor]:
    """The network of a case and an image for it."""
    kind, _, size = case.partition("_")
    if kind == "resnet56":
        return create_network("cifar_resnet", depth=56), torch.zeros(1, 3, 32, 32)
    if kind == "resnet50":
        return resnet50(float(size)), torch.zeros(1, 3, 64, 64)
    if kind == "resnet8":
        return create_network("cifar_resnet", depth=8, width=4), torch.zeros(1, 3, 16, 16)
    return torchvision.models.VisionTransformer(224, 16, int(size), 12, 768, 3072), torch.zeros(
        1, 3, 224, 224
    )


def prepare(
    case: str, engine: str, settings: dict[str, Any], backward: bool, device: str = "cpu"
) -> Any:
    """Return what runs a pass, and the number of edges."""
    torch.manual_seed(0)
    network, image = network_of(case)
    graph = trace(network.eval(), image)
    state = {name: value.detach() for name, value in network.state_dict().items()}
    metanetwork = (PyGMetanetwork if engine == "pyg" else PNAMetanetwork)(**settings).to(device)
    if engine != "pyg":
        metanetwork.engine = engine  # type: ignore[assignment]
    features = read(
        graph, {name: value.to(device) for name, value in state.items()}, metanetwork.schema
    )

    def run() -> None:
        with torch.set_grad_enabled(backward):
            new = metanetwork(graph, features)
            if backward:
                metanetwork.zero_grad()
                outputs = [value for value in (new.nodes, *new.edges) if value.requires_grad]
                torch.autograd.backward(outputs, [torch.ones_like(value) for value in outputs])

    return run, graph.num_edges


def main() -> None:
    """Measure, or be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--child", nargs=3, metavar=("CASE", "ENGINE", "PASS"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--backward_only", action="store_true")
    parser.add_argument("--device", default="cpu")
    parsed = parser.parse_args()
    if parsed.child:
        case, engine, direction = parsed.child
        backward = direction == "backward"
        run, _ = prepare(case, engine, CASES[case][1], backward, parsed.device)
        warm, _ = prepare("resnet8", engine, {"layers": 1, "hidden": 4}, backward, parsed.device)
        return serve(run, warm, parsed.device)
    for case in parsed.cases or CASES:
        fits, _ = CASES[case]
        engines = (
            (["pyg"] if fits else []) + ["plain"] + (["native"] if parsed.device == "cpu" else [])
        )
        for direction in ("backward",) if parsed.backward_only else ("forward", "backward"):
            ways = {e: ["--child", case, e, direction, "--device", parsed.device] for e in engines}
            found = side_by_side("tests.benchmarks.metanetwork", ways, parsed.repetitions)
            passes = "forward" if direction == "forward" else "forward + backward"
            report(f"{case}, {where(parsed.device)}, {passes}", found, engines[0])


if __name__ == "__main__":
    main()
