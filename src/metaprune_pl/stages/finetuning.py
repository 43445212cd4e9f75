"""Finetune one network, dense or pruned.

With a sparsity term it is DepGraph's sparsity learning.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkSource, load_network, read_card
from metaprune_pl.networks.widths import put_state
from metaprune_pl.pruning import AttentionUnits, Magnitude, PruningGroups, Sparsity, prunable_groups
from metaprune_pl.stages.accuracy import accuracies, accuracy
from metaprune_pl.stages.checks import check_fits, check_smoothing, whole_set
from metaprune_pl.stages.distillation import Distillation
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.opening import follow, named_as, open_for
from metaprune_pl.stages.optimizers import OptimizerSettings

Keep = Literal["last", "best"]


class Finetuning(NetworkTraining):
    """Trains a stored network further and stores the result as `network` in the run's folder.

    Zeros of masked weights (`NetworkCard.masked`) stay zero: without a gradient, momentum and
    weight decay move none.

    Args:
        network: Folder of a stored network, or a name (see `NetworkSettings.builder`).
        optimizer: Optimiser and learning rate.
        label_smoothing: Share of the label spread over the other classes.
        sparsity: Sparsity term added to the gradient; None is plain finetuning.
        criterion: Importance that the sparsity term follows.
        attention: What goes together in attention, for the sparsity term.
        arguments: Keyword arguments of the builder that is named.
        state: File of the weights of a network by name.
        teacher: Folder of a stored network whose scores this one learns from, such as the unpruned
            one; None is no distillation.
        distillation: Share and temperature of what the teacher says.
        keep: Which weights are stored: those of the `last` step, or those with the `best` accuracy
            on the validation images before the first epoch or after any, the first of equals.

    Raises:
        ConfigError: `label_smoothing` is no share.
        StorageError: There is no such network or teacher.
    """

    remedies = "optimizer.lr or sparsity.weight"

    def __init__(
        self,
        *,
        network: str,
        optimizer: OptimizerSettings,
        label_smoothing: float = 0.0,
        sparsity: Sparsity | None = None,
        criterion: Magnitude = Magnitude(),  # noqa: B008  (frozen)
        attention: AttentionUnits = "width",
        arguments: dict[str, Any] | None = None,
        state: str | None = None,
        teacher: str | None = None,
        distillation: Distillation = Distillation(),  # noqa: B008  (frozen)
        keep: Keep = "last",
    ) -> None:
        super().__init__()
        check_smoothing(label_smoothing)
        self.source = NetworkSource(network=network, arguments=arguments, state=state)
        if self.source.stored:
            self.network, self.card = self.source.open()
        self.optimizer, self.label_smoothing = optimizer, label_smoothing
        self.sparsity, self.criterion, self.attention = sparsity, criterion, attention
        self.distillation, self.keep = distillation, keep
        # in a tuple: a teacher is no part of what is trained and stored
        self.teacher = () if teacher is None else (load_network(teacher).requires_grad_(False),)
        self.teacher_card = None if teacher is None else read_card(teacher)
        self.groups: PruningGroups | None = None
        self.metrics = nn.ModuleDict()
        self.best: dict[str, Any] = {}
        self.validated_step = -1
        self.zeros: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Build a network by name, and find the pruning groups where a sparsity term needs them."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(self, "network") and isinstance(data, ImageDataModule):
            self.network, self.card = open_for(self.source, data)
        elif not hasattr(self, "network"):
            self.network, self.card = self.source.open()
        elif isinstance(data, ImageDataModule) and data.follows_network:
            follow(data, self.network, self.card)
        classes = check_fits(self.network.train(), self.card, data)
        self.card = named_as(self.card, data)
        if not self.metrics:
            self.metrics.update({part: accuracies(classes, part) for part in ("val", "test")})
        for teacher in self.teacher:
            assert self.teacher_card is not None
            if check_fits(teacher, self.teacher_card, data) != classes:
                raise ConfigError("the teacher tells other classes apart than the network.")
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            raise ConfigError(
                "the network is frozen: no parameter requires a gradient, so it cannot be trained."
            )
        if self.sparsity is not None and self.groups is None:
            example = self.card.example(next(self.network.parameters()).device)
            self.groups = prunable_groups(self.network, example, self.attention)

    def on_train_start(self) -> None:
        """Note the masks and what there is before training; bring the teacher to the device."""
        for teacher in self.teacher:
            teacher.to(self.device).eval()
        if not self.best:
            self._keep_best(0)
        self.zeros = {
            name: self.network.get_parameter(name).detach() == 0 for name in self.card.masked
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, [B, C, H, W] -> [B, K]."""
        return self.network(images)  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch, and what the teacher says of it."""
        return self.loss(self(batch[0]), batch)

    def loss(self, logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of a batch's logits, and log it."""
        images, labels = batch
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        for teacher in self.teacher:
            with torch.no_grad():
                aim = teacher(images)
            loss = self.distillation.loss(logits, aim, loss)
        self.watch(loss)
        self.log(
            "train/loss", loss.detach(), prog_bar=True, on_step=False, on_epoch=True, sync_dist=True
        )
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Add the sparsity term's gradient, and take away that of masked weights."""
        if self.sparsity is not None and self.groups is not None:
            parameters = dict(self.network.named_parameters())
            own = {
                name: parameter.grad
                for name, parameter in parameters.items()
                if parameter.grad is not None
            }
            frozen_norms = dict(self.network.named_buffers())  # their weights count, and stay
            _, value = self.sparsity.gradient(
                self.criterion, self.groups, frozen_norms | parameters, own
            )
            self.log("train/sparsity", value, on_step=False, on_epoch=True)
        for name, zeros in self.zeros.items():
            gradient = self.network.get_parameter(name).grad
            if gradient is not None:
                gradient.masked_fill_(zeros, 0.0)

    def on_train_epoch_end(self) -> None:
        """Keep the best weights so far."""
        super().on_train_epoch_end()
        self._keep_best(self.current_epoch + 1)

    def _keep_best(self, epochs: int) -> None:
        if self.keep == "best":
            reached = self._validation_accuracy()
            if reached > self.best.get("accuracy", -1.0):
                state = {name: v.detach().clone() for name, v in self.network.state_dict().items()}
                self.best = {"accuracy": reached, "state": state, "epochs": epochs}

    def _validation_accuracy(self) -> float:
        """Return the accuracy as the epoch ends, which may be before Lightning validates."""
        if self.validated_step == self.global_step:
            return float(self.trainer.callback_metrics["val/accuracy"])
        data, network = self.trainer.datamodule, self.network  # type: ignore[attr-defined]
        reached = accuracy(network, data, "validation", self.device)
        network.train()
        return reached

    def on_validation_epoch_end(self) -> None:
        """Note which weights the accuracy is of."""
        if not self.trainer.sanity_checking:
            self.validated_step = self.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the best weights so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the best weights so far; older checkpoints have none."""
        self.best = checkpoint.get("best", {})

    def on_fit_end(self) -> None:
        """Store the network with the weights that are kept."""
        if self.best:
            if self.best.get("epochs") == 0 and self.current_epoch:
                rank_zero_info(
                    "No epoch was better on the validation images than before the training: the "
                    "weights from before are kept."
                )
            put_state(self.network, self.best["state"])
        super().on_fit_end()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on the validation images."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on the test images."""
        self._evaluate("test", batch)

    def _evaluate(self, part: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self(images)
        options = whole_set(self, len(labels))
        self.log(f"{part}/loss", F.cross_entropy(logits, labels), **options)
        metrics = self.metrics[part]
        assert isinstance(metrics, MetricCollection)
        metrics.update(logits, labels)
        self.log_dict(metrics, on_epoch=True, on_step=False, prog_bar=True)
