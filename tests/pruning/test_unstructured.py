import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from helpers import PlainNet, random_resnet, randomize
from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import create_network
from metaprune_pl.pruning import (
    Magnitude,
    MaskSettings,
    Pattern,
    Sparsity,
    ZeroShare,
    apply_masks,
    find_groups,
    find_masks,
    left_parameters,
)
from metaprune_pl.pruning.groups import input_dimensions
from metaprune_pl.pruning.targets.masks import MaskTarget
from metaprune_pl.pruning.targets.pattern import pattern_mask

L1 = Magnitude(p=1.0, normalize="none")
PATTERNS = ["1:4", "2:4", "3:4"]


def plain() -> nn.Module:
    torch.manual_seed(0)
    return randomize(PlainNet())


def layers(network: nn.Module) -> list[tuple[nn.Module, str]]:
    return [
        (m, "weight")
        for m in network.modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]


def masked(
    network: nn.Module, target: float | str, ranking: str = "global", size: int = 8
) -> nn.Module:
    graph = trace(network, torch.zeros(1, 3, size, size))
    if isinstance(target, str):
        wanted: MaskTarget = Pattern.from_text(target)
    else:
        wanted = ZeroShare(share=target, ranking=ranking)  # type: ignore[arg-type]
    return apply_masks(network, find_masks(graph, network.state_dict(), L1, wanted))


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("ranking", ["global", "uniform"])
def test_l1_masks_are_those_of_torch(ranking: str, sparsity: float) -> None:
    network = plain()
    theirs = copy.deepcopy(network)
    if ranking == "global":
        prune.global_unstructured(layers(theirs), prune.L1Unstructured, amount=sparsity)
    else:
        for layer, name in layers(theirs):
            prune.l1_unstructured(layer, name, amount=sparsity)
    for layer, name in layers(theirs):
        prune.remove(layer, name)
    ours = masked(network, sparsity, ranking)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_group_of_a_pattern_keeps_its_largest(pattern: str) -> None:
    keep, of = map(int, pattern.split(":"))
    network = random_resnet(8, 8)
    ours = masked(network, pattern)
    for layer, _ in layers(ours):
        weight, before = layer.weight, network.get_parameter(name_of(ours, layer)).detach()
        if weight.shape[1] % of:  # the image's three channels
            assert torch.equal(weight, before) and weight.shape[1] == 3
            continue
        for taps in (
            weight.detach().flatten(2).unbind(2) if weight.dim() == 4 else [weight.detach()]
        ):
            assert (taps.reshape(len(taps), -1, of).count_nonzero(2) == keep).all()
        groups = before.movedim(1, -1).reshape(-1, of).abs()
        lowest = groups.sort(1).values[:, of - keep]  # of what stays
        stays = weight.detach().movedim(1, -1).reshape(-1, of) != 0
        assert torch.equal(stays, groups >= lowest[:, None])


def name_of(network: nn.Module, layer: nn.Module) -> str:
    return next(f"{path}.weight" for path, module in network.named_modules() if module is layer)


def test_layers_that_the_pattern_does_not_divide_are_named() -> None:
    graph = trace(plain(), torch.zeros(1, 3, 8, 8))
    found = find_masks(graph, plain().state_dict(), L1, Pattern(keep=2, of=4))
    assert found.dense == (
        "biased.weight",
        "depthwise.weight",
        "grouped.weight",
    )  # 3, 1 and 2 inputs
    assert set(found.kept) == {"hidden.weight", "classifier.weight"}
    with pytest.raises(PruningError, match="7 divides"):
        find_masks(graph, plain().state_dict(), L1, Pattern(keep=2, of=7))


class _Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 1)
        self.up = nn.ConvTranspose2d(16, 12, 2, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.conv(x))).mean((2, 3))


def test_a_transposed_convolution_has_its_inputs_in_front() -> None:
    torch.manual_seed(0)
    weight = masked(_Transposed(), "2:4").up.weight.detach()  # [16, 6, 2, 2]
    assert (weight.reshape(4, 4, 6, 2, 2).count_nonzero(1) == 2).all()


@pytest.mark.parametrize("dim", [0, 1])
def test_equal_scores_keep_the_pattern(dim: int) -> None:
    mask = pattern_mask(torch.zeros(8, 12, 3), 2, 4, dim)
    assert (mask.movedim(dim, -1).reshape(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("target", "left"),
    [
        (0.5, 50.25),
        (0.8, 20.40),
        (0.85, 15.42),
        (0.9, 10.45),
        ("3:4", 75.14),
        ("2:4", 50.27),
        ("1:4", 25.41),
    ],
)
def test_left_parameters_are_those_of_the_papers_table_3(target: float | str, left: float) -> None:
    network = create_network("cifar_resnet", seed=0, depth=56)
    for parameter in network.parameters():  # biases of a new network are zero
        nn.init.normal_(parameter)
    ours = masked(network, target, size=32)
    assert 100 * left_parameters(ours) == pytest.approx(left, abs=0.01)


def test_only_weights_of_convolutions_and_linear_layers_are_masked() -> None:
    network = plain()
    graph = trace(network, torch.zeros(1, 3, 8, 8))
    assert set(input_dimensions(graph)) == {f"{path}.weight" for path in _paths(network)}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ours = masked(network, 0.5)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]) != (name in input_dimensions(graph)), name


def _paths(network: nn.Module) -> list[str]:
    return [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]


def test_the_l1_term_is_the_gradient_of_the_sum_of_magnitudes() -> None:
    network = plain()
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    found, value = Sparsity(weight=0.3, form="l1").gradient(
        L1, groups, dict(network.named_parameters())
    )
    norm = torch.stack([layer.weight.abs().sum() for layer, _ in layers(network)]).sum()
    (0.3 * norm).backward()
    torch.testing.assert_close(value, norm.detach())
    assert set(found) == {name for name, p in network.named_parameters() if p.grad is not None}
    for name, gradient in found.items():
        assert torch.equal(gradient, network.get_parameter(name).grad)
    there = {name: gradient.clone() for name, gradient in found.items()}
    twice, _ = Sparsity(weight=0.3, form="l1").gradient(
        L1, groups, dict(network.named_parameters()), there
    )
    assert all(
        twice[name] is there[name] and torch.equal(twice[name], 2 * found[name]) for name in found
    )


@pytest.mark.parametrize("normalize", ["mean", "max"])
def test_weights_are_normalised_within_their_layer(normalize: str) -> None:
    weights = {
        "a": torch.tensor([[1.0, -3.0]]),
        "b": torch.tensor([[10.0, 20.0]]),
        "c": torch.zeros(1, 2),
    }
    found = Magnitude(p=2.0, normalize=normalize).weight_scores(weights)  # type: ignore[arg-type]
    first, second = {"mean": (5.0, 250.0), "max": (9.0, 400.0)}[normalize]
    torch.testing.assert_close(found["a"], torch.tensor([[1.0, 9.0]]) / first)
    torch.testing.assert_close(found["b"], torch.tensor([[100.0, 400.0]]) / second)
    assert not found["c"].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give sparsities"),
        ({"sparsities": [1.0]}, "between 0 and 1"),
        ({"sparsities": [0.0]}, "between 0 and 1"),
        ({"patterns": ["4:2"]}, "'4:2' is no pattern"),
        ({"patterns": ["0:4"]}, "no pattern"),
        ({"patterns": ["124"]}, "such as '2:4'"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskSettings(**settings)  # type: ignore[arg-type]
