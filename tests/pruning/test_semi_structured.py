"""Which layers sparse tensor cores take, what is refused, and (GPU) that results stay."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import Magnitude, Pattern, apply_masks, find_masks, semi_structured
from metaprune_pl.pruning.semi_structured import is_two_of_four, layers_to_convert


class Network(nn.Module):
    """A convolution, two linear layers of sizes that fit, and a classifier that does not.

    Shapes: [B, 3, 8, 8] -> [B, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide, self.narrow = (
            nn.Conv2d(3, 16, 3),
            nn.Linear(16 * 36, 128),
            nn.Linear(128, 64),
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).flatten(1)
        return self.classifier(torch.relu(self.narrow(torch.relu(self.wide(x)))))


def masked(pattern: str = "2:4") -> nn.Module:
    network = Network().eval()
    criterion = Magnitude(p=1.0, normalize="none")
    found = find_masks(
        trace(network, torch.zeros(1, 3, 8, 8)),
        network.state_dict(),
        criterion,
        Pattern.from_text(pattern),
    )
    return apply_masks(network, found)


def test_linear_layers_with_2_4_masks_of_the_right_size_are_chosen() -> None:
    network = masked()
    converted, left = layers_to_convert(network)
    assert converted == ["wide", "narrow"]
    assert left["classifier"] == "10x64 weights are no multiple of 32x64"
    assert left["conv"] == "convolutions have no such kernels"
    assert sorted(left) == ["classifier", "conv"]


def test_other_masks_are_not() -> None:
    assert layers_to_convert(masked("3:4"))[0] == []
    assert "narrow" in layers_to_convert(masked("1:4"))[0]  # three zeros of four are two, too
    network = masked()
    with torch.no_grad():
        network.get_parameter("narrow.weight")[5, 4:8] = 1.0
    assert (
        layers_to_convert(network)[1]["narrow"]
        == "more than two of four weights in a row are not zero"
    )


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ([1, 1, 0, 0, 0, 1, 1, 0], True),
        ([0, 0, 1, 1, 1, 0, 0, 0], True),
        ([0, 1, 1, 1, 0, 0, 0, 0], False),
        ([1, 0], False),
    ],
)
def test_the_pattern_is_counted_in_fours(row: list[int], fits: bool) -> None:
    assert is_two_of_four(torch.tensor([row, [0] * len(row)])) == fits


def test_layers_that_another_module_reads_stay() -> None:
    attention = nn.MultiheadAttention(64, 4)
    with torch.no_grad():
        attention.out_proj.weight.zero_()
    converted, left = layers_to_convert(attention)
    assert converted == [] and "is not read by itself alone" in left["out_proj"]


def test_a_machine_without_sparse_tensor_cores_is_one_message() -> None:
    with pytest.raises(PruningError, match=r"network is torch\.float32: call \.half\(\)"):
        semi_structured(masked())
    with pytest.raises(
        PruningError, match=r"compute capability 8\.0 or more, and the network is on cpu"
    ):
        semi_structured(masked().half())


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="no sparse tensor cores",
)
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_the_converted_network_gives_the_same(precision: Any) -> None:
    torch.manual_seed(0)
    network = masked().to("cuda", precision)
    images = torch.randn(16, 3, 8, 8, device="cuda", dtype=precision)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = semi_structured(network)
    with torch.no_grad():
        assert torch.allclose(network(images), result.network(images), atol=1e-2, rtol=1e-2)
    assert result.converted and "classifier" in result.left
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
