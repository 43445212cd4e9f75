import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from helpers import ConcatNet, PlainNet, random_resnet, randomize, relative_error
from metaprune_pl.graphs import WeightGraph, trace, unite
from metaprune_pl.graphs.symmetry import common_factors, hidden_nodes, refusal, rescale
from metaprune_pl.networks import create_network

IMAGE = torch.zeros(1, 3, 32, 32, dtype=torch.float64)


class Between(nn.Module):
    """One operation between two convolutions."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.first, self.operation = nn.Conv2d(3, 4, 3), operation
        self.second = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.operation(self.first(x))
        return self.second(hidden).mean((2, 3))  # type: ignore[no-any-return]


class Lambda(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator, no-any-return]


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def four(x: Tensor) -> Tensor:
    """Four channels of fewer."""
    return x.repeat(1, 4 // x.shape[1], 1, 1)


def norm_without_weight() -> nn.Module:
    norm = nn.BatchNorm2d(4, affine=False)
    norm.running_mean = torch.ones(4)
    return norm


OPERATIONS: dict[str, tuple[nn.Module, str]] = {
    "relu": (nn.ReLU(), "scale"),
    "relu in place": (nn.ReLU(inplace=True), "scale"),
    "leaky": (nn.LeakyReLU(0.1), "scale"),
    "max pool": (nn.MaxPool2d(2), "scale"),
    "tanh": (nn.Tanh(), "sign"),
    "gelu": (nn.GELU(), ""),
    "silu": (nn.SiLU(), ""),
    "sigmoid": (nn.Sigmoid(), ""),
    "clipped": (nn.Hardtanh(0, 0.1), ""),
    "group norm": (nn.GroupNorm(2, 4), ""),
    "constant": (Lambda(lambda x: x + 1), ""),
    "square": (Lambda(lambda x: x * x), ""),
    "quotient": (Lambda(lambda x: 1 / (3 + x)), ""),
    "average pool": (nn.AvgPool2d(2), "scale sign"),
    "dropout": (nn.Dropout(), "scale sign"),
    "half": (Lambda(lambda x: x * 0.5), "scale sign"),
    "batch norm": (nn.BatchNorm2d(4), "scale sign"),
    "nothing": (nn.Identity(), "scale sign"),
    "norm without weight": (norm_without_weight(), ""),
    "centred over channels": (Lambda(lambda x: x - x.mean(1, keepdim=True)), ""),
    "maximum of channels": (Lambda(lambda x: four(x.amax(1, keepdim=True))), ""),
    "sum of channels": (Lambda(lambda x: four(x.sum(1, keepdim=True))), ""),
    "maxout": (Lambda(lambda x: four(x.unflatten(1, (2, 2)).amax(2))), ""),
    "sum over the image": (Lambda(lambda x: x + x.sum((2, 3), keepdim=True)), "scale sign"),
}


def factors(graph: WeightGraph, symmetry: str) -> Tensor:
    normal = torch.randn(graph.num_nodes, generator=torch.Generator().manual_seed(0)).double()
    drawn = normal.exp() if symmetry == "scale" else normal.sign()
    common = common_factors(graph)
    ends = common[~hidden_nodes(graph)]
    return torch.where(torch.isin(common, ends), 1.0, drawn[common])


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_symmetry_of_a_layer_is_that_of_what_follows(name: str) -> None:
    operation, expected = OPERATIONS[name]
    network = randomize(Between(operation)).double()
    graph, state = trace(network, IMAGE), network.state_dict()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    for symmetry in ("scale", "sign"):
        reason = refusal(graph, symmetry)  # type: ignore[arg-type]
        assert (reason is None) == (symmetry in expected), reason
        assert reason is None or "layer 'first' is followed by" in reason
        new = rescale(graph, state, factors(graph, symmetry))
        changed = relative_error(functional_call(network, new, (images,)), network(images))
        assert (changed < 1e-12) == (symmetry in expected)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (random_resnet(14, 4), 8),
        (random_resnet(8, 4, shortcut="pad"), 8),
        (randomize(PlainNet()), 8),
        (randomize(ConcatNet()), 8),
        (randomize(create_network("cifar_vgg", depth=11, width=2, seed=0)), 32),
    ],
)
def test_rescaled_networks_give_the_same_logits(network: nn.Module, size: int) -> None:
    network.double()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    graph, state = trace(network, images[:1]), network.state_dict()
    assert refusal(graph, "scale") is None
    assert refusal(graph, "sign") is not None
    new = rescale(graph, state, factors(graph, "scale"))
    changed = [name for name in state if not torch.equal(new[name], state[name])]
    assert len(changed) > len(state) / 3
    assert relative_error(functional_call(network, new, (images,)), network(images)) < 1e-12


@pytest.mark.parametrize("name", ["1", "2"])
def test_one_factor_for_a_layer_that_is_used_twice_is_refused(name: str) -> None:
    layers = {"1": nn.Conv2d(4, 4, 1), "2": nn.BatchNorm2d(4)}
    first, shared, last = nn.Conv2d(3, 4, 3), layers[name], nn.Conv2d(4, 5, 1)
    network = nn.Sequential(first, shared, nn.ReLU(), nn.Conv2d(4, 4, 1), shared, last, Mean())
    assert "another use of" in str(refusal(trace(network.double().eval(), IMAGE), "scale"))


def test_a_united_graph_has_the_symmetry_that_all_its_networks_have() -> None:
    relu, tanh = (
        trace(create_network("small_cnn", activation=name, seed=0), torch.zeros(1, 1, 32, 32))
        for name in ("relu", "tanh")
    )
    assert refusal(unite([relu, relu]), "scale") is None
    assert "tanh" in str(refusal(unite([relu, tanh]), "scale"))
    assert "relu" in str(refusal(unite([relu, tanh]), "sign"))
