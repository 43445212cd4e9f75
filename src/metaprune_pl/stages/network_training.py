"""What all trainings of one network share: its optimiser, and where the result goes."""

from pathlib import Path
from typing import Any

from torch import nn

from metaprune_pl.networks import NetworkCard, save_network
from metaprune_pl.stages.stage import Stage


class NetworkTraining(Stage):
    """Trains `self.network` and stores it, with `self.card`, as `network` in the run folder."""

    network: nn.Module
    card: NetworkCard

    def configure_optimizers(self) -> Any:
        """Lightning's hook."""
        return self.configure(self.network.parameters())

    def on_fit_end(self) -> None:
        """Store the network, unless the user stopped the run early."""
        trainer = self.trainer
        trial_run = trainer.fast_dev_run  # type: ignore[attr-defined]
        interrupted = trainer.interrupted
        if trainer.is_global_zero and not trial_run and not interrupted:
            folder = Path(trainer.default_root_dir) / "network"
            save_network(folder, self.network, self.card.without_accuracies())
