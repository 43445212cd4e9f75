"""Train data models: several networks of one kind from different seeds, side by side."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    NetworkSource,
    create_network,
    save_network,
)
from metaprune_pl.stages.accuracy import accuracies, top
from metaprune_pl.stages.checks import check_fits, check_smoothing, whole_set
from metaprune_pl.stages.optimizers import OptimizerSettings
from metaprune_pl.stages.stage import Stage
from metaprune_pl.stages.variation import Variation, scale_weights, with_drawn


class DataModelTraining(Stage):
    """Trains one network from each seed in one fit, each as if alone, on the same batches.

    At the end the networks are stored as `networks/seed_NNNN` in the run's folder.

    Args:
        network: How to build them. With weights that its library provides (`weights` or
            `pretrained` among the arguments), a seed stands for an order of the images.
        seeds: Seed of each network's initial weights.
        start: A network that all go on from, instead of `network`: a stored one, or one by name
            with a file of weights.
        optimizer: Optimiser and learning rate.
        label_smoothing: Share of the label spread over the other classes.
        vary: What the seed draws beside the initial weights; such networks are trained one by one.
        snapshots: Epochs after which the networks are stored, too, in `networks/snapshots`.

    Raises:
        ConfigError: There are no seeds, one is given twice, there is both a network to build and
            one to go on from, `label_smoothing` is no share, or an epoch is below 1.
    """

    def __init__(
        self,
        *,
        network: NetworkSettings = NetworkSettings(),  # noqa: B008  (frozen)
        seeds: list[int],
        optimizer: OptimizerSettings,
        label_smoothing: float = 0.0,
        start: NetworkSource | None = None,
        vary: Variation | None = None,
        snapshots: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        check_smoothing(label_smoothing)
        if snapshots and min(snapshots) < 1:
            raise ConfigError(f"model.snapshots {list(snapshots)}: epochs count from 1.")
        in_range = all(0 <= seed < 2**32 for seed in seeds)
        if not seeds or not in_range or len(set(seeds)) != len(seeds):
            raise ConfigError(
                f"model.seeds {seeds}: name at least one seed, from 0 to 2^32 - 1, and each once."
            )
        if start is not None and network != NetworkSettings():
            raise ConfigError(
                "give model.network or model.start, not both: a stored network says how it is "
                "built."
            )
        self.settings = network
        self.seeds = seeds
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing
        self.start = start
        self.vary = vary
        self.snapshots = snapshots
        self.drawn: dict[str, Any] = {}
        self.reached: dict[int, float] = {}
        self.networks = nn.ModuleList()
        self.metrics = nn.ModuleDict()

    def setup(self, stage: str) -> None:
        """Build the networks for the data's sizes.

        Raises:
            ConfigError: Networks that draw settings of their own are to be trained together.
        """
        if len(self.networks):
            return
        if self.vary is not None:
            self._draw(self.vary)
        if self.start is not None:
            data = self._data
            for _ in self.seeds:
                network, card = self.start.open(
                    input_shape=data.input_shape, num_classes=data.num_classes
                )
                self.networks.append(network.train())
            self.settings = card.settings
            self._measure(check_fits(network, card, data))
            return
        self.settings = self.settings.for_data(self._data.num_classes, self._data.input_shape[0])
        for seed in self.seeds:
            network = create_network(self.settings.builder, seed=seed, **self.settings.arguments)
            scale_weights(network, self.drawn.get("gain", 1.0))
            self.networks.append(network)
        card = NetworkCard(settings=self.settings, input_shape=self._data.input_shape)
        self._measure(
            check_fits(
                self.networks[0],
                card,
                self._data,
                more_classes=True,
            )
        )

    def _draw(self, vary: Variation) -> None:
        """Take the settings that the one seed draws."""
        if len(self.seeds) > 1 or self.start is not None:
            raise ConfigError(
                "model.vary: networks with settings of their own start from model.network and are "
                "trained one by one, by `data_models` with side_by_side 1."
            )
        self.drawn = vary.draw(self.seeds[0])
        own = {name: self.drawn[name] for name in ("dropout",) if name in self.drawn}
        self.settings = replace(self.settings, arguments={**self.settings.arguments, **own})
        self.optimizer = with_drawn(self.optimizer, self.drawn)

    def _measure(self, classes: int) -> None:
        """Prepare the metrics: of all networks together, and of each."""
        for part in ("val", "test"):
            own = {str(seed): top(1, classes) for seed in self.seeds}
            self.metrics[f"{part}_each"] = nn.ModuleDict(own)
            self.metrics[part] = accuracies(classes, part)

    @property
    def images_read(self) -> int:
        """Networks that each image goes through."""
        return len(self.seeds)

    @property
    def pretrained(self) -> bool:
        """Whether all networks start from the same weights."""
        return self.start is not None or any(
            self.settings.arguments.get(key) for key in ("weights", "pretrained")
        )

    def for_seeds(self, seeds: Sequence[int]) -> "DataModelTraining":
        """Return the same training of other networks."""
        return DataModelTraining(
            network=self.settings,
            seeds=list(seeds),
            optimizer=self.optimizer,
            label_smoothing=self.label_smoothing,
            start=self.start,
            vary=self.vary,
            snapshots=self.snapshots,
        )

    @property
    def _data(self) -> ImageDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageDataModule):
            raise ConfigError("DataModelTraining needs images: set data to Digits or ImageFolder.")
        return data

    def forward(self, images: Tensor) -> Tensor:
        """Return all networks' logits, [B, C, H, W] -> [networks, B, K]."""
        return torch.stack([network(images) for network in self.networks])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Sum of the networks' losses, of which each has parameters of its own."""
        images, labels = batch
        losses = [
            F.cross_entropy(network(images), labels, label_smoothing=self.label_smoothing)
            for network in self.networks
        ]
        total = torch.stack(losses)
        self.watch(total.sum())
        self.log(
            "train/loss",
            total.detach().mean(),
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            sync_dist=True,
        )
        return total.sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on the validation images."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on the test images."""
        self._evaluate("test", batch)

    def _evaluate(self, part: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self(images)
        loss = torch.stack([F.cross_entropy(scores, labels) for scores in logits])
        self.log(f"{part}/loss", loss.mean(), **whole_set(self, len(labels)))
        both = self.metrics[part]
        each = self.metrics[f"{part}_each"]
        assert isinstance(both, MetricCollection) and isinstance(each, nn.ModuleDict)
        for (seed, metric), scores in zip(each.items(), logits, strict=True):
            assert isinstance(metric, Metric)
            metric.update(scores, labels)
            both.update(scores, labels)
            self.log(f"{part}/accuracy_seed_{seed}", metric, on_step=False, on_epoch=True)
        self.log_dict(
            both,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
        )

    def configure_optimizers(self) -> Any:
        """Lightning's hook."""
        return self.configure(self.networks.parameters())

    def on_train_epoch_end(self) -> None:
        """Note accuracies on the validation images, and store snapshots."""
        super().on_train_epoch_end()
        for seed in self.seeds:
            value = self.trainer.callback_metrics.get(f"val/accuracy_seed_{seed}")
            if value is not None:
                self.reached[seed] = float(value)
        epoch = self.current_epoch + 1
        trial_run = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if epoch in self.snapshots and self.trainer.is_global_zero and not trial_run:
            for seed, network in zip(self.seeds, self.networks, strict=True):
                self._store(f"snapshots/seed_{seed:04d}_epoch_{epoch:04d}", network, seed, epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the accuracies: a run that goes on after its last epoch measures none."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["reached"] = self.reached

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the accuracies; older checkpoints have none."""
        self.reached = checkpoint.get("reached", {})

    def on_fit_end(self) -> None:
        """Store the networks, unless the user stopped the run early."""
        trainer = self.trainer
        trial_run = trainer.fast_dev_run  # type: ignore[attr-defined]
        interrupted = trainer.interrupted
        if not trainer.is_global_zero or trial_run or interrupted:
            return
        for seed, network in zip(self.seeds, self.networks, strict=True):
            accuracy = self.reached.get(seed)
            known = {} if accuracy is None else {"validation_accuracy": accuracy}
            self._store(f"seed_{seed:04d}", network, seed, trainer.current_epoch, **known)

    def _store(self, name: str, network: nn.Module, seed: int, epochs: int, **known: float) -> None:
        record: dict[str, Any] = {"seed": seed, "epochs": epochs, **self.drawn, **known}
        shape = self._data.input_shape
        card = NetworkCard(settings=self.settings, input_shape=shape, record=record)
        save_network(Path(self.trainer.default_root_dir) / "networks" / name, network, card)
