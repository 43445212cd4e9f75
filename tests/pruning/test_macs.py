"""Multiply-accumulates: by hand, by a sum over layers, and the same on every device."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision import models

from metaprune_pl.pruning import count_macs


class _Attention(nn.Module):
    """Fused attention of 2 heads; with fewer keys and values than queries where `grouped`."""

    def __init__(self, *, grouped: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.grouped, self.causal = grouped, causal

    def forward(self, x: Tensor) -> Tensor:
        query = x.unflatten(-1, (2, -1)).transpose(1, 2)
        key = query[:, :1] if self.grouped else query
        return F.scaled_dot_product_attention(
            query, key, key, is_causal=self.causal, enable_gqa=self.grouped
        )


class _Apply(nn.Module):
    """A layer of several inputs or outputs, as one of a tensor each."""

    def __init__(self, layer: nn.Module, inputs: int = 1) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs

    def forward(self, x: Tensor) -> Tensor:
        result = self.layer(*[x] * self.inputs)
        return result[0] if isinstance(result, tuple) else result


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "convolution": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 5, 6), 30 * 8 * 2 * 9),
    "convolution 1D": (nn.Conv1d(4, 8, 3), (4, 7), 5 * 8 * 4 * 3),
    "transposed": (nn.ConvTranspose2d(4, 8, 2, 2), (4, 5, 6), 30 * 8 * 4 * 4),
    "linear": (nn.Linear(6, 7), (5, 6), 5 * 6 * 7),
    "bilinear": (_Apply(nn.Bilinear(6, 6, 7), 2), (6,), 6 * 6 * 7),
    "attention": (_Attention(), (9, 8), 2 * 9 * 9 * 8),
    "causal attention": (_Attention(causal=True), (9, 8), 2 * 9 * 9 * 8),
    "grouped queries": (_Attention(grouped=True), (9, 8), 2 * 9 * 9 * 8),
    "multi-head layer": (
        _Apply(nn.MultiheadAttention(8, 2, batch_first=True), 3),
        (9, 8),
        9 * 4 * 8 * 8 + 2 * 9 * 9 * 8,
    ),
    "recurrent": (_Apply(nn.RNN(6, 5, batch_first=True)), (9, 6), 9 * 5 * 11),
    "GRU": (_Apply(nn.GRU(6, 5, 2, batch_first=True)), (9, 6), 9 * 3 * 5 * (11 + 10)),
    "LSTM": (_Apply(nn.LSTM(6, 5, batch_first=True)), (9, 6), 9 * 4 * 5 * 11),
    "LSTM in both directions": (
        _Apply(nn.LSTM(6, 5, batch_first=True, bidirectional=True)),
        (9, 6),
        2 * 9 * 4 * 5 * 11,
    ),
    "LSTM cell": (_Apply(nn.LSTMCell(6, 5)), (6,), 4 * 5 * 11),
}
"""Layer, shape of its input without the batch, and what it costs by hand."""


@pytest.mark.parametrize("name", LAYERS)
def test_layers_cost_what_one_counts_by_hand(name: str) -> None:
    layer, shape, by_hand = LAYERS[name]
    assert count_macs(layer, torch.zeros(1, *shape)) == by_hand
    assert count_macs(layer.to("meta"), torch.zeros(1, *shape, device="meta")) == by_hand


def test_products_with_a_vector_cost_too() -> None:
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.addmv(x[0, 0, :4], x[0, :4], x[0, 0]) @ (x[0, :4] @ x[0, 0])

    assert count_macs(Scores(), torch.zeros(1, 5, 6)) == 4 * 6 + 4 * 6 + 4


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_the_count_does_not_depend_on_how_attention_runs(backend: SDPBackend) -> None:
    layer, shape, by_hand = LAYERS["attention"]
    with sdpa_kernel(backend):
        assert count_macs(layer, torch.zeros(1, *shape)) == by_hand


NETWORKS = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 "
    "maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small resnet18 resnet34 "
    "resnet50 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 vgg11_bn vgg16 vit_b_16 "
    "wide_resnet50_2"
).split()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_cost_what_their_layers_cost(name: str) -> None:
    arguments = {"aux_logits": False} if name in {"googlenet", "inception_v3"} else {}
    if arguments:
        arguments["init_weights"] = False
    with torch.device("meta"):
        network, image = models.get_model(name, **arguments).eval(), torch.zeros(1, 3, 224, 224)
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * math.prod(layer.weight.shape[1:])
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
        elif isinstance(layer, nn.MultiheadAttention):
            tokens, width = inputs[0].shape[1:]
            total += 4 * tokens * width * width + 2 * tokens * tokens * width
        elif type(layer).__name__ == "RelativePositionalMultiHeadAttention":
            batch, groups, tokens, width = inputs[0].shape
            total += 2 * batch * groups * tokens * tokens * width

    inside = {
        id(part)
        for layer in network.modules()
        if isinstance(layer, nn.MultiheadAttention)
        for part in layer.children()
    }
    for layer in network.modules():
        if id(layer) not in inside:
            layer.register_forward_hook(count)
    assert count_macs(network, image) == total
