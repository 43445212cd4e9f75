"""A faster network in one call, of a module and its data loaders: for notebooks and scripts."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from metaprune_pl.errors import ConfigError
from metaprune_pl.notebook import prune
from metaprune_pl.pruning import count_macs, count_parameters, measure_latencies
from metaprune_pl.reports.compressed import Compressed
from metaprune_pl.stages.distillation import Distillation
from metaprune_pl.stages.quiet import quiet

Loader = Iterable[tuple[Tensor, Tensor]]
"""Batches of images [B, C, H, W], normalised, and labels [B]; it can be gone through again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compression:
    """A faster network, and what it gained.

    Attributes:
        network: In evaluation mode, on the device that it was trained on.
        result: What was measured.
    """

    network: nn.Module
    result: Compressed

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return self.result.html()

    def __repr__(self) -> str:
        """Return the same as text."""
        return f"Compression({asdict(self.result)})"


@quiet()
def compress(
    network: nn.Module,
    train: Loader,
    test: Loader,
    *,
    speed_up: float = 2.0,
    epochs: int = 10,
    lr: float = 0.03,
    **trainer: Any,
) -> Compression:
    """Prune a network, train what is left on labels and on what it said, and measure both.

    Args:
        network: Left as it is.
        train: Training images.
        test: Images that both networks are measured on.
        speed_up: Multiply-accumulates of the network over those of the result.
        epochs: Passes over the training images.
        lr: Learning rate at the start; it falls to zero.
        trainer: Settings of Lightning's Trainer, such as `accelerator="gpu"`.

    Raises:
        ConfigError: A setting makes no sense, or there are no images.
        PruningError: The speed-up is out of reach.
        TraceError: The network cannot be turned into a graph.
    """
    if epochs < 0 or not 0 < lr < float("inf"):
        raise ConfigError(f"epochs {epochs} is at least 0, and lr {lr} above 0.")
    images, _ = _first("train", train)
    _first("test", test)
    usual = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    runner = pl.Trainer(max_epochs=epochs, **{**usual, **trainer})
    device = runner.strategy.root_device
    before = copy.deepcopy(network).to(device).eval()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch.to(device), labels.to(device)) for batch, labels in train)

    pruned = prune(before, speed_up, images=batches)
    if epochs:
        runner.fit(_Taught(pruned, before, lr, train))
    after = pruned.to(device).eval()
    return Compression(network=after, result=_measured(before, after, images.to(device), test))


def _first(name: str, batches: Loader) -> tuple[Tensor, Tensor]:
    """Return the first batch.

    Raises:
        ConfigError: There is none, it is something else, or one can go through them only once.
    """
    if isinstance(batches, Iterator):
        raise ConfigError(
            f"{name}: a {type(batches).__name__} can be gone through only once. Give a list of "
            "batches, or a DataLoader."
        )
    first: Any = next(iter(batches), None)
    if first is None:
        raise ConfigError(f"{name}: there are no images.")
    parts = list(first) if isinstance(first, Sequence) else [first]
    if [isinstance(part, Tensor) for part in parts] != [True, True]:
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ConfigError(
            f"{name}: a batch is of {kinds}; give pairs of images [B, C, H, W] and labels [B]."
        )
    _check_labels(name, parts[0], parts[1])
    return parts[0], parts[1]


def _check_labels(name: str, images: Tensor, labels: Tensor) -> None:
    """Refuse labels that are not a class number for each image.

    Raises:
        ConfigError: They are of another shape or type.
    """
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ConfigError(
            f"{name}: labels of {len(images)} images are of shape {list(labels.shape)} and "
            f"{labels.dtype}; give the number of a class for each, [B], of torch.int64."
        )


def _measured(before: nn.Module, after: nn.Module, images: Tensor, test: Loader) -> Compressed:
    """Measure a network before and after, in time on as many images as a batch has."""
    example = images[:1]
    times = measure_latencies([before, after], example, len(images))
    return Compressed(
        macs=(count_macs(before, example), count_macs(after, example)),
        parameters=(count_parameters(before), count_parameters(after)),
        accuracy=(_accuracy(before, test, images.device), _accuracy(after, test, images.device)),
        times=(times[0], times[1]),
        batch=len(images),
    )


class _Taught(pl.LightningModule):
    """A network that learns from labels and from another network."""

    def __init__(self, network: nn.Module, teacher: nn.Module, lr: float, train: Loader) -> None:
        super().__init__()
        self.network = network
        self.teacher = (teacher,)  # in a tuple: it is no part of what is trained
        self.lr = lr
        self.batches: Any = train
        self.distillation = Distillation()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        logits = self.network(images)
        with torch.no_grad():
            aim = self.teacher[0](images)
        loss = self.distillation.loss(logits, aim, F.cross_entropy(logits, labels))
        self.log("loss", loss, prog_bar=True)
        return loss

    def train_dataloader(self) -> Any:
        """Return the batches; Lightning takes a list for several loaders."""
        alone = isinstance(self.batches, Sequence)
        return DataLoader(self.batches, batch_size=None) if alone else self.batches

    def on_train_start(self) -> None:
        """Train the network: Lightning keeps the mode that it was given in."""
        self.network.train()

    def configure_optimizers(self) -> Any:
        """Lightning's hook."""
        optimizer = torch.optim.SGD(self.network.parameters(), self.lr, 0.9, weight_decay=5e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        if steps < 0:  # of batches that have no length
            steps = (self.trainer.max_epochs or 1) * sum(1 for _ in self.batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@torch.inference_mode()
def _accuracy(network: nn.Module, images: Loader, device: torch.device) -> float:
    right = total = 0
    for batch, labels in images:
        _check_labels("test", batch, labels)
        right += int((network(batch.to(device)).argmax(1).cpu() == labels.cpu()).sum())
        total += len(labels)
    return right / total
