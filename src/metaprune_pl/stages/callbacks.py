"""What our Trainer adds to every fit."""

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from metaprune_pl.data.loader import Resumable
from metaprune_pl.reports import write_json

LINE_SECONDS = 60
"""Between two lines on progress, where the output is a file."""
IMAGES_FILE = "images.json"
"""Where a fit says how many images it trained on."""


class SameEpochs(Callback):
    """Makes an epoch the same after a resume.

    The loader's order, and the generators that dropout draws from.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed from the run's seed, the epoch and the rank."""
        if isinstance(trainer.train_dataloader, Resumable):
            trainer.train_dataloader.set_epoch(trainer.current_epoch)
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        torch.manual_seed(seed * 1_000_003 + trainer.current_epoch * 1009 + trainer.global_rank)


def examples_in(batch: Any) -> int:
    """Return the number of examples in a batch: (images, labels, ...), a mapping, or a tensor."""
    if isinstance(batch, Mapping):
        return examples_in(next(iter(batch.values()), None))
    if isinstance(batch, Sequence) and batch and not isinstance(batch, str):
        parts = batch[:2][-1]
        return len(parts) if isinstance(parts, Sequence) else examples_in(parts)
    return len(batch) if isinstance(batch, Tensor) and batch.dim() else 1


class CountImages(Callback):
    """Counts training images, once for each network that they went through.

    The count is over all devices, and goes on in a resumed session.
    """

    def __init__(self) -> None:
        self.images = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a batch (images, labels, ...)."""
        networks = getattr(pl_module, "images_read", 1)
        self.images += examples_in(batch) * networks * trainer.world_size

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the number to the fit's folder."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_json(Path(trainer.default_root_dir) / IMAGES_FILE, self.images)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.images = state_dict["images"]


class ProgressLines(Callback):
    """Tells of progress in lines where the output is a file, in which a bar would not move."""

    def __init__(self) -> None:
        self.started = self.told = 0.0
        self.first = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when it was, and tell the bar how many epochs the steps take."""
        self.started = self.told = time.monotonic()
        self.first = trainer.global_step
        steps, batches = trainer.max_steps, trainer.num_training_batches
        if steps > 0 and math.isfinite(batches):
            epochs = math.ceil(steps * trainer.accumulate_grad_batches / batches)
            trainer.fit_loop.max_epochs = min(trainer.max_epochs or epochs, epochs)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a line once a minute."""
        now = time.monotonic()
        if now - self.told < LINE_SECONDS or sys.stderr.isatty() or not trainer.is_global_zero:
            return
        self.told = now
        total = trainer.estimated_stepping_batches
        done = trainer.global_step
        text = f"Training: step {done} of {total:.0f}"
        elapsed = now - self.started
        if done > self.first and math.isfinite(total):
            left = elapsed * (total - done) / (done - self.first)
            text += f", {elapsed / 60:.0f} min elapsed, about {left / 60:.0f} min left"
        sys.stderr.write(f"{text}\n")
