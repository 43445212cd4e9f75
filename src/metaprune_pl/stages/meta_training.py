"""Train the metanetwork for objectives of the networks that it rewrites (paper, section 4.2)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.func import functional_call
from torchmetrics import MetricCollection

from metaprune_pl.data import DataModelZoo, MetaBatch
from metaprune_pl.data.zoo import MetaLoader
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import unite, unite_states
from metaprune_pl.metanetworks import Rewriter, save_metanetwork
from metaprune_pl.pruning import AttentionUnits, Magnitude
from metaprune_pl.pruning import Sparsity as SparsityTerm
from metaprune_pl.stages.accuracy import accuracies
from metaprune_pl.stages.checks import whole_set
from metaprune_pl.stages.objectives import (
    Accuracy,
    BatchNormMode,
    DataModel,
    Objective,
    Rewritten,
    Sparsity,
    load_data_model,
)
from metaprune_pl.stages.optimizers import OptimizerSettings
from metaprune_pl.stages.stage import Stage


class Part:
    """What a step has of one data model so far.

    Args:
        rewritten: The data model with its new weights.
        objectives: The terms of the loss.
    """

    def __init__(self, rewritten: Rewritten, objectives: Sequence[Objective]) -> None:
        self.rewritten = rewritten
        self.objectives = objectives
        self.terms = [objective.start(rewritten) for objective in objectives]

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Take in a micro-batch, images [B, C, H, W] and labels [B]."""
        for term in self.terms:
            term.add(images, labels)

    def result(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the sum of the gradients for the new weights, and what to log, both by name."""
        total = dict[str, Tensor]()
        logged = dict[str, Tensor]()
        for objective, term in zip(self.objectives, self.terms, strict=True):
            gradient, logged[objective.value] = term.result()
            logged[f"gradient_{objective.name}"] = _norm(gradient)
            for name, own in gradient.items():
                total[name] = total[name].add_(own) if name in total else own
        return total, logged


class MetaTraining(Stage):
    """Meta-training with one backward pass through the metanetwork per big batch.

    The metanetwork's forward pass gives new weights, which are cut off as leaves; each micro-batch
    adds the objectives' gradients for them by plain autograd; and one backward pass takes the sum
    into the metanetwork. That equals one backward pass per micro-batch, and several devices
    exchange gradients once in a step. The data models that a device takes in a step go through the
    metanetwork as one graph; they alone are in its memory. With a mixed `trainer.precision` data
    models run in it, and the metanetwork in float32. The metanetwork is stored after every epoch as
    `metanetworks/epoch_NNN` in the run's folder.

    Args:
        metanetwork: What is trained.
        optimizer: Optimiser and learning rate.
        objectives: What rewritten networks should be good at: the terms of the loss, which are
            added up. None is those of the paper: `Accuracy`, and `Sparsity` with the next two
            settings.
        sparsity: The sparsity term; its weight is relative to the mean cross-entropy of a big
            batch.
        criterion: The pruning criterion to make networks easy for.
        batch_norm: Mode of the data models' batch norms: statistics of the batch (`train`) or the
            data model's running ones (`eval`, as in the authors' code).
        attention: What goes together in attention: as in the pruning that follows.
        clip: Largest norm of the metanetwork's gradient; 0 is none.
        channels_last: Memory layout of the images: faster on GPUs with tensor cores, and on most
            CPUs.
        compiled: Run the data models through `torch.compile` in the accuracy loss: the first step
            takes minutes, the others less. Architectures are compiled one by one.

    Raises:
        ConfigError: There are objectives as well as settings of the paper's, two of a kind, or a
            clip that is not finite.
    """

    remedies = "optimizer.lr or the objectives' weights"

    def __init__(
        self,
        *,
        metanetwork: Rewriter,
        optimizer: OptimizerSettings,
        objectives: list[Objective] | None = None,
        sparsity: SparsityTerm = SparsityTerm(),  # noqa: B008  (frozen)
        criterion: Magnitude = Magnitude(),  # noqa: B008  (frozen)
        batch_norm: BatchNormMode = "eval",
        attention: AttentionUnits = "width",
        clip: float = 0.0,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if not 0 <= clip < math.inf:
            raise ConfigError(f"model.clip is {clip}: it must be finite and at least 0.")
        self.metanetwork = metanetwork
        self.optimizer = optimizer
        self.objectives = _objectives(objectives, sparsity, criterion)
        self.batch_norm = batch_norm
        self.attention = attention
        self.clip = clip
        self.channels_last = channels_last
        self._call: Callable[..., Tensor] = (
            torch.compile(functional_call) if compiled else functional_call
        )
        self.metrics = nn.ModuleDict()
        self.data_models: list[DataModel] = []
        self._parts: list[Part] = []
        self._validated: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Load the data models."""
        zoo = self._zoo
        if not self.metrics:
            self.metrics["val"] = accuracies(zoo.images.num_classes, "val")
        if not self.data_models:
            self.data_models = [
                load_data_model(path, self.batch_norm, torch.device("cpu"), self.attention)
                for path in zoo.models
            ]

    @property
    def _zoo(self) -> DataModelZoo:
        zoo = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(zoo, DataModelZoo):
            raise ConfigError("MetaTraining needs data models: set data to DataModelZoo.")
        return zoo

    def _take(self, indices: Sequence[int]) -> list[DataModel]:
        """Bring data models to the device, and all others back to the host."""
        for index, model in enumerate(self.data_models):
            device = self.device if index in indices else torch.device("cpu")
            if next(model.network.parameters()).device != device:
                self.data_models[index] = model.to(device)
        return [self.data_models[index] for index in indices]

    def training_step(self, batch: MetaBatch, batch_idx: int) -> None:
        """Take in one micro-batch, and step at the end of the big batch."""
        if not self._parts:
            models = self._take(batch.models)
            new = self.new_weights(models)
            rewritten = map(partial(Rewritten, call=self._call), models, new)
            self._parts = [Part(each, self.objectives) for each in rewritten]
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        images = batch.images.contiguous(memory_format=layout)
        self._parts[batch.part].add(images, batch.labels)
        if batch.last:
            self._step()
            self._parts = []

    def rewrite(self, models: Sequence[DataModel]) -> list[dict[str, Tensor]]:
        """Return the states of networks with the parameters that the metanetwork gives them."""
        with torch.autocast(
            self.device.type, enabled=False
        ):  # in mixed precision, too: its changes are small
            new = self.metanetwork.rewrite(
                unite([m.graph for m in models]), unite_states([m.state for m in models])
            )
        return [
            {name: new[f"{i}.{name}"] for name in model.state} for i, model in enumerate(models)
        ]

    @torch.no_grad()
    def new_weights(self, models: Sequence[DataModel]) -> list[dict[str, Tensor]]:
        """Return the trainable parameters that the metanetwork gives networks, as leaves."""
        return [
            {
                name: value.detach().clone().requires_grad_()
                for name, value in new.items()
                if name in model.trainable
            }
            for model, new in zip(models, self.rewrite(models), strict=True)
        ]

    def probe(self, batch: MetaBatch) -> Tensor:
        """New weights of a step's data models: see `Stage.probe`."""
        new = self.new_weights(self._take(batch.models))
        return torch.stack([value.abs().max() for state in new for value in state.values()])

    def _step(self) -> None:
        """Take the gradients of all parts into the metanetwork, and step."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.zero_grad()
        products = []
        logged = list[dict[str, Tensor]]()
        models = [part.rewritten.model for part in self._parts]
        for part, new in zip(self._parts, self.rewrite(models), strict=True):
            vector, values = part.result()
            logged.append(values)
            products += [torch.dot(new[name].flatten(), v.flatten()) for name, v in vector.items()]
        self.manual_backward(torch.stack(products).sum() / len(self._parts))
        if self.clip:
            self.clip_gradients(optimizer, self.clip, "norm")  # type: ignore[arg-type]
        optimizer.step()
        self._step_schedule("step")
        shown = {objective.value for objective in self.objectives}
        for name in logged[0]:
            mean = torch.stack([part[name] for part in logged]).mean()
            self.watch(mean)
            self.log(
                f"train/{name}",
                mean,
                prog_bar=name in shown,
                sync_dist=name in shown,
            )

    def _step_schedule(self, interval: str) -> None:
        if self.optimizer.interval == interval:
            schedule = self.lr_schedulers()
            assert schedule is not None and not isinstance(schedule, list)
            schedule.step()

    @property
    def batches_per_step(self) -> int:
        """Micro-batches of a device for each optimiser step."""
        loader = self.trainer.train_dataloader
        assert isinstance(loader, MetaLoader)
        return loader.parts * loader.micro_batches

    def on_train_epoch_end(self) -> None:
        """Step the schedule and store the metanetwork."""
        super().on_train_epoch_end()
        self._step_schedule("epoch")
        trial_run = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.trainer.is_global_zero and not trial_run:
            epoch = self.current_epoch + 1
            folder = Path(self.trainer.default_root_dir) / "metanetworks" / f"epoch_{epoch:03d}"
            record = {
                "epoch": epoch,
                "steps": self.global_step,
                "engine": self.metanetwork.engine_used,
                "learnt_from": [path.name for path in self._zoo.models],
            }
            save_metanetwork(folder, self.metanetwork, record)

    def on_train_end(self) -> None:
        """Warn where the rewritten networks are no better than chance."""
        loss = self.trainer.callback_metrics.get("train/loss")
        classes = self.trainer.datamodule.images.num_classes  # type: ignore[attr-defined]
        if loss is not None and loss > 0.95 * math.log(classes):
            rank_zero_info(
                f"Meta-training ends with a train/loss of {loss:.2f}, that of guessing among "
                f"{classes} classes: take a smaller optimizer.lr, or smaller weights of the other "
                "objectives (model.init_args.sparsity.weight)."
            )

    def on_validation_epoch_start(self) -> None:
        """Rewrite the first data model."""
        (model,) = self._take([0])
        self._validated = {**model.state, **self.new_weights([model])[0]}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of the rewritten data model on the validation images."""
        images, labels = batch
        model = self.data_models[0]
        state = {
            name: value.clone() for name, value in self._validated.items()
        }  # batch norms write into it
        logits = functional_call(
            model.network,
            state,
            (images,),
            tie_weights=False,
        )
        self.log("val/loss", F.cross_entropy(logits, labels), **whole_set(self, len(labels)))
        metrics = self.metrics["val"]
        assert isinstance(metrics, MetricCollection)
        metrics.update(logits, labels)
        self.log_dict(
            metrics,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
        )

    def on_validation_epoch_end(self) -> None:
        """Forget the rewritten data model."""
        self._validated = {}

    def configure_optimizers(self) -> Any:
        """Lightning's hook."""
        return self.configure(self.metanetwork.parameters())


def _norm(gradients: dict[str, Tensor]) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()])
    )
    return norms


def _objectives(
    given: list[Objective] | None, sparsity: SparsityTerm, criterion: Magnitude
) -> list[Objective]:
    """Return the objectives, which are the paper's where none are given."""
    if given is None:
        return [Accuracy(), Sparsity(**vars(sparsity), criterion=criterion)]
    if (sparsity, criterion) != (SparsityTerm(), Magnitude()):
        raise ConfigError(
            "model.objectives: sparsity and criterion are settings of its objective Sparsity; "
            "give them there."
        )
    kinds = {objective.name for objective in given}, {objective.value for objective in given}
    if not given or any(len(names) < len(given) for names in kinds):
        raise ConfigError("model.objectives: name at least one objective, and each kind once.")
    return given
