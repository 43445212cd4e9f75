"""Train the metanetwork: accuracy of the rewritten network plus sparsity of its pruning groups (paper, 4.2)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.func import functional_call

from metaprune_pl.data import DataModelZoo, MetaBatch
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph, unite, unite_states
from metaprune_pl.metanetworks import Metanetwork, save_metanetwork
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.networks.widths import own_state
from metaprune_pl.pruning import AttentionUnits, GroupNorm, PruningGroups, Sparsity, prunable_groups
from metaprune_pl.stages.finetuning import whole_set
from metaprune_pl.stages.optimizers import OptimizerSettings

BatchNormMode = Literal["train", "eval"]
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, eq=False)
class DataModel:
    """A network to learn from.

    Attributes:
        network: In evaluation mode; batch norms in the mode of the accuracy loss.
        graph: Its topology.
        groups: Its pruning groups, found once.
        state: Its parameters and buffers by name.
    """

    network: nn.Module
    graph: WeightGraph
    groups: PruningGroups
    state: dict[str, Tensor]

    @property
    def trainable(self) -> set[str]:
        """Names of the trainable parameters in the graph."""
        return {name for name, _ in self.network.named_parameters()} & set(self.graph.parameters)

    def to(self, device: torch.device) -> "DataModel":
        """Move the weights to a device."""
        network = self.network.to(device)
        return replace(
            self,
            network=network,
            state={n: value.detach() for n, value in own_state(network).items()},
        )


def load_data_model(
    folder: Path,
    batch_norm: BatchNormMode,
    device: torch.device,
    attention: AttentionUnits = "width",
) -> DataModel:
    """Load a stored network and find its graph and pruning groups."""
    network, card = load_network(folder), read_card(folder)
    groups = prunable_groups(network, torch.zeros(1, *card.input_shape), attention)
    for module in network.modules():
        if isinstance(module, _BATCH_NORMS):
            module.train(batch_norm == "train")
    return DataModel(network, groups.graph, groups, {}).to(device)


@dataclass(eq=False)
class Part:
    """What a step has of one data model so far.

    Attributes:
        model: The data model.
        leaves: Its new weights by name.
        gradient: Sum of the gradients of its micro-batches' losses for them.
        losses: Of its micro-batches.
    """

    model: DataModel
    leaves: dict[str, Tensor]
    gradient: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def add(self, loss: Tensor, gradient: list[Tensor]) -> None:
        """Take in a micro-batch."""
        self.losses.append(loss)
        if self.gradient:
            torch._foreach_add_(self.gradient, gradient)
        else:
            self.gradient = [
                own.clone() for own in gradient
            ]  # autograd may give two parameters the same tensor

    def mean(self) -> dict[str, Tensor]:
        """The gradient of the mean loss by name; what was summed up is used up."""
        torch._foreach_div_(self.gradient, len(self.losses))
        return dict(zip(self.leaves, self.gradient, strict=True))


def accuracy_gradient(
    model: DataModel,
    leaves: dict[str, Tensor],
    images: Tensor,
    labels: Tensor,
    call: Callable[..., Tensor] = functional_call,
) -> tuple[Tensor, list[Tensor]]:
    """Mean cross-entropy of a network with given weights, and its gradient for them.

    Args:
        model: Architecture and buffers; its running statistics stay as they are.
        leaves: New weights by name, each a leaf that requires a gradient.
        images: [B, C, H, W].
        labels: [B].
        call: `functional_call`, or the same compiled.
    """
    buffers = {name: value.clone() for name, value in model.state.items() if name not in leaves}
    loss = F.cross_entropy(
        call(model.network, {**buffers, **leaves}, (images,), tie_weights=False), labels
    )
    return loss.detach(), list(torch.autograd.grad(loss, list(leaves.values())))


class MetaTraining(LightningModule):
    """Meta-training with one backward pass through the metanetwork per big batch.

    The metanetwork's forward pass gives new weights, which are cut off as leaves; each micro-batch
    adds the gradient of its cross-entropy to them by plain autograd; the sparsity gradient is added
    at the end; and one backward pass takes the sum into the metanetwork. That equals one backward
    pass per micro-batch, and several devices exchange gradients once in a step. The data models
    that a device takes in a step go through the metanetwork as one graph; they alone are in its
    memory. With a mixed `trainer.precision` data models run in it, and the metanetwork in float32.
    The metanetwork is stored after every epoch as `metanetworks/epoch_NNN` in the run's folder.

    Args:
        metanetwork: What is trained.
        optimizer: Optimiser and learning rate.
        sparsity: The sparsity term; its weight is relative to the mean cross-entropy of a big
            batch.
        criterion: The pruning criterion to make networks easy for.
        batch_norm: Mode of the data models' batch norms in the accuracy loss: statistics of the
            batch (`train`) or the data model's running ones (`eval`, as in the authors' code).
        attention: What goes together in attention: as in the pruning that follows.
        clip: Largest norm of the metanetwork's gradient; 0 is none.
        channels_last: Memory layout of the images: faster on GPUs with tensor cores, and on most
            CPUs.
        compiled: Run the data models through `torch.compile` in the accuracy loss: the first step
            takes minutes, the others less. Architectures are compiled one by one.
    """

    def __init__(
        self,
        *,
        metanetwork: Metanetwork,
        optimizer: OptimizerSettings,
        sparsity: Sparsity = Sparsity(),  # noqa: B008  (frozen)
        criterion: GroupNorm = GroupNorm(),  # noqa: B008  (frozen)
        batch_norm: BatchNormMode = "eval",
        attention: AttentionUnits = "width",
        clip: float = 0.0,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.metanetwork = metanetwork
        self.optimizer, self.sparsity, self.criterion = optimizer, sparsity, criterion
        self.batch_norm, self.attention, self.clip = batch_norm, attention, clip
        self.channels_last = channels_last
        self._call: Callable[..., Tensor] = (
            torch.compile(functional_call) if compiled else functional_call
        )
        self.data_models: list[DataModel] = []
        self._parts: list[Part] = []
        self._validated: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Load the data models."""
        zoo = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(zoo, DataModelZoo):
            raise ConfigError("MetaTraining needs data models: set data to DataModelZoo.")
        if not self.data_models:
            self.data_models = [
                load_data_model(path, self.batch_norm, torch.device("cpu"), self.attention)
                for path in zoo.models
            ]

    def _take(self, numbers: Sequence[int]) -> list[DataModel]:
        """Bring data models to the device, and all others back to the host."""
        for number, model in enumerate(self.data_models):
            place = self.device if number in numbers else torch.device("cpu")
            if next(model.network.parameters()).device != place:
                self.data_models[number] = model.to(place)
        return [self.data_models[number] for number in numbers]

    def training_step(self, batch: MetaBatch, batch_idx: int) -> None:
        """Take in one micro-batch, and step at the end of the big batch."""
        if not self._parts:
            models = self._take(batch.models)
            self._parts = [
                Part(model, new)
                for model, new in zip(models, self.new_weights(models), strict=True)
            ]
        part = self._parts[batch.part]
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        images = batch.images.contiguous(memory_format=layout)
        part.add(*accuracy_gradient(part.model, part.leaves, images, batch.labels, self._call))
        if batch.last:
            self._step()
            self._parts = []

    def rewrite(self, models: Sequence[DataModel]) -> list[dict[str, Tensor]]:
        """Return the states of networks with the trainable parameters that the metanetwork gives them."""
        with torch.autocast(
            self.device.type, enabled=False
        ):  # in mixed precision, too: its changes are small
            new = self.metanetwork.rewrite(
                unite([m.graph for m in models]), unite_states([m.state for m in models])
            )
        return [
            {name: new[f"{i}.{name}"] for name in model.state} for i, model in enumerate(models)
        ]

    @torch.no_grad()
    def new_weights(self, models: Sequence[DataModel]) -> list[dict[str, Tensor]]:
        """Return the trainable parameters as the metanetwork rewrites them, cut off from it as leaves."""
        return [
            {
                name: value.detach().clone().requires_grad_()
                for name, value in new.items()
                if name in model.trainable
            }
            for model, new in zip(models, self.rewrite(models), strict=True)
        ]

    def _step(self) -> None:
        """Take the gradients of all parts into the metanetwork, and step."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.zero_grad()
        products, logged = [], list[dict[str, Tensor]]()
        for part, new in zip(
            self._parts, self.rewrite([part.model for part in self._parts]), strict=True
        ):
            vector = part.mean()
            sparse, value = self.sparsity.gradient(self.criterion, part.model.groups, part.leaves)
            norms = {"gradient_accuracy": _norm(vector), "gradient_sparsity": _norm(sparse)}
            logged.append({"loss": torch.stack(part.losses).mean(), "sparsity": value, **norms})
            for name, gradient in sparse.items():
                vector[name] += gradient
            products += [torch.dot(new[name].flatten(), v.flatten()) for name, v in vector.items()]
        self.manual_backward(torch.stack(products).sum() / len(self._parts))
        if self.clip:
            self.clip_gradients(optimizer, self.clip, "norm")  # type: ignore[arg-type]
        optimizer.step()
        for name in logged[0]:
            mean = torch.stack([part[name] for part in logged]).mean()
            self.log(
                f"train/{name}",
                mean,
                prog_bar=name in ("loss", "sparsity"),
                sync_dist=name == "loss",
            )

    def on_train_epoch_end(self) -> None:
        """Step the schedule and store the metanetwork."""
        schedule = self.lr_schedulers()
        assert schedule is not None and not isinstance(schedule, list)
        schedule.step()
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            epoch = self.current_epoch + 1
            folder = Path(self.trainer.default_root_dir) / "metanetworks" / f"epoch_{epoch:03d}"
            save_metanetwork(folder, self.metanetwork, {"epoch": epoch, "steps": self.global_step})

    def on_train_end(self) -> None:
        """Tell of a metanetwork whose networks have come to guess."""
        loss = self.trainer.callback_metrics.get("train/loss")
        classes = self.trainer.datamodule.images.num_classes  # type: ignore[attr-defined]
        if loss is not None and loss > 0.95 * math.log(classes):
            rank_zero_info(
                f"Meta-training ends with a train/loss of {loss:.2f}, that of guessing among "
                f"{classes} classes: take a "
                "smaller model.init_args.sparsity.weight or optimizer.lr."
            )

    def on_validation_epoch_start(self) -> None:
        """Rewrite the first data model."""
        (model,) = self._take([0])
        self._validated = {**model.state, **self.new_weights([model])[0]}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of the rewritten data model on the validation images, without finetuning."""
        images, labels = batch
        model = self.data_models[0]
        state = {
            name: value.clone() for name, value in self._validated.items()
        }  # batch norms write into it
        logits = functional_call(model.network, state, (images,), tie_weights=False)
        options = whole_set(self, len(labels))
        self.log("val/loss", F.cross_entropy(logits, labels), **options)
        self.log(
            "val/accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True, **options
        )

    def on_validation_epoch_end(self) -> None:
        """Forget the rewritten data model."""
        self._validated = {}

    def configure_optimizers(self) -> Any:
        """Lightning's hook."""
        return self.optimizer.configure(self.metanetwork.parameters(), self.trainer.max_epochs or 1)


def _norm(gradients: dict[str, Tensor]) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()])
    )
    return norms
