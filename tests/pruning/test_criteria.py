import copy
from typing import Any, Literal

import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from helpers import PlainNet, random_resnet, randomize
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import Magnitude, PruningGroups, Sparsity, find_groups

Reduce = Literal["mean", "first"]
Normalize = Literal["none", "mean", "max"]


class _TwoConvolutions(nn.Module):
    """One prunable group of three channels: the outputs of `a`, which `b` reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 3, 3)
        self.b = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x))).mean((2, 3))


def two_convolutions() -> tuple[nn.Module, PruningGroups]:
    torch.manual_seed(0)
    network = randomize(_TwoConvolutions())
    return network, find_groups(trace(network, torch.zeros(1, 2, 6, 6)))


def units_of(groups: PruningGroups, layer: str) -> Tensor:
    """Units of a layer's outputs."""
    (found,) = (c for c in groups.graph.connections if c.name == layer)
    return groups.unit[found.target.flatten()]


def trainable(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


# Importance


Theirs = list[tuple[str, Any]]


@pytest.fixture(scope="module")
def resnet56() -> tuple[nn.Module, PruningGroups, Theirs, Theirs]:
    """Return a network, our groups, torch-pruning's, and its groups of each first layer."""
    network = random_resnet(56, 16)
    image = torch.zeros(1, 3, 32, 32)
    groups = find_groups(trace(network, image))
    model = copy.deepcopy(network)
    dependencies = torch_pruning.DependencyGraph().build_dependency(model, (image,))
    found = dependencies.get_all_groups(
        ignored_layers=[model.fc], root_module_types=[nn.Conv2d, nn.Linear]
    )
    paths = {module: path for path, module in model.named_modules()}
    asked = []
    for name, size in zip(groups.names, groups.sizes().tolist(), strict=True):
        if size:
            layer = model.get_submodule(name)
            group = dependencies.get_pruning_group(
                layer, torch_pruning.prune_conv_out_channels, list(range(size))
            )
            asked.append((name, group))
    return network, groups, [(paths[group[0].dep.target.module], group) for group in found], asked


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("normalize", ["none", "mean", "max"])
@pytest.mark.parametrize("reduce", ["mean", "first"])
def test_importance_is_that_of_torch_pruning_on_every_group_of_resnet56(
    resnet56: tuple[nn.Module, PruningGroups, Theirs, Theirs],
    reduce: Reduce,
    normalize: Normalize,
    p: float,
) -> None:
    network, groups, found, asked = resnet56
    criterion = torch_pruning.importance.GroupMagnitudeImportance(
        p=p, group_reduction=reduce, normalizer=None if normalize == "none" else normalize
    )
    ours = Magnitude(p=p, reduce=reduce, normalize=normalize).importance(
        groups, network.state_dict()
    )
    # `first` is that of the layer which the group was asked for; of its own accord torch-pruning
    # takes the shortcut's
    theirs = asked if reduce == "first" else found
    assert len(theirs) == int((groups.sizes() > 0).sum()) == 30  # 27 inside blocks and 3 streams
    seen = torch.zeros(len(groups.group), dtype=torch.bool)
    for root, group in theirs:
        units = units_of(groups, root)
        torch.testing.assert_close(
            ours[units], criterion(group), rtol=1e-5, atol=0, msg=lambda m, r=root: f"{r}: {m}"
        )
        seen[units] = True
    assert torch.equal(seen, groups.prunable)


def test_importance_counts_outputs_inputs_and_norms_once_each_and_no_bias() -> None:
    _, groups = two_convolutions()
    state = {"a.weight": torch.ones(3, 2, 3, 3), "b.weight": torch.full((4, 3, 1, 1), 2.0)}
    state |= {"a.bias": torch.full((3,), 100.0), "b.bias": torch.full((4,), 100.0)}
    scores = Magnitude(normalize="none").scores(groups, state)[units_of(groups, "a")]
    # (2 x 9 x 1^2 + 4 x 2^2) / 2
    assert scores.tolist() == [17, 17, 17]
    first = Magnitude(normalize="none", reduce="first", p=1).scores(groups, state)[
        units_of(groups, "a")
    ]
    assert first.tolist() == [18, 18, 18]


def test_a_conv_group_counts_as_a_whole_with_each_of_its_layers_once() -> None:
    network = randomize(PlainNet())
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    w = {name: parameter.detach().square() for name, parameter in network.named_parameters()}
    # group g has 2 inputs and 3 outputs, which the next layers read; a channel has 4 places after
    # flattening
    parts = [
        w["biased.weight"].reshape(4, -1).sum(1),
        w["grouped.weight"].reshape(4, -1).sum(1),
        w["depthwise.weight"].reshape(4, -1).sum(1),
        w["norm.weight"].reshape(4, 3).sum(1),
        w["hidden.weight"].reshape(20, 4, 12).sum((0, 2)),
    ]
    scores = Magnitude().scores(groups, network.state_dict())
    units = units_of(groups, "grouped").reshape(4, 3)
    assert torch.equal(units, units[:, :1].expand(4, 3))
    torch.testing.assert_close(scores[units[:, 0]], sum(parts) / 5)
    first = Magnitude(reduce="first").scores(groups, network.state_dict())
    torch.testing.assert_close(first[units[:, 0]], parts[0])


def test_removed_nodes_do_not_count() -> None:
    network, groups = two_convolutions()
    kept = torch.ones(groups.graph.num_nodes, dtype=torch.bool)
    kept[0] = False  # the first image channel
    found = Magnitude().scores(groups, network.state_dict(), kept)[units_of(groups, "a")]
    a, b = network.a.weight[:, 1:], network.b.weight
    expected = (a.square().sum((1, 2, 3)) + b.square().sum((0, 2, 3))) / 2
    torch.testing.assert_close(found, expected.detach())


def test_scores_have_gradients() -> None:
    network, groups = two_convolutions()
    weight = network.a.weight.detach().clone().requires_grad_()
    scores = Magnitude().scores(groups, {**network.state_dict(), "a.weight": weight})
    scores[units_of(groups, "a")].sum().backward()
    torch.testing.assert_close(weight.grad, weight.detach())  # of w^2 / 2


@pytest.mark.parametrize("p", [0.0, -1.0])
def test_exponents_that_make_no_norm_are_refused(p: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        Magnitude(p=p)


# Shrinkage


@pytest.mark.parametrize("normalizer", ["max", "mean"])
def test_decay_is_the_gradient_that_torch_prunings_regularize_adds(normalizer: Normalize) -> None:
    network = random_resnet(20, 8)
    image = torch.zeros(1, 3, 16, 16)
    model = copy.deepcopy(network)
    pruner = torch_pruning.pruner.GroupNormPruner(
        model,
        (image,),
        importance=torch_pruning.importance.GroupMagnitudeImportance(
            p=2, group_reduction="mean", normalizer=normalizer
        ),
        reg=1.0,
        ignored_layers=[model.fc],
        num_heads={},
        in_channel_groups={},
        out_channel_groups={},
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.regularize(model, alpha=16)  # 2^4
    groups = find_groups(trace(network, image))
    found, _ = Sparsity(weight=1.0, alpha=4, form="decay").gradient(
        Magnitude(normalize=normalizer), groups, trainable(network)
    )
    for name, parameter in model.named_parameters():
        expected = parameter.grad
        torch.testing.assert_close(
            found.get(name, torch.zeros_like(expected)), expected, rtol=1e-4, atol=1e-6
        )
        assert name.endswith("bias") or float(expected.abs().max()) > 0, name


def test_shrinkage_goes_from_1_at_the_best_to_2_to_the_alpha_at_the_worst() -> None:
    _, groups = two_convolutions()
    scores = torch.zeros(len(groups.group))
    scores[units_of(groups, "a")] = torch.tensor([1.0, 4.0, 9.0])  # square roots 1, 2, 3
    gamma = Sparsity(alpha=4).shrinkage(groups, scores)[units_of(groups, "a")]
    assert gamma.tolist() == [16, 4, 1]  # 2^4, 2^2, 2^0


def test_equal_scores_give_no_shrinkage_and_no_nan() -> None:
    network, groups = two_convolutions()
    state = {
        **trainable(network),
        "a.weight": torch.full((3, 2, 3, 3), 0.5),
        "b.weight": torch.full((4, 3, 1, 1), 2.0),
    }
    for form in ("decay", "norm"):
        found, value = Sparsity(weight=1.0, form=form).gradient(Magnitude(), groups, state)
        assert value == 3  # three channels of normalised score 1
        assert all(torch.isfinite(gradient).all() for gradient in found.values())
    decay, _ = Sparsity(weight=1.0, form="decay").gradient(Magnitude(), groups, state)
    assert torch.equal(decay["a.weight"], state["a.weight"])  # gamma 1
    assert torch.equal(decay["b.weight"], state["b.weight"])


@pytest.mark.parametrize("form", ["decay", "norm"])
def test_groups_of_one_channel_give_no_shrinkage_and_no_nan(form: Literal["decay", "norm"]) -> None:
    network = random_resnet(8, 1)  # stages of 1, 2 and 4 channels
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    criterion, sparsity = Magnitude(), Sparsity(weight=1.0, form=form)
    state = trainable(network)
    gamma = sparsity.shrinkage(groups, criterion.scores(groups, state))
    assert gamma[units_of(groups, "conv1")].tolist() == [1]
    assert gamma[units_of(groups, "layer1.0.conv1")].tolist() == [1]
    found, value = sparsity.gradient(criterion, groups, state)
    assert torch.isfinite(value)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    if form == "decay":  # gamma 1 for its inputs and outputs
        torch.testing.assert_close(
            found["layer1.0.conv1.weight"], 2 * state["layer1.0.conv1.weight"]
        )
        torch.testing.assert_close(found["bn1.weight"], state["bn1.weight"])


@pytest.mark.parametrize("form", ["decay", "norm"])
def test_a_group_of_zeros_gives_no_nan(form: Literal["decay", "norm"]) -> None:
    network, groups = two_convolutions()
    state = {name: torch.zeros_like(value) for name, value in trainable(network).items()}
    found, value = Sparsity(weight=1.0, form=form).gradient(Magnitude(), groups, state)
    assert value == 0
    assert all(not gradient.any() for gradient in found.values())


# The gradient of equation (26)


@pytest.mark.parametrize("normalize", ["none", "mean", "max"])
def test_norm_is_the_gradient_of_the_weighted_sum_of_scores(normalize: Normalize) -> None:
    network, groups = two_convolutions()
    found, value = Sparsity(weight=0.3, alpha=3, form="norm").gradient(
        Magnitude(normalize=normalize), groups, trainable(network)
    )
    # the same in a few lines: gamma and the denominator count as constants
    a, b = (
        network.get_parameter(name).detach().clone().requires_grad_()
        for name in ("a.weight", "b.weight")
    )
    scores = (a.square().sum((1, 2, 3)) + b.square().sum((0, 2, 3))) / 2
    roots = scores.detach().sqrt()
    gamma = 2 ** (3 * (roots.max() - roots) / (roots.max() - roots.min()))
    denominator = {"none": 1, "mean": scores.detach().mean(), "max": scores.detach().max()}[
        normalize
    ]
    expected = (gamma * scores / denominator).sum()
    expected.backward()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(found["a.weight"], 0.3 * a.grad)
    torch.testing.assert_close(found["b.weight"], 0.3 * b.grad)
    assert all(not gradient.any() for name, gradient in found.items() if name.endswith("bias"))


@pytest.mark.parametrize("form", ["decay", "norm"])
def test_alpha_0_is_no_shrinkage(form: Literal["decay", "norm"]) -> None:
    network, groups = two_convolutions()
    state = trainable(network)
    sparsity, criterion = Sparsity(weight=1.0, alpha=0.0, form=form), Magnitude(normalize="none")
    assert torch.equal(
        sparsity.shrinkage(groups, criterion.scores(groups, state)), torch.ones(len(groups.group))
    )
    found, value = sparsity.gradient(criterion, groups, state)
    # both forms: gamma 1; the gradient of (|a|^2 + |b|^2) / 2 is a, b
    torch.testing.assert_close(found["a.weight"], state["a.weight"])
    torch.testing.assert_close(found["b.weight"], state["b.weight"])
    torch.testing.assert_close(
        value, (state["a.weight"].square().sum() + state["b.weight"].square().sum()) / 2
    )


@pytest.mark.parametrize("form", ["decay", "norm"])
def test_the_weight_scales_the_gradient_and_not_the_value(form: Literal["decay", "norm"]) -> None:
    network = random_resnet()
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    small, value = Sparsity(weight=0.1, form=form).gradient(Magnitude(), groups, trainable(network))
    large, same = Sparsity(weight=0.4, form=form).gradient(Magnitude(), groups, trainable(network))
    assert value == same > 0
    for name, gradient in small.items():
        torch.testing.assert_close(large[name], 4 * gradient)
    assert float(small["conv1.weight"].norm()) > 0


@pytest.mark.parametrize("form", ["decay", "norm"])
def test_the_gradient_leaves_the_parameters_and_their_gradients_alone(
    form: Literal["decay", "norm"],
) -> None:
    network, groups = two_convolutions()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found, value = Sparsity(form=form).gradient(
        Magnitude(), groups, dict(network.named_parameters())
    )
    assert not value.requires_grad and not any(
        gradient.requires_grad for gradient in found.values()
    )
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("setting", [{"weight": -0.1}, {"alpha": -1.0}])
def test_negative_sparsity_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        Sparsity(**setting)
