"""Finetune one network, dense or pruned.

With a sparsity term it is DepGraph's sparsity learning.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkCard, NetworkSource
from metaprune_pl.pruning import AttentionUnits, Magnitude, PruningGroups, Sparsity, prunable_groups
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.optimizers import OptimizerSettings


@torch.no_grad()
def check_fits(
    network: nn.Module, card: NetworkCard, data: object, *, more_classes: bool = False
) -> None:
    """Refuse data that a network was not made for.

    Args:
        network: The network.
        card: Its card.
        data: The data.
        more_classes: Whether the network may tell more classes apart than there are.

    Raises:
        ConfigError: The data are no images, of another shape, or of other classes.
    """
    shape = "x".join(map(str, card.input_shape))
    if not isinstance(data, ImageDataModule):
        raise ConfigError(
            f"the network was made for images of {shape}; set data to a data set of such images."
        )
    if data.input_shape != card.input_shape:
        found = "x".join(map(str, data.input_shape))
        raise ConfigError(
            f"the network was made for images of {shape} and the data's are {found}; set data to "
            "a data "
            "set of such images, or the image_size of a folder's."
        )
    training, weight = network.training, next(network.parameters(), torch.zeros(()))
    image = torch.zeros(1, *card.input_shape, device=weight.device, dtype=weight.dtype)
    try:
        classes = network.eval()(image).shape[1]
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AssertionError,
        LookupError,
        AttributeError,
    ) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the network does not turn an image of {shape} into scores [1, K]: {reason}. Is "
            "it the size (image_size of the data) that the network was made for?"
        ) from error
    network.train(training)
    if classes < data.num_classes or (classes > data.num_classes and not more_classes):
        raise ConfigError(
            f"the network tells {classes} classes apart and the data have {data.num_classes}."
        )


def whole_set(module: LightningModule, count: int) -> dict[str, Any]:
    """Return options of `log` for a mean over all images of a set, of which a device has seen so many more.

    Lightning averages the devices' numbers of images as whole numbers, and rounds; multiples of the
    number of devices come out right.
    """
    return {
        "on_epoch": True,
        "on_step": False,
        "sync_dist": True,
        "batch_size": count * module.trainer.world_size,
    }


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

    Raises:
        StorageError: There is no such network.
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
    ) -> None:
        super().__init__()
        self.source = NetworkSource(network=network, arguments=arguments or {}, state=state)
        if self.source.stored:
            self.network, self.card = self.source.open()
        self.optimizer, self.label_smoothing = optimizer, label_smoothing
        self.sparsity, self.criterion, self.attention = sparsity, criterion, attention
        self.groups: PruningGroups | None = None
        self.zeros: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Build a network by name, and find the pruning groups where a sparsity term needs them."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(self, "network"):
            shape, classes = (
                (data.input_shape, data.num_classes)
                if isinstance(data, ImageDataModule)
                else (None, None)
            )
            self.network, self.card = self.source.open(input_shape=shape, num_classes=classes)
        check_fits(self.network.train(), self.card, data)
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            raise ConfigError(
                "the network is frozen: no parameter requires a gradient, so it cannot be trained."
            )
        if self.sparsity is not None and self.groups is None:
            example = torch.zeros(
                1, *self.card.input_shape, device=next(self.network.parameters()).device
            )
            self.groups = prunable_groups(self.network, example, self.attention)

    def on_train_start(self) -> None:
        """Note the masks."""
        self.zeros = {
            name: self.network.get_parameter(name).detach() == 0 for name in self.card.masked
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, [B, C, H, W] -> [B, K]."""
        return self.network(images)  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
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
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log(f"{part}/accuracy", accuracy, prog_bar=True, **options)
