from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from helpers import random_resnet, relative_error
from metaprune_pl.data import MetaBatch
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.networks import NetworkCard, NetworkSettings, save_network
from metaprune_pl.pruning import Magnitude, Sparsity
from metaprune_pl.stages import MetaTraining, OptimizerSettings
from metaprune_pl.stages.objectives import (
    Accuracy,
    BatchNormMode,
    Budgeted,
    DataModel,
    MeanLoss,
    Rewritten,
    load_data_model,
)

CPU = torch.device("cpu")
Form = Literal["decay", "norm"]


class _Bare(MetaTraining):
    """Meta-training without a trainer around it: plain backward passes, and nothing is logged."""

    def __init__(self, **options: Any) -> None:
        super().__init__(optimizer=OptimizerSettings(lr=1e-3), **options)
        self.plain = torch.optim.SGD(self.metanetwork.parameters(), lr=0.0)
        self.backward_passes = 0

    def optimizers(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.backward_passes += 1
        loss.backward()

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass


def data_model(folder: Path, batch_norm: BatchNormMode) -> DataModel:
    """Store a tiny network and load it in double precision."""
    settings = NetworkSettings(
        arguments={"depth": 8, "width": 4, "num_classes": 10, "in_channels": 3}
    )
    save_network(folder, random_resnet(), NetworkCard(settings=settings, input_shape=(3, 8, 8)))
    model = load_data_model(folder, batch_norm, CPU)
    state = {
        name: value.double() if value.is_floating_point() else value
        for name, value in model.state.items()
    }
    return DataModel(model.network.double(), model.graph, model.groups, state)


def metanetwork() -> PNAMetanetwork:
    result = PNAMetanetwork(layers=2, hidden=6, node_ratio=0.1, edge_ratio=0.1).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return result


def micro_batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 4, 3, 8, 8, generator=generator, dtype=torch.float64)
    return list(zip(images, torch.randint(10, (count, 4), generator=generator), strict=True))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


