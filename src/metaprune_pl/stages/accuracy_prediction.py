"""Train a predictor of accuracy from weights on a zoo of networks."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import KendallRankCorrCoef

from metaprune_pl.data.network_zoo import NetworkZoo, ZooBatch
from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks import ScalePredictor, save_metanetwork
from metaprune_pl.stages.checks import whole_set
from metaprune_pl.stages.optimizers import OptimizerSettings
from metaprune_pl.stages.stage import Stage


class AccuracyPrediction(Stage):
    """Fits the sigmoid of a predictor to accuracies by the mean squared error.

    The weights of the epoch with the best Kendall's tau on the validation networks are kept, and
    stored as `predictor` in the run's folder, with their tau on the networks to test on.

    Args:
        predictor: What is trained.
        optimizer: Optimiser and learning rate.
        clip: Largest norm of the gradient; 0 is none.
    """

    def __init__(
        self, *, predictor: ScalePredictor, optimizer: OptimizerSettings, clip: float = 10.0
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.optimizer = optimizer
        self.clip = clip
        self.tau = KendallRankCorrCoef()
        self.best: dict[str, Any] = {}

    @property
    def _zoo(self) -> NetworkZoo:
        zoo = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(zoo, NetworkZoo):
            raise ConfigError("AccuracyPrediction needs networks: set data to NetworkZoo.")
        return zoo

    def setup(self, stage: str) -> None:
        """Refuse data of another kind, and several devices.

        Raises:
            ConfigError: The data are no networks, or there are several devices.
        """
        assert self._zoo
        if self.trainer.world_size > 1:
            raise ConfigError("AccuracyPrediction runs on one device: set trainer.devices to 1.")

    def forward(self, batch: ZooBatch) -> Tensor:
        """Return predicted accuracies, [B]."""
        graph = self._zoo.architectures[batch.architecture].graph
        predict = torch.vmap(lambda state: self.predictor.predict(graph, state))
        result: Tensor = predict(batch.state).sigmoid()
        return result

    def training_step(self, batch: ZooBatch, batch_idx: int) -> Tensor:
        """Mean squared error."""
        loss = F.mse_loss(self(batch), batch.accuracy)
        self.watch(loss)
        self.log(
            "train/loss",
            loss.detach(),
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            batch_size=len(batch.accuracy),
        )
        return loss

    def probe(self, batch: ZooBatch) -> Tensor:
        """Predictions for a batch: see `Stage.probe`."""
        predictions: Tensor = self(batch)
        return predictions

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning's hook."""
        if self.clip:
            self.clip_gradients(optimizer, self.clip, "norm")

    def validation_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Take in networks to validate on."""
        self._evaluate("val", batch)

    def test_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Take in networks to test on."""
        self._evaluate("test", batch)

    def _evaluate(self, part: str, batch: ZooBatch) -> None:
        predicted = self(batch)
        self.tau.update(predicted, batch.accuracy)
        loss = F.mse_loss(predicted, batch.accuracy)
        self.log(f"{part}/loss", loss, **whole_set(self, len(predicted)))
        self.log(
            f"{part}/tau",
            self.tau,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
        )

    def on_train_epoch_end(self) -> None:
        """Keep the weights where they are the best so far."""
        super().on_train_epoch_end()
        tau = float(self.trainer.callback_metrics.get("val/tau", torch.tensor(math.nan)))
        known = self.best.get("tau", math.nan)
        if math.isnan(known) or tau > known:
            state = copy.deepcopy(self.predictor.state_dict())
            self.best = {"tau": tau, "epoch": self.current_epoch + 1, "state": state}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the best weights so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the best weights so far."""
        self.best = checkpoint["best"]

    def on_train_end(self) -> None:
        """Return to the best weights, test them and store them."""
        self.predictor.load_state_dict(self.best["state"])
        trial_run = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.trainer.is_global_zero and not trial_run:
            both = {"validation_tau": self.best["tau"], "test_tau": self._test_tau()}
            taus = {name: tau for name, tau in both.items() if math.isfinite(tau)}  # not of ties
            text = ", ".join(f"{name.replace('_', ' ')} {tau:.3f}" for name, tau in taus.items())
            text = text or "its tau is not known, the last epoch is kept"
            rank_zero_info(f"Best epoch {self.best['epoch']}: {text}")
            folder = Path(self.trainer.default_root_dir) / "predictor"
            save_metanetwork(folder, self.predictor, {"epoch": self.best["epoch"], **taus})

    @torch.no_grad()
    def _test_tau(self) -> float:
        """Return Kendall's tau on the networks to test on."""
        tau = KendallRankCorrCoef().to(self.device)
        for batch in self._zoo.test_dataloader():
            own = self.transfer_batch_to_device(batch, self.device, 0)
            tau.update(self(own), own.accuracy)
        value = tau.compute()
        assert isinstance(value, Tensor)
        return float(value)

    def configure_optimizers(self) -> Any:
        """Lightning's hook."""
        return self.configure(self.predictor.parameters())
