"""Lightning's Trainer for the fits of a run.

Checkpoints that continue, and a fresh Trainer for each fit.
"""

import copy
import inspect
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only

from metaprune_pl.errors import ConfigError
from metaprune_pl.files import at_home
from metaprune_pl.reports.events import Events
from metaprune_pl.stages.batch_norm import SyncBatchNorms
from metaprune_pl.stages.callbacks import CountImages, ProgressLines, SameEpochs
from metaprune_pl.stages.checkpoints import WholeFileCheckpointIO

HARDWARE = (
    "accelerator",
    "devices",
    "strategy",
    "num_nodes",
    "precision",
    "sync_batchnorm",
    "enable_progress_bar",
)
"""Settings of a Trainer that the stages of an experiment take over."""


MOST_THREADS = 1024
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "32", "16", "bf16")
"""Precisions that leave weights in float32, in which networks are stored, traced and measured."""
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
    "reload_dataloaders_every_n_epochs": 0,
}
"""Settings of a Trainer that Lightning takes as they are, to the least that makes sense."""


class StageTrainer(pl.Trainer):
    """Lightning's Trainer; every setting of it is the same.

    It saves `checkpoints/last.ckpt` after each epoch and continues from it. With `fast_dev_run`
    every fit, also of a pipeline, takes a few batches, and nothing is kept.

    Args:
        threads: Threads of this process on the CPU; None leaves it to PyTorch. One is as fast as
            two for small networks on small images, and does not suffer from other processes.
        kwargs: Lightning's settings.

    Raises:
        ConfigError: A setting makes no sense.
    """

    def __init__(self, *, threads: int | None = None, **kwargs: Any) -> None:
        _check(kwargs)
        if threads is not None:
            if not 1 <= threads <= MOST_THREADS:
                raise ConfigError(f"trainer.threads is {threads}; give 1 to {MOST_THREADS}.")
            torch.set_num_threads(threads)
        if str(precision := kwargs.get("precision") or 32) not in PRECISIONS:
            raise ConfigError(
                f"trainer.precision is {precision}; networks stay in single precision: take "
                f"{', '.join(PRECISIONS[:3])}."
            )
        self._settings = {key: value for key, value in kwargs.items() if key != "callbacks"}
        self._callbacks = [copy.deepcopy(c) for c in _as_list(kwargs.get("callbacks"))]
        folder = at_home(kwargs.get("default_root_dir") or ".")
        self.events = Events.of(folder)
        if kwargs.get("logger") in (None, True):
            kwargs["logger"] = self.events.logger(folder)
        if kwargs.get("enable_checkpointing") is not False and not kwargs.get("fast_dev_run"):
            last = ModelCheckpoint(
                folder / "checkpoints",
                filename="last",
                enable_version_counter=False,
                save_on_train_epoch_end=True,
            )
            kwargs["callbacks"] = [*_as_list(kwargs.get("callbacks")), last]
        always = (SameEpochs(), CountImages(), ProgressLines())
        kwargs["callbacks"] = [*_as_list(kwargs.get("callbacks")), *always]
        if kwargs["logger"]:
            kwargs["callbacks"].append(LearningRateMonitor())
        kwargs["plugins"] = [*_as_list(kwargs.get("plugins")), WholeFileCheckpointIO()]
        sync = SyncBatchNorms()
        if kwargs.get("sync_batchnorm"):
            kwargs["plugins"].append(sync)
        kwargs["use_distributed_sampler"] = False  # our loaders shard by themselves
        super().__init__(**kwargs)
        sync.on_cpu = isinstance(self.accelerator, CPUAccelerator)
        self._rehearsal = (
            tempfile.TemporaryDirectory() if kwargs.get("fast_dev_run") else None
        )  # nothing is kept

    @property
    def hardware(self) -> dict[str, Any]:
        """Settings of where and how precisely it computes, as far as they were chosen."""
        defaults = inspect.signature(pl.Trainer.__init__).parameters
        chosen = {name: self._settings.get(name, defaults[name].default) for name in HARDWARE}
        return {name: value for name, value in chosen.items() if value != defaults[name].default}

    def for_stage(self, folder: Path, epochs: int | None, **changes: Any) -> Self:
        """Return a fresh Trainer with the same settings for one fit inside a pipeline."""
        settings = {
            **self._settings,
            "default_root_dir": str(folder),
            "max_epochs": epochs,
            "enable_model_summary": False,
            **changes,
        }
        other = folder != Path(self.default_root_dir) and "logger" not in changes
        if settings.get("logger") in (None, True) or other:
            settings["logger"] = self.events.logger(folder)
        if batches := int(
            settings.pop("fast_dev_run", None) or 0
        ):  # short, but the next step needs its network
            limits = dict.fromkeys(("limit_train_batches", "limit_val_batches"), batches)
            settings |= {
                **limits,
                "max_epochs": min(epochs or 1, 1),
                "logger": False,
                "enable_checkpointing": False,
            }
        trainer = type(self)(**settings, callbacks=copy.deepcopy(self._callbacks))
        trainer.events = self.events
        return trainer

    def for_inner(self, folder: Path, epochs: int | None) -> Self:
        """Return a fresh Trainer for a fit within another, on the same devices, without a log."""
        return self.for_stage(folder, epochs, max_steps=-1, enable_progress_bar=False, logger=False)

    @property
    def run_folder(self) -> Path:
        """Where a run's files go; with `fast_dev_run`, to a folder that does not outlive this."""
        folder = self._rehearsal.name if self._rehearsal else self.default_root_dir
        return Path(self.broadcast(folder))

    def join(self) -> None:
        """Start the processes of the other devices, or meet those that were started outside.

        Raises:
            ConfigError: The strategy starts them for a function and not for the whole program.
        """
        if self.world_size > 1:
            launcher = self.strategy.launcher
            if isinstance(launcher, _MultiProcessingLauncher):
                raise ConfigError(
                    "trainer.strategy: processes that begin within the program (ddp_spawn, "
                    "ddp_notebook) cannot run a command. Take ddp."
                )
            if launcher is not None:
                launcher.launch(lambda: None, trainer=self)
            self.strategy.setup_environment()

    def leave(self) -> None:
        """Part from the other processes, after the last of them is here."""
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value on every process, after that one is there."""
        return self.strategy.broadcast(value)

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = True,
    ) -> None:
        """Train; a run that was stopped continues from its last checkpoint.

        Args:
            model: What to train.
            train_dataloaders: See Lightning.
            val_dataloaders: See Lightning.
            datamodule: The data.
            ckpt_path: Checkpoint to go on from; None is `checkpoints/last.ckpt` in the run's
                folder, if there is one.
            weights_only: Checkpoints are always loaded without unpickling code.
        """
        last = Path(self.default_root_dir) / "checkpoints" / "last.ckpt"
        trial_run = self.fast_dev_run  # type: ignore[attr-defined]
        if ckpt_path is None and not trial_run and last.is_file():
            ckpt_path = last
        try:
            super().fit(
                model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only=True
            )
        except SystemExit:
            if not self.interrupted:
                raise
            sys.stderr.write(
                "Stopped. The same command continues from the last epoch that was finished.\n"
            )
            sys.exit(130)


def _check(settings: Mapping[str, Any]) -> None:
    for name, least in _LEAST.items():
        value = settings.get(name)
        if isinstance(value, int | float) and value < least:
            raise ConfigError(f"trainer.{name} is {value}; it is at least {least}.")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def is_main_process() -> bool:
    """Whether this process writes files and talks.

    Known before the processes of a fit are joined.
    """
    return int(getattr(rank_zero_only, "rank", 0)) == 0
