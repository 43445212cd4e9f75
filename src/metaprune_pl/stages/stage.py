"""What all trainings share: their schedule, and that they stop once a number is not finite."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metaprune_pl.errors import TrainingError
from metaprune_pl.stages.optimizers import OptimizerSettings


class Stage(LightningModule):
    """Base of all trainings.

    A training stops with an error where a loss or a weight is not finite, or what the last step of
    an epoch has made of the network, before a checkpoint or a result of it is stored.
    """

    optimizer: OptimizerSettings
    remedies = "optimizer.lr"
    """Settings to lower where a training runs away."""

    _finite: Tensor | bool = True
    _last: Any = None

    def watch(self, values: Tensor) -> None:
        """Note whether all values are finite, without waiting for the device."""
        self._finite = self._finite & values.detach().isfinite().all()

    def probe(self, batch: Any) -> Tensor:
        """Return what is finite unless the training is ruined: by default scores of the images."""
        scores: Tensor = self(batch[0])
        return scores

    def check_finite(self) -> None:
        """Stop where a loss so far or a weight is not finite, all devices together.

        Raises:
            TrainingError: One is not.
        """
        values = [v for v in self.state_dict().values() if v.is_floating_point()]
        weights = torch.stack([value.isfinite().all() for value in values]).all()
        finite = bool(self._finite & weights)
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise TrainingError(
                f"{type(self).__name__} in '{self.trainer.default_root_dir}': loss or weights are "
                f"not finite in epoch {self.current_epoch + 1}. Lower {self.remedies} "
                f"(optimizer.lr is {self.optimizer.lr:g}); nothing of this epoch is kept."
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the numbers now and then."""
        self._last = batch
        if (batch_idx + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.check_finite()

    def on_train_epoch_end(self) -> None:
        """Look at the numbers, after the last step too, before callbacks store anything."""
        # All processes sum these up here: the bar of the first has asked for it before all else.
        _ = self.trainer.callback_metrics
        if self._last is not None:
            self._watch_last()
        self.check_finite()

    @torch.no_grad()
    def _watch_last(self) -> None:
        """Try the last batch after its step, with the statistics that are stored."""
        norms = [m for m in self.modules() if isinstance(m, _BatchNorm) and m.training]
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            for norm in norms:
                norm.eval()
            self.watch(self.probe(self._last))
            for norm in norms:
                norm.train()
        for buffer, value in buffers:
            buffer.copy_(value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look at the numbers before a checkpoint is written."""
        self.check_finite()

    @property
    def batches_per_step(self) -> int:
        """Batches of a device for each optimiser step."""
        return self.trainer.accumulate_grad_batches

    def schedule_length(self) -> int:
        """Return the length of the training in the schedule's unit, epochs or optimiser steps."""
        trainer = self.trainer
        unit = self.optimizer.interval
        epochs = trainer.max_epochs or 0
        if unit == "epoch" and epochs > 0 and trainer.max_steps < 0:
            return epochs
        trainer.fit_loop.setup_data()
        steps = math.ceil(trainer.num_training_batches / self.batches_per_step)
        length = steps * epochs if epochs > 0 else trainer.max_steps
        if epochs > 0 and trainer.max_steps > 0:
            length = min(length, trainer.max_steps)
        return max(1, length if unit == "step" else math.ceil(length / max(1, steps)))

    def configure(self, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
        """Return what `configure_optimizers` returns."""
        return self.optimizer.configure(parameters, self.schedule_length())
