"""The gradient after some inner steps is that of the adapted weights, by another route."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad

from helpers import random_resnet
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkCard, NetworkSettings, save_network
from metaprune_pl.stages.objectives import Adapted, Rewritten, load_data_model


@pytest.fixture
def rewritten(tmp_path: Path) -> Rewritten:
    settings = NetworkSettings(builder="cifar_resnet", arguments={"depth": 8, "width": 4})
    card = NetworkCard(settings=settings, input_shape=(3, 8, 8))
    save_network(tmp_path / "net", random_resnet(8, 4), card)
    model = load_data_model(tmp_path / "net", "train", torch.device("cpu"))
    model.network.double()
    model = model.to(torch.device("cpu"))  # reads its state anew
    state = {n: v.double() if v.is_floating_point() else v for n, v in model.state.items()}
    model = replace(model, state=state)
    leaves = {n: v.detach().double().clone() for n, v in model.network.named_parameters()}
    return Rewritten(model, {name: value.requires_grad_() for name, value in leaves.items()})


def test_the_gradient_is_that_of_the_adapted_weights(rewritten: Rewritten) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(8, 3, 8, 8).double(), torch.randint(10, (8,))) for _ in range(4)]

    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        state = {n: v.clone() for n, v in rewritten.model.state.items() if n not in weights}
        network = rewritten.model.network
        return F.cross_entropy(functional_call(network, {**state, **weights}, (images,)), labels)

    weights = {name: value.detach() for name, value in rewritten.leaves.items()}
    for batch in batches[:2]:
        own = grad(loss)(weights, *batch)
        weights = {name: value - 0.1 * own[name] for name, value in weights.items()}
    expected = [grad(loss)(weights, *batch) for batch in batches[2:]]

    before = {name: value.detach().clone() for name, value in rewritten.leaves.items()}
    term = Adapted(steps=2, lr=0.1).start(rewritten)
    for batch in batches:
        term.add(*batch)
    gradient, value = term.result()
    for name, found in gradient.items():
        mean = (expected[0][name] + expected[1][name]) / 2
        torch.testing.assert_close(found, mean, rtol=1e-9, atol=1e-9)
        assert torch.equal(rewritten.leaves[name], before[name])
    by_hand = torch.stack([loss(weights, *batch) for batch in batches[2:]]).mean()
    torch.testing.assert_close(value, by_hand)


def test_steps_leave_something_to_judge_by(rewritten: Rewritten) -> None:
    term = Adapted(steps=1).start(rewritten)
    term.add(torch.randn(4, 3, 8, 8).double(), torch.randint(10, (4,)))
    with pytest.raises(ConfigError, match="no micro-batches after its steps"):
        term.result()
    for wrong in ({"steps": 0}, {"lr": 0.0}, {"lr": float("inf")}):
        with pytest.raises(ConfigError, match="Adapted"):
            Adapted(**wrong)  # type: ignore[arg-type]
