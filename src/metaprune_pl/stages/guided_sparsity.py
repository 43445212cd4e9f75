"""Drive weights to zero where the predicted accuracy allows it: ScaleGMN as a functional."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from metaprune_pl.errors import ConfigError, TraceError, TrainingError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.metanetworks import ScalePredictor, load_metanetwork
from metaprune_pl.networks import save_network
from metaprune_pl.networks.widths import put_state
from metaprune_pl.pruning import ZeroShare
from metaprune_pl.pruning.balancing import balance as balanced
from metaprune_pl.pruning.groups import input_dimensions
from metaprune_pl.pruning.orthant import forget, smallest, split_like, stopped
from metaprune_pl.reports import write_csv
from metaprune_pl.stages.accuracy import accuracy
from metaprune_pl.stages.finetuning import Finetuning


class GuidedSparsity(Finetuning):
    """Minimises l1 |w| - guidance x predicted accuracy + cross_entropy x loss on images.

    A weight that comes to zero stays there for good. Where a share of zeros is reached, exactly,
    the network is stored as `shares/SHARE`, ready for `prune` with that share, and `guided.csv`
    tells its predicted accuracy beside the true one on the validation images. Other arguments are
    those of `Finetuning`.

    Args:
        shares: Shares of the weights of convolutions and linear layers, increasing.
        predictors: Folders of stored predictors; several are an ensemble.
        l1: Weight of the sum of absolute weights. The authors' is 1e-4.
        guidance: Weight of the predicted accuracy, between 0 and 1.
        caution: Standard deviations of an ensemble that are taken off its mean.
        cross_entropy: Weight of the loss on images; the authors' is 0.
        balance: Balance the scales of channels first: see `pruning.balancing`.

    Raises:
        ConfigError: A setting makes no sense.
        StorageError: There is no such network or predictor.
    """

    remedies = "optimizer.lr or l1"

    def __init__(
        self,
        *,
        shares: list[float],
        predictors: tuple[str, ...] = (),
        l1: float = 1e-4,
        guidance: float = 1.0,
        caution: float = 0.0,
        cross_entropy: float = 0.0,
        balance: bool = False,
        **finetuning: Any,
    ) -> None:
        super().__init__(**finetuning)
        _check(shares, predictors, l1, guidance, caution, cross_entropy)
        if self.keep != "last":
            raise ConfigError("GuidedSparsity keeps what it comes to: leave keep at 'last'.")
        self.shares = shares
        self.l1, self.guidance, self.caution = l1, guidance, caution
        self.cross_entropy, self.balance = cross_entropy, balance
        # in a tuple: predictors are no part of what is trained and stored
        self.predictors = tuple(_frozen(folder) for folder in predictors)
        self.graph: WeightGraph | None = None
        self.before: list[Tensor] = []
        self.smooth: list[Tensor] = []
        self.rows: list[dict[str, float]] = []

    @property
    def images_read(self) -> int:
        """Networks that each image goes through: none where only the prediction counts."""
        return int(self.cross_entropy > 0)

    def setup(self, stage: str) -> None:
        """Read the network's graph, and try the predictors: see `Finetuning.setup`.

        Raises:
            ConfigError: A predictor does not go with the network.
        """
        super().setup(stage)
        if self.graph is not None:
            return
        device = next(self.network.parameters()).device
        example = self.card.example(device)
        self.graph = trace(self.network.eval(), example)
        self.network.train()
        if self.balance:
            put_state(self.network, balanced(self.graph, self.network.state_dict()))
        for predictor in self.predictors:
            predictor.to(device)
        with torch.no_grad():
            self.predicted()

    @property
    def weights(self) -> list[Tensor]:
        """The weights that may become zero."""
        assert self.graph is not None
        return [self.network.get_parameter(name) for name in input_dimensions(self.graph)]

    @property
    def targets(self) -> list[int]:
        """Numbers of zeros that are wanted."""
        size = sum(weight.numel() for weight in self.weights)
        return [ZeroShare(share=share).count(size) for share in self.shares]

    def predicted(self) -> Tensor:
        """Return each predictor's accuracy of the network as it is, differentiable, [P].

        Raises:
            ConfigError: A predictor does not go with the network.
        """
        assert self.graph is not None
        state = {**dict(self.network.named_buffers()), **dict(self.network.named_parameters())}
        try:
            logits = [predictor.predict(self.graph, state) for predictor in self.predictors]
        except TraceError as error:
            raise ConfigError(f"a predictor does not go with the network: {error}") from error
        return torch.stack(logits).sigmoid() if logits else torch.zeros(1, device=self.device)

    def on_train_start(self) -> None:
        """Note the zeros, and go to the devices: see `Finetuning.on_train_start`.

        Raises:
            ConfigError: More weights are zero than are wanted, or there are several devices.
        """
        super().on_train_start()
        if self.trainer.world_size > 1:
            raise ConfigError("GuidedSparsity runs on one device: set trainer.devices to 1.")
        for predictor in self.predictors:
            predictor.to(self.device)
        self._note_zeros()
        if len(self.rows) == len(self.shares):  # killed after the last share was stored
            self.trainer.should_stop = True
        elif self._count() > self.targets[len(self.rows)]:
            raise ConfigError(
                f"{100 * self._zeros:.1f} % of the weights are zero already: raise model.shares "
                f"{self.shares}."
            )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Everything but the l1 norm."""
        predictions = self.predicted()
        loss = -self.guidance * self._cautious(predictions)
        self.log("train/predicted", predictions.detach().mean(), on_step=False, on_epoch=True)
        if self.cross_entropy:
            loss = loss + self.cross_entropy * self.loss(self(batch[0]), batch)
        self.watch(loss)
        return loss

    def _cautious(self, predictions: Tensor) -> Tensor:
        """Lower confidence bound of an ensemble."""
        if len(predictions) == 1 or not self.caution:
            return predictions.mean()
        tiny = torch.finfo(predictions.dtype).eps
        spread = (predictions.var(unbiased=False) + tiny).sqrt()
        return predictions.mean() - self.caution * spread

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Note weights and gradients, then add that of the l1 norm."""
        weights = self.weights
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        self.before = [weight.detach().clone() for weight in weights]
        self.smooth = [weight.grad.clone() for weight in weights if weight.grad is not None]
        for weight in weights:
            assert weight.grad is not None
            weight.grad.add_(weight.detach().sign(), alpha=self.l1)
        super().on_before_optimizer_step(optimizer)  # no gradient for zeros

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Take a step; weights that come to zero stay there, as many as are wanted at most."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if len(self.rows) == len(self.shares):
            return
        self._stop_at_zero(optimizer)
        while len(self.rows) < len(self.shares) and self._count() >= self.targets[len(self.rows)]:
            self._reach(self.shares[len(self.rows)])
        if len(self.rows) == len(self.shares):
            self.trainer.should_stop = True

    @torch.no_grad()
    def _stop_at_zero(self, optimizer: Any) -> None:
        weights = self.weights
        old = torch.cat([value.flatten() for value in self.before])
        new = torch.cat([weight.flatten() for weight in weights])
        gradient = torch.cat([value.flatten() for value in self.smooth])
        at_zero = stopped(old, new, gradient, self.l1)
        left = self.targets[len(self.rows)] - int((old == 0).sum())
        chosen = smallest(at_zero, old.abs(), left)
        new = torch.where(chosen, 0.0, torch.where(at_zero & ~chosen, old, new))
        for weight, value in zip(weights, split_like(new, weights), strict=True):
            weight.copy_(value)
        self._note_zeros()
        masks = zip(weights, self.zeros.values(), strict=True)
        forget(getattr(optimizer, "optimizer", optimizer), dict(masks))

    def _note_zeros(self) -> None:
        assert self.graph is not None
        names = input_dimensions(self.graph)
        zeros = [weight.detach() == 0 for weight in self.weights]
        self.zeros = dict(zip(names, zeros, strict=True))

    def _count(self) -> int:
        return sum(int(zeros.sum()) for zeros in self.zeros.values())

    @property
    def _zeros(self) -> float:
        """Share of the weights that are zero."""
        return self._count() / sum(weight.numel() for weight in self.weights)

    def _reach(self, share: float) -> None:
        """Store the network at a share of zeros, with what was predicted of it and what is true."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        with torch.no_grad():
            predictions = self.predicted()
        true = accuracy(self.network, data, "validation", self.device)
        self.network.train()
        row = {"share": share, "step": self.trainer.global_step, "validation_accuracy": true}
        if self.predictors:
            row["predicted_accuracy"] = float(predictions.mean())
            row["predicted_spread"] = float(predictions.std(unbiased=False))
        self.rows.append(row)
        said = f"predicted {100 * float(predictions.mean()):.1f} %, " if self.predictors else ""
        rank_zero_info(f"{100 * share:g} % zeros: {said}true {100 * true:.1f} % (validation)")
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            record = {**self.card.record, "method": "guided", **row}
            card = replace(self.card, record=record, masked=sorted(self.zeros))
            folder = Path(self.trainer.default_root_dir)
            save_network(folder / "shares" / f"{share:g}", self.network, card)
            write_csv(folder / "guided.csv", self.rows)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what was reached so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["rows"] = self.rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what was reached so far."""
        super().on_load_checkpoint(checkpoint)
        self.rows = checkpoint["rows"]

    def on_fit_end(self) -> None:
        """Say so where shares are missing, or store the network: see `NetworkTraining.on_fit_end`.

        Raises:
            TrainingError: The steps did not suffice.
        """
        trial_run = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if len(self.rows) < len(self.shares) and not trial_run and not self.trainer.interrupted:
            self._note_zeros()
            raise TrainingError(
                f"guided sparsity came to {100 * self._zeros:.1f} % zeros in "
                f"{self.trainer.global_step} steps, and model.shares asks for {self.shares}. Raise "
                "model.l1, optimizer.lr or trainer.max_epochs."
            )
        super().on_fit_end()


def _frozen(folder: str) -> ScalePredictor:
    predictor = load_metanetwork(folder, ScalePredictor)
    return predictor.requires_grad_(False).eval()


def _check(
    shares: Sequence[float],
    predictors: Sequence[str],
    l1: float,
    guidance: float,
    caution: float,
    cross_entropy: float,
) -> None:
    for share in shares:
        ZeroShare(share=share)
    if not shares or sorted({float(f"{share:g}") for share in shares}) != list(shares):
        raise ConfigError(
            f"model.shares {list(shares)}: give shares of zeros, increasing, of six digits at most."
        )
    numbers: Mapping[str, float] = {
        "l1": l1,
        "guidance": guidance,
        "caution": caution,
        "cross_entropy": cross_entropy,
    }
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"model.{name} is {value}: it is finite and at least 0.")
    if not l1 or (not (guidance and predictors) and not cross_entropy):
        raise ConfigError(
            "GuidedSparsity needs model.l1 above 0, and model.predictors with guidance, or "
            "cross_entropy."
        )
