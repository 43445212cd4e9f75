"""Meta-evaluation: how far networks can be pruned after each epoch (paper, D.1.1)."""

import copy
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from metaprune_pl.data import DataModelZoo
from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks import save_metanetwork
from metaprune_pl.pipelines.curve import curve
from metaprune_pl.pruning import Importance, Magnitude, PruningSettings
from metaprune_pl.pruning.recovery import Statistics
from metaprune_pl.reports import Curve, write_json
from metaprune_pl.reports.choice import Shape
from metaprune_pl.reports.tensorboard import log_epochs
from metaprune_pl.runs.context import Context
from metaprune_pl.stages import MetaTraining
from metaprune_pl.stages.curve_points import CurveSettings
from metaprune_pl.stages.trainer import StageTrainer
from metaprune_pl.stages.training_settings import FinetuneSettings

MEASURES = ("speed_up", "accuracy", "flat_region", "area")
"""What is logged of an epoch, as `meta_eval/NAME`: means over the networks."""


class MetaEvaluation(Callback):
    """Rewrites networks, finetunes them, and prunes until accuracy falls below a threshold.

    The mean speed-up that is reached is logged as `meta_eval/speed_up`, with what the curves come
    to, and written to `meta_evaluation/epoch_NNN/result.json` in the run's folder, the curves
    beside it. TensorBoard has the curves of all epochs so far as a figure. Name it among
    `trainer.callbacks`; several devices finetune each network together.

    Args:
        threshold: Validation accuracy to keep.
        networks: Folders of stored networks that the metanetwork is not trained on; None is those
            that the data module keeps for the choice of the metanetwork.
        every: Epochs between evaluations.
        finetune: Finetuning after the metanetwork.
        global_batch: Images of a step of that; None is a batch of the meta-training.
        criterion: Which channels matter.
        pruning: Steps and floors.
        statistics: Images that batch-norm statistics are re-estimated on: see `Preparation`.
        grid: Points at which the accuracy is measured; the last is the largest speed-up that can be
            found.

    Raises:
        ConfigError: There are no networks, the threshold is no share, or `every` is below 1.
    """

    def __init__(
        self,
        *,
        threshold: float,
        networks: list[str] | None = None,
        every: int = 1,
        finetune: FinetuneSettings = FinetuneSettings(),  # noqa: B008  (frozen)
        global_batch: int | None = None,
        criterion: Importance = Magnitude(),  # noqa: B008  (frozen)
        pruning: PruningSettings = PruningSettings(),  # noqa: B008  (frozen)
        statistics: Statistics = "stale",
        grid: CurveSettings = CurveSettings(),  # noqa: B008  (frozen)
    ) -> None:
        if networks == [] or not 0 < threshold < 1 or min(every, global_batch or 1) < 1:
            raise ConfigError(
                "MetaEvaluation: name networks, a threshold such as 0.925, and every at least 1."
            )
        grid.check_chooses("MetaEvaluation is")
        self.networks, self.threshold, self.every, self.grid = networks, threshold, every, grid
        self.finetune, self.criterion, self.pruning = finetune, criterion, pruning
        self.statistics = statistics
        self.global_batch = global_batch

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to start without networks."""
        if isinstance(pl_module, MetaTraining) and not self._networks(trainer):
            raise ConfigError(
                "MetaEvaluation has no networks: name some, or set data.init_args.validation."
            )

    def _networks(self, trainer: Trainer) -> list[str]:
        if self.networks is not None:
            return self.networks
        zoo = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(zoo, DataModelZoo)
        return [str(path) for path in zoo.models_to_choose_by]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate all networks, and log the means over them."""
        epoch = trainer.current_epoch + 1
        rehearsal = trainer.fast_dev_run  # type: ignore[attr-defined]
        if not isinstance(pl_module, MetaTraining) or rehearsal or epoch % self.every:
            return
        folder = Path(trainer.default_root_dir) / "meta_evaluation"
        networks = self._networks(trainer)
        measured = []
        for network in networks:
            drawn = self._draw(trainer, pl_module, folder / f"epoch_{epoch:03d}", Path(network))
            shape = vars(Shape.of([drawn]))
            measured.append({"speed_up": drawn.reach_above(self.threshold), **shape})
        means = {name: fmean(values[name] for values in measured) for name in MEASURES}
        pl_module.log_dict({f"meta_eval/{name}": v for name, v in means.items()}, sync_dist=True)
        if trainer.is_global_zero:
            result = {"epoch": epoch, "threshold": self.threshold, **means}
            write_json(folder / f"epoch_{epoch:03d}" / "result.json", result)
            log_epochs(trainer.loggers, folder, epoch, self.threshold)

    def _draw(self, trainer: Trainer, training: MetaTraining, folder: Path, network: Path) -> Curve:
        """Draw the validation curve of a network after the metanetwork of now."""
        assert isinstance(trainer, StageTrainer)
        zoo = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(zoo, DataModelZoo)
        name = network.name if network.name != "network" else network.parent.name
        context = Context(
            folder=folder / name,
            device=training.device,
            make_trainer=trainer.for_inner,
            is_global_zero=trainer.is_global_zero,
            broadcast=trainer.broadcast,
            events=replace(trainer.events, is_silent=True),
        )
        metanetwork = context.folder / "metanetwork"
        record = {"epoch": trainer.current_epoch + 1}
        if context.is_global_zero:
            save_metanetwork(metanetwork, training.metanetwork, record)
        context.barrier()
        images = copy.copy(zoo.images)
        images.global_batch = self.global_batch
        return curve(
            context,
            images,
            grid=self.grid,
            network=str(network),
            metanetwork=str(metanetwork),
            criterion=self.criterion,
            pruning=self.pruning,
            finetune=self.finetune,
            statistics=self.statistics,
            repair=None,
        )
