"""Meta-evaluation: how far networks can be pruned after each epoch (paper, D.1.1)."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from metaprune_pl.data import DataModelZoo
from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks import save_metanetwork
from metaprune_pl.pipelines.curve import CurveSettings, curve
from metaprune_pl.pruning import Importance, Magnitude, PruningSettings
from metaprune_pl.reports import write_json
from metaprune_pl.runs.context import Context
from metaprune_pl.stages import MetaTraining
from metaprune_pl.stages.training_settings import FinetuneSettings


class MetaEvaluation(Callback):
    """Rewrites networks, finetunes them, and prunes until accuracy falls below a threshold.

    The mean speed-up that is reached is logged as `meta_eval/speed_up` and written to
    `meta_evaluation/epoch_NNN/result.json` in the run's folder, the curves beside it. Name it among
    `trainer.callbacks`; several devices share the networks.

    Args:
        networks: Folders of stored networks that the metanetwork is not trained on.
        threshold: Validation accuracy to keep.
        every: Epochs between evaluations.
        finetune: Finetuning after the metanetwork.
        criterion: Which channels matter.
        pruning: Steps and floors.
        grid: Points at which the accuracy is measured; the last is the largest speed-up that can be
            found.

    Raises:
        ConfigError: There are no networks, the threshold is no share, or `every` is below 1.
    """

    def __init__(
        self,
        *,
        networks: list[str],
        threshold: float,
        every: int = 1,
        finetune: FinetuneSettings = FinetuneSettings(),  # noqa: B008  (frozen)
        criterion: Importance = Magnitude(),  # noqa: B008  (frozen)
        pruning: PruningSettings = PruningSettings(),  # noqa: B008  (frozen)
        grid: CurveSettings = CurveSettings(),  # noqa: B008  (frozen)
    ) -> None:
        if not networks or not 0 < threshold < 1 or every < 1:
            raise ConfigError(
                "MetaEvaluation: name networks, a threshold such as 0.925, and every at least 1."
            )
        if grid.split != "validation":
            raise ConfigError(
                f"MetaEvaluation is by validation images: set grid.split, which is {grid.split}."
            )
        self.networks, self.threshold, self.every, self.grid = networks, threshold, every, grid
        self.finetune, self.criterion, self.pruning = finetune, criterion, pruning

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate this device's share of the networks, and log the mean over all."""
        epoch = trainer.current_epoch + 1
        rehearsal = trainer.fast_dev_run  # type: ignore[attr-defined]
        if not isinstance(pl_module, MetaTraining) or rehearsal or epoch % self.every:
            return
        folder = Path(trainer.default_root_dir) / "meta_evaluation" / f"epoch_{epoch:03d}"
        own = self.networks[trainer.global_rank :: trainer.world_size]
        found = torch.tensor(
            self._speed_ups(trainer, pl_module, folder, own), device=pl_module.device
        )
        total = trainer.strategy.reduce(found.sum(), reduce_op="sum")
        speed_up = float(total) / len(self.networks)
        pl_module.log("meta_eval/speed_up", speed_up, sync_dist=True)
        if trainer.is_global_zero:
            write_json(
                folder / "result.json",
                {"epoch": epoch, "threshold": self.threshold, "speed_up": speed_up},
            )

    def _speed_ups(
        self, trainer: Trainer, training: MetaTraining, folder: Path, networks: Sequence[str]
    ) -> list[float]:
        zoo = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(zoo, DataModelZoo)
        speed_ups = []
        for network in networks:
            name = (
                Path(network).name if Path(network).name != "network" else Path(network).parent.name
            )
            context = Context(
                folder=folder / name,
                device=training.device,
                make_trainer=trainer.for_device,  # type: ignore[attr-defined]
            )
            save_metanetwork(
                context.folder / "metanetwork",
                training.metanetwork,
                {"epoch": trainer.current_epoch + 1},
            )
            drawn = curve(
                context,
                copy.copy(zoo.images),
                grid=self.grid,
                network=network,
                metanetwork=str(context.folder / "metanetwork"),
                criterion=self.criterion,
                pruning=self.pruning,
                finetune=self.finetune,
            )
            speed_ups.append(drawn.reach_above(self.threshold))
        return speed_ups
