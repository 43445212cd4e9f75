"""Each statistic against NumPy on a network of two layers, and a network that is left as it was."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import PlainNet, randomize
from metaprune_pl.pruning import Magnitude, prunable_groups
from metaprune_pl.pruning.statistics import (
    Statistics,
    correlation,
    effective_rank,
    loss_gradients,
    network_statistics,
    weight_matrices,
)

IMAGES, LABELS = (
    torch.randn(40, 3, generator=torch.Generator().manual_seed(1)),
    torch.arange(40) % 4,
)


class TwoLayers(nn.Module):
    """Linear 3 -> 5, batch norm, ReLU, linear 5 -> 4, on a map of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.last = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))).mean((2, 3)))


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    images = IMAGES[:, :, None, None]
    return list(zip(images.split(size), LABELS.split(size), strict=True))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return randomize(TwoLayers())


def measured(network: nn.Module, size: int = 16) -> Statistics:
    groups = prunable_groups(network, torch.zeros(1, 3, 1, 1))
    gradients, _ = loss_gradients(network, batches(size))
    state = network.state_dict()
    return network_statistics(groups, state, gradients, Magnitude(), state)


def numpy_gradients(state: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the mean cross-entropy for both weights, by hand."""
    x, y = IMAGES.double().numpy(), LABELS.numpy()
    w1, w2 = state["first.weight"][:, :, 0, 0], state["last.weight"]
    slope = state["norm.weight"] / np.sqrt(state["norm.running_var"] + 1e-5)
    normed = (x @ w1.T - state["norm.running_mean"]) * slope + state["norm.bias"]
    hidden = np.maximum(normed, 0)
    logits = hidden @ w2.T + state["last.bias"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (shares - np.eye(4)[y]) / len(y)
    return (((error @ w2) * (normed > 0) * slope).T @ x), error.T @ hidden


def numpy_rank(w: np.ndarray) -> float:
    shares = np.linalg.svd(w, compute_uv=False)
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def numpy_correlation(w: np.ndarray) -> np.ndarray:
    r = np.abs(np.corrcoef(w))
    return np.array([np.delete(row, number).mean() for number, row in enumerate(r)])


ROWS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "l1": lambda w, g: np.abs(w).sum(1),
    "l2": lambda w, g: np.sqrt((w**2).sum(1)),
    "taylor": lambda w, g: np.abs(w * g).ravel(),
    "correlation": lambda w, g: numpy_correlation(w),
    "effective_rank": lambda w, g: np.array([numpy_rank(w)]),
}


@pytest.mark.parametrize("statistic", ROWS)
def test_a_statistic_of_the_weights_is_numpy_s(statistic: str, network: nn.Module) -> None:
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    g1, g2 = numpy_gradients(state)
    found = measured(network)[statistic]
    assert list(found) == ["first", "last"]
    for layer, gradient in (("first", g1), ("last", g2)):
        weight = state[f"{layer}.weight"].reshape(gradient.shape)
        np.testing.assert_allclose(
            found[layer].numpy(), ROWS[statistic](weight, gradient), rtol=0, atol=1e-6
        )
    assert statistic != "taylor" or float(found["first"].max()) > 1e-3  # far above the tolerance


def test_norm_scales_and_group_scores_are_numpy_s(network: nn.Module) -> None:
    network.norm.weight.data[1] *= -1  # type: ignore[union-attr, operator]
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    found = measured(network)
    np.testing.assert_allclose(
        found["norm_scale"]["norm"].numpy(), np.abs(state["norm.weight"]), atol=1e-6
    )
    before, after = (state["first.weight"] ** 2).sum((1, 2, 3)), (state["last.weight"] ** 2).sum(0)
    scores = (before + state["norm.weight"] ** 2 + after) / 3
    assert list(found["group_score"]) == ["first"]
    np.testing.assert_allclose(
        found["group_score"]["first"].numpy(), scores / scores.max(), atol=1e-6
    )


def test_the_size_of_the_batches_does_not_matter(network: nn.Module) -> None:
    (few, accuracy), (many, same) = (
        loss_gradients(network, batches(40)),
        loss_gradients(network, batches(7)),
    )
    expected = (network(IMAGES[:, :, None, None]).argmax(1) == LABELS).double().mean()
    assert accuracy == same == pytest.approx(float(expected))
    for name, gradient in few.items():
        torch.testing.assert_close(many[name], gradient, rtol=0, atol=1e-6)


def test_the_network_is_left_as_it_was(network: nn.Module) -> None:
    network.train()
    network.norm.eval()  # type: ignore[union-attr, operator]
    network.last.bias.requires_grad_(False)  # type: ignore[union-attr, operator]
    weight = network.first.weight  # type: ignore[union-attr]
    weight.grad = torch.full_like(weight, 3.0)  # type: ignore[arg-type]
    before = copy.deepcopy(network)
    gradients, _ = loss_gradients(network, batches(16))
    assert set(gradients) == {name for name, _ in network.named_parameters()}
    for name, value in before.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    for module, same in zip(network.modules(), before.modules(), strict=True):
        assert module.training == same.training
    for (name, value), same in zip(network.named_parameters(), before.parameters(), strict=True):
        assert value.requires_grad == same.requires_grad
        if name == "first.weight":
            assert value.grad is not None and bool((value.grad == 3.0).all())
        else:
            assert value.grad is None


def test_grouped_and_depthwise_layers_have_a_row_for_each_channel() -> None:
    network = randomize(PlainNet())
    groups = prunable_groups(network, torch.zeros(1, 3, 8, 8))
    matrices = weight_matrices(groups.graph, network.state_dict())
    shapes = {name: tuple(matrix.shape) for name, matrix in matrices.items()}
    assert shapes == {
        "biased": (8, 27),
        "grouped": (12, 18),
        "depthwise": (12, 9),
        "hidden": (20, 48),
        "classifier": (7, 20),
    }
    for name, matrix in matrices.items():
        weight = network.get_submodule(name).weight  # type: ignore[union-attr]
        assert torch.equal(matrix, weight.detach().double().flatten(1))  # type: ignore[operator]


def test_dead_channels_give_numbers() -> None:
    matrix = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix[1], matrix[2] = 0.0, 0.1  # nothing, and a constant
    found = correlation(matrix)
    assert found[1] == found[2] == 0 and bool(found.isfinite().all())
    assert float(found[0]) == pytest.approx(abs(np.corrcoef(matrix[0], matrix[3])[0, 1]) / 3)
    assert correlation(matrix[:1]).tolist() == [0.0]
    assert effective_rank(torch.zeros(3, 5, dtype=torch.float64)).tolist() == [0.0]
    assert effective_rank(torch.eye(5, dtype=torch.float64)).item() == pytest.approx(5)


class Viewing(nn.Sequential):
    """Flattens by a view, which needs contiguous maps."""

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x).view(len(x), -1))  # type: ignore[no-any-return]


def test_a_network_that_views_its_maps_has_gradients() -> None:
    torch.manual_seed(0)
    viewing = Viewing(nn.Conv2d(1, 4, 3), nn.Linear(4 * 6 * 6, 10))
    images, labels = torch.randn(5, 1, 8, 8), torch.arange(5)
    found, _ = loss_gradients(viewing, [(images, labels)])
    nn.functional.cross_entropy(viewing(images), labels).backward()
    for name, parameter in viewing.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6)  # type: ignore[arg-type]