def accuracy_gradient(
    model: DataModel, leaves: dict[str, Tensor], images: Tensor, labels: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy of a micro-batch, and its gradient for the new weights."""
    term = Accuracy().start(Rewritten(model, leaves))
    term.add(images, labels)
    gradient, loss = term.result()
    return loss, gradient


def authors_gradient(
    net: PNAMetanetwork, model: DataModel, batches: list[tuple[Tensor, Tensor]], sparsity: Sparsity
) -> dict[str, Tensor]:
    """One backward pass for each micro-batch, averaged, and one for the sparsity gradient."""
    net.zero_grad()
    new = net.rewrite(model.graph, model.state)
    for images, labels in batches:
        state = {
            name: value if value.requires_grad else value.clone() for name, value in new.items()
        }
        loss = F.cross_entropy(functional_call(model.network, state, (images,)), labels)
        (loss / len(batches)).backward(retain_graph=True)
    names = [name for name, _ in model.network.named_parameters()]
    sparse, _ = sparsity.gradient(
        Magnitude(), model.groups, {name: new[name].detach() for name in names}
    )
    torch.stack(
        [(new[name] * gradient).sum() for name, gradient in sparse.items()]
    ).sum().backward()
    return gradients(net)


def our_gradient(
    net: PNAMetanetwork,
    model: DataModel,
    batches: list[tuple[Tensor, Tensor]],
    sparsity: Sparsity | None,
    **options: Any,
) -> dict[str, Tensor]:
    options |= {} if sparsity is None else {"sparsity": sparsity}
    stage = _Bare(metanetwork=net, **options)
    stage.data_models = [model]
    for number, (images, labels) in enumerate(batches):
        last = number == len(batches) - 1
        stage.training_step(
            MetaBatch(images, labels, torch.zeros(4, 3), models=(0,), part=0, last=last), number
        )
    assert stage.backward_passes == 1
    return gradients(net)


@pytest.mark.parametrize("form", ["decay", "norm"])
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_one_backward_pass_gives_the_gradient_of_one_for_each_micro_batch(
    tmp_path: Path, batch_norm: BatchNormMode, form: Form
) -> None:
    model, sparsity = data_model(tmp_path / "network", batch_norm), Sparsity(weight=0.5, form=form)
    before = {name: value.clone() for name, value in model.state.items()}
    expected = authors_gradient(metanetwork(), model, micro_batches(), sparsity)
    found = our_gradient(metanetwork(), model, micro_batches(), sparsity)
    for name, gradient in expected.items():
        assert float(gradient.norm()) > 0, name
        assert relative_error(found[name], gradient) < 1e-9, name
    assert all(
        torch.equal(before[name], value) for name, value in model.state.items()
    )  # running statistics, too


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_the_budgeted_objective_too(tmp_path: Path, batch_norm: BatchNormMode) -> None:
    model, objective = data_model(tmp_path / "network", batch_norm), Budgeted(max_speed_up=3.0)
    net = metanetwork()
    net.zero_grad()
    new = net.rewrite(model.graph, model.state)
    leaves = {name: new[name] for name, _ in model.network.named_parameters()}
    torch.manual_seed(3)
    term = objective.start(Rewritten(model, leaves))
    assert isinstance(term, MeanLoss)
    for batch in micro_batches():
        (term.loss(*batch) / 3).backward(retain_graph=True)
    expected = gradients(net)
    net = metanetwork()
    torch.manual_seed(3)
    found = our_gradient(net, model, micro_batches(), None, objectives=[objective])
    for name, gradient in expected.items():
        assert float(gradient.norm()) > 0, name
        assert relative_error(found[name], gradient) < 1e-9, name


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_the_parts_add_up_by_hand(tmp_path: Path, batch_norm: BatchNormMode) -> None:
    # the vector on the new weights: mean of the micro-batches' gradients, plus the sparsity
    # gradient
    model, sparsity, net = (
        data_model(tmp_path / "network", batch_norm),
        Sparsity(weight=0.5),
        metanetwork(),
    )
    new = net.rewrite(model.graph, model.state)
    names = [name for name, _ in model.network.named_parameters()]
    leaves = {name: new[name].detach().clone().requires_grad_() for name in names}
    parts = [accuracy_gradient(model, leaves, *batch)[1] for batch in micro_batches()]
    sparse, _ = sparsity.gradient(Magnitude(), model.groups, leaves)
    vector = [sum(p[name] for p in parts) / 3 + sparse.get(name, 0.0) for name in names]
    torch.autograd.backward([new[name] for name in names], vector)
    expected, found = gradients(net), our_gradient(metanetwork(), model, micro_batches(), sparsity)
    assert all(relative_error(found[name], gradient) < 1e-9 for name, gradient in expected.items())


def test_the_next_big_batch_starts_from_the_new_metanetwork_and_its_own_data_model(
    tmp_path: Path,
) -> None:
    models = [data_model(tmp_path / "a", "eval"), data_model(tmp_path / "b", "train")]
    sparsity = Sparsity(weight=0.5)
    stage = _Bare(metanetwork=metanetwork(), sparsity=sparsity)
    stage.data_models = models
    stage.plain.param_groups[0]["lr"] = 0.1
    for step, model in enumerate(models):
        fresh = metanetwork()
        fresh.load_state_dict(stage.metanetwork.state_dict())
        expected = authors_gradient(fresh, model, micro_batches(), sparsity)
        for number, (images, labels) in enumerate(micro_batches()):
            stage.training_step(
                MetaBatch(images, labels, torch.rand(4, 3), (step,), 0, last=number == 2), number
            )
        found = gradients(stage.metanetwork)
        assert all(
            relative_error(found[name], gradient) < 1e-9 for name, gradient in expected.items()
        )
        moved = [
            relative_error(p, q)
            for p, q in zip(stage.metanetwork.parameters(), fresh.parameters(), strict=True)
        ]
        assert max(moved) > 1e-6


def test_two_data_models_in_a_step_give_the_mean_of_their_gradients_in_one_backward_pass(
    tmp_path: Path,
) -> None:
    models = [data_model(tmp_path / "a", "eval"), data_model(tmp_path / "b", "train")]
    sparsity, stage = (
        Sparsity(weight=0.5),
        _Bare(metanetwork=metanetwork(), sparsity=Sparsity(weight=0.5)),
    )
    stage.data_models = list(models)
    order = [(part, *batch) for part in range(2) for batch in micro_batches()]
    for number, (part, images, labels) in enumerate(order):
        last = number == len(order) - 1
        stage.training_step(
            MetaBatch(images, labels, torch.rand(4, 3), models=(1, 0), part=part, last=last), number
        )
    assert stage.backward_passes == 1
    found = gradients(stage.metanetwork)
    alone = [authors_gradient(metanetwork(), model, micro_batches(), sparsity) for model in models]
    for name, gradient in found.items():
        assert relative_error(gradient, (alone[0][name] + alone[1][name]) / 2) < 1e-9, name
        assert relative_error(alone[0][name], alone[1][name]) > 1e-6, name


def test_the_batch_norm_mode_and_the_sparsity_term_matter(tmp_path: Path) -> None:
    models = {
        "eval": data_model(tmp_path / "a", "eval"),
        "train": data_model(tmp_path / "b", "train"),
    }
    results = [
        our_gradient(metanetwork(), models[mode], micro_batches(), Sparsity(weight=weight))
        for mode, weight in (("eval", 0.5), ("train", 0.5), ("eval", 0.0))
    ]
    name = "coding.edge_decoders.9.last.weight"
    for other in results[1:]:
        assert relative_error(other[name], results[0][name]) > 1e-3


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_batch_norms_are_in_the_mode_asked_for_and_all_else_evaluates(
    tmp_path: Path, batch_norm: BatchNormMode
) -> None:
    model = data_model(tmp_path / "network", batch_norm)
    modes = {isinstance(m, nn.BatchNorm2d): m.training for m in model.network.modules()}
    assert modes == {True: batch_norm == "train", False: False}


def test_the_accuracy_gradient_is_that_of_the_mean_cross_entropy(tmp_path: Path) -> None:
    model = data_model(tmp_path / "network", "eval")
    (images, labels) = micro_batches(1)[0]
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in model.network.named_parameters()
    }
    loss, found = accuracy_gradient(model, leaves, images, labels)
    expected = F.cross_entropy(model.network(images), labels)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, parameter in model.network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_channels_last_gives_the_same_gradient(tmp_path: Path) -> None:
    model, net = data_model(tmp_path / "network", "train"), metanetwork()
    expected = our_gradient(net, model, micro_batches(), Sparsity(weight=0.5))
    found = our_gradient(
        metanetwork(), model, micro_batches(), Sparsity(weight=0.5), channels_last=True
    )
    assert all(relative_error(found[name], gradient) < 1e-9 for name, gradient in expected.items())


def test_a_compiled_data_model_gives_the_same_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []

    def compiler(
        graph: torch.fx.GraphModule, inputs: list[Tensor]
    ) -> Any:  # none: what was traced, as it is
        called.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compiler))
    model = data_model(tmp_path / "network", "train")
    expected = our_gradient(metanetwork(), model, micro_batches(), Sparsity(weight=0.5))
    assert not called
    found = our_gradient(metanetwork(), model, micro_batches(), Sparsity(weight=0.5), compiled=True)
    assert len(called) == 1
    assert all(relative_error(found[name], gradient) < 1e-9 for name, gradient in expected.items())


def test_mixed_precision_is_for_the_data_model_and_not_for_the_metanetwork(tmp_path: Path) -> None:
    model = data_model(tmp_path / "network", "eval")
    model = DataModel(
        model.network.float(),
        model.graph,
        model.groups,
        {n: v.float() for n, v in model.state.items()},
    )
    stage = _Bare(metanetwork=metanetwork().float())
    expected = stage.new_weights([model])[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = stage.new_weights([model])[0]
        images, labels = micro_batches(1)[0]
        loss, gradient = accuracy_gradient(model, found, images.float(), labels)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.isfinite(loss) and {g.dtype for g in gradient.values()} == {torch.float32}
