"""Train the metanetwork: accuracy of the rewritten network plus sparsity of its pruning groups (paper, 4.2)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from metaprune_pl.data import DataModelZoo, MetaBatch
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph
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

    def to(self, device: torch.device) -> "DataModel":
        """Move the weights to a device."""
        network = self.network.to(device)
        return replace(self, network=network, state={n: value.detach() for n, value in own_state(network).items()})


def load_data_model(
    folder: Path, batch_norm: BatchNormMode, device: torch.device, attention: AttentionUnits = "width"
) -> DataModel:
    """Load a stored network and find its graph and pruning groups."""
    network, card = load_network(folder), read_card(folder)
    groups = prunable_groups(network, torch.zeros(1, *card.input_shape), attention)
    for module in network.modules():
        if isinstance(module, _BATCH_NORMS):
            module.train(batch_norm == "train")
    return DataModel(network, groups.graph, groups, {}).to(device)


def accuracy_gradient(
    model: DataModel, leaves: dict[str, Tensor], images: Tensor, labels: Tensor,
    call: Callable[..., Tensor] = functional_call,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Mean cross-entropy of a network with given weights, and its gradient for them.

    Args:
        model: Architecture and buffers; its running statistics stay as they are.
        leaves: New weights by name, each a leaf that requires a gradient.
        images: [B, C, H, W].
        labels: [B].
        call: `functional_call`, or the same compiled.
    """
    buffers = {name: value.clone() for name, value in model.state.items() if name not in leaves}
    loss = F.cross_entropy(call(model.network, {**buffers, **leaves}, (images,), tie_weights=False), labels)
    return loss.detach(), list(torch.autograd.grad(loss, list(leaves.values())))


