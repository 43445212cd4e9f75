"""One metanetwork of the universal schema, meta-trained on ResNets, runs on other kinds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from conftest import tiny
from helpers import randomize
from metaprune_pl.__main__ import main
from metaprune_pl.graphs import trace
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.metanetworks.base import Metanetwork
from metaprune_pl.metanetworks.coding import Coding

IMAGES = torch.randn(64, 3, 28, 28, generator=torch.Generator().manual_seed(0))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MobileNetV3": lambda: models.mobilenet_v3_small(num_classes=10, width_mult=0.25),
    "ConvNeXt": lambda: ConvNeXt(
        [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 2)], num_classes=10
    ),
    "ViT": lambda: models.VisionTransformer(28, 7, 2, 3, 24, 48, num_classes=10),
}


@pytest.fixture(scope="module")
def metanetwork(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Metanetwork:
    """Train one through the command line, on the data models of the quickstart."""
    folder = tmp_path_factory.mktemp("universal")
    coding = ["schema=universal", "taps=[49]", "node_ratio=0.1", "edge_ratio=0.1"]
    main(
        tiny(
            "fit meta",
            *(f"--model.init_args.metanetwork.init_args.{setting}" for setting in coding),
            f"--data.init_args.data_models={line}/runs/quickstart/data_models/networks",
            f"--trainer.default_root_dir={folder}",
        )
    )
    return load_metanetwork(folder / "metanetworks")


def rewritten(metanetwork: Metanetwork, network: nn.Module, ratio: float) -> torch.Tensor:
    """Logits of the network with the weights that the metanetwork gives it at a residual ratio."""
    assert isinstance(metanetwork.coding, Coding)
    metanetwork.coding.ratios = (ratio, ratio)
    with torch.no_grad():
        state = metanetwork.rewrite(trace(network, IMAGES[:1]), network.state_dict())
        return torch.func.functional_call(network, state, (IMAGES,))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_another_kind_keeps_its_accuracy_as_the_residual_ratio_goes_to_zero(
    kind: str, metanetwork: Metanetwork
) -> None:
    torch.manual_seed(0)
    network = NETWORKS[kind]()
    with torch.no_grad():
        for (
            parameter
        ) in network.parameters():  # layer scales of 1e-6 and zeroed heads would hide everything
            parameter.add_(0.05 * torch.randn_like(parameter))
    randomize(network)
    with torch.no_grad():
        before = network(IMAGES)
    labels = before.argmax(1)
    labels[::4] = (labels[::4] + 1) % 10  # an accuracy of 75 %

    def accuracy(logits: torch.Tensor) -> float:
        return float((logits.argmax(1) == labels).float().mean())

    gaps = [
        float((rewritten(metanetwork, network, ratio) - before).abs().max())
        for ratio in (0.1, 1e-3, 1e-5, 0.0)
    ]
    assert (
        gaps[0] > 10 * gaps[1] > 10 * gaps[2] and gaps[3] == 0
    )  # it does something, and less and less
    assert accuracy(rewritten(metanetwork, network, 1e-5)) == accuracy(before) == 0.75