class MetaTraining(LightningModule):
    """Meta-training with one backward pass through the metanetwork per big batch.

    The metanetwork's forward pass gives new weights, which are cut off as leaves; each micro-batch adds the gradient of
    its cross-entropy to them by plain autograd; the sparsity gradient is added at the end; and one backward pass takes
    the sum into the metanetwork. That equals one backward pass per micro-batch, and several devices exchange gradients
    once in a step. One data model at a time is in a device's memory. With a mixed `trainer.precision` data models run
    in it, and the metanetwork in float32. The metanetwork is stored after every epoch as
    `metanetworks/epoch_NNN` in the run's folder.

    Args:
        metanetwork: What is trained.
        optimizer: Optimiser and learning rate.
        sparsity: The sparsity term; its weight is relative to the mean cross-entropy of a big batch.
        criterion: The pruning criterion to make networks easy for.
        batch_norm: Mode of the data models' batch norms in the accuracy loss: statistics of the batch (`train`) or the
            data model's running ones (`eval`, as in the authors' code).
        attention: What goes together in attention: as in the pruning that follows.
        clip: Largest norm of the metanetwork's gradient; 0 is none.
        channels_last: Memory layout of the images: faster on GPUs with tensor cores, and on most CPUs.
        compiled: Run the data models through `torch.compile` in the accuracy loss: the first step takes minutes, the
            others less. Architectures are compiled one by one.
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
        self._call: Callable[..., Tensor] = torch.compile(functional_call) if compiled else functional_call
        self.data_models: list[DataModel] = []
        self._leaves: dict[str, Tensor] = {}
        self._gradient: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._validated: dict[str, Tensor] = {}
        self._on_device, self._step_begins = 0, True

    def setup(self, stage: str) -> None:
        """Load the data models."""
        zoo = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(zoo, DataModelZoo):
            raise ConfigError("MetaTraining needs data models: set data to DataModelZoo.")
        if not self.data_models:
            self.data_models = [
                load_data_model(path, self.batch_norm, torch.device("cpu"), self.attention) for path in zoo.models
            ]

    def _take(self, number: int) -> DataModel:
        """Bring a data model to the device, and the one that is there back to the host."""
        if number != self._on_device:
            self.data_models[self._on_device] = self.data_models[self._on_device].to(torch.device("cpu"))
        model = self.data_models[number]
        if next(model.network.parameters()).device != self.device:
            model = self.data_models[number] = model.to(self.device)
        self._on_device = number
        return model

    def training_step(self, batch: MetaBatch, batch_idx: int) -> None:
        """Take in one micro-batch, and step at the end of the big batch."""
        model = self._take(batch.model)
        if not self._leaves:
            self._leaves = {name: value.requires_grad_() for name, value in self.new_weights(model).items()}
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        images = batch.images.contiguous(memory_format=layout)
        loss, gradient = accuracy_gradient(model, self._leaves, images, batch.labels, self._call)
        self._losses.append(loss)
        if self._gradient:
            torch._foreach_add_(self._gradient, gradient)
        else:
            self._gradient = [own.clone() for own in gradient]  # autograd may give two parameters the same tensor
        if batch.last:
            self._finish(model, batch.share, batch.step)

    @torch.no_grad()
    def new_weights(self, model: DataModel) -> dict[str, Tensor]:
        """Return the trainable parameters in the graph as the metanetwork rewrites them, cut off from it."""
        with self._in_full_precision():
            new = self.metanetwork.rewrite(model.graph, model.state)
        trainable = {name for name, _ in model.network.named_parameters()} & set(model.graph.parameters)
        return {name: value.detach().clone() for name, value in new.items() if name in trainable}

    def _finish(self, model: DataModel, share: float, step: bool) -> None:
        """Take the gradient of a data model's part into the metanetwork, and step at the end of the big batch."""
        torch._foreach_div_(self._gradient, len(self._losses))
        vector = dict(zip(self._leaves, self._gradient, strict=True))
        sparse, value = self.sparsity.gradient(self.criterion, model.groups, self._leaves)
        norms = {"accuracy": _norm(vector), "sparsity": _norm(sparse)}
        for name, gradient in sparse.items():
            vector[name] += gradient
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        if self._step_begins:
            optimizer.zero_grad()
        self._step_begins = step
        with self._in_full_precision(), self._alone(not step):
            new = self.metanetwork.rewrite(model.graph, model.state)
            products = [torch.dot(new[name].flatten(), v.flatten()) for name, v in vector.items()]
            self.manual_backward(share * torch.stack(products).sum())
        if step:
            if self.clip:
                self.clip_gradients(optimizer, self.clip, "norm")  # type: ignore[arg-type]
            optimizer.step()
        loss = torch.stack(self._losses).mean()
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        self.log("train/sparsity", value, prog_bar=True)
        for name, norm in norms.items():
            self.log(f"train/gradient_{name}", norm)
        self._leaves, self._gradient, self._losses = {}, [], []

    def _in_full_precision(self) -> AbstractContextManager[None]:
        """Run the metanetwork in float32 where the networks run in mixed precision: its changes are small."""
        return torch.autocast(self.device.type, enabled=False)

    def _alone(self, alone: bool) -> AbstractContextManager[None]:
        """Keep a backward pass from exchanging gradients with the other devices."""
        wrapped = self.trainer.strategy.model if alone else None
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def on_train_epoch_end(self) -> None:
        """Step the schedule and store the metanetwork."""
        schedule = self.lr_schedulers()
        assert schedule is not None and not isinstance(schedule, list)
        schedule.step()
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            epoch = self.current_epoch + 1
            folder = Path(self.trainer.default_root_dir) / "metanetworks" / f"epoch_{epoch:03d}"
            save_metanetwork(folder, self.metanetwork, {"epoch": epoch, "steps": self.global_step})

    def on_validation_epoch_start(self) -> None:
        """Rewrite the first data model."""
        model = self._take(0)
        self._validated = {**model.state, **self.new_weights(model)}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of the rewritten data model on the validation images, without finetuning."""
        images, labels = batch
        model = self.data_models[0]
        state = {name: value.clone() for name, value in self._validated.items()}  # batch norms write into it
        logits = functional_call(model.network, state, (images,), tie_weights=False)
        options = whole_set(self, len(labels))
        self.log("val/loss", F.cross_entropy(logits, labels), **options)
        self.log("val/accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True, **options)

    def on_validation_epoch_end(self) -> None:
        """Forget the rewritten data model."""
        self._validated = {}

    def configure_optimizers(self) -> Any:
        """Lightning's hook."""
        return self.optimizer.configure(self.metanetwork.parameters(), self.trainer.max_epochs or 1)


def _norm(gradients: dict[str, Tensor]) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()]))
    return norms
