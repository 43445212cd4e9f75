"""The Trainer with our subcommands as methods; LightningCLI reads their signatures."""

import re
from typing import Any

from lightning.pytorch import LightningModule

from metaprune_pl.data import VOC, ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkCard, NetworkSource
from metaprune_pl.pipelines.analyze import analyze
from metaprune_pl.pipelines.compare import CompareSettings
from metaprune_pl.pipelines.context import Context
from metaprune_pl.pipelines.curve import curve
from metaprune_pl.pipelines.data_models import InitialPruning, run_data_models
from metaprune_pl.pipelines.detect import detect
from metaprune_pl.pipelines.experiment import ExperimentSettings
from metaprune_pl.pipelines.inspect import Inspection, inspect_network
from metaprune_pl.pipelines.prune import prune
from metaprune_pl.pipelines.select import select
from metaprune_pl.pruning import AttentionUnits
from metaprune_pl.reports import Curve, Detected, Masked, Pruned, Selection
from metaprune_pl.reports.analysis import Analysis
from metaprune_pl.stages import DataModelTraining
from metaprune_pl.stages.trainer import StageTrainer


class MetapruneTrainer(StageTrainer):
    """The Trainer of the command line."""

    def data_models(
        self,
        model: LightningModule,
        datamodule: ImageDataModule,
        *,
        initial: InitialPruning | None = None,
        side_by_side: int = 1,
    ) -> list[NetworkCard]:
        """Make data models: train, prune a little, finetune; several processes may share the work.

        Args:
            model: DataModelTraining; `trainer.max_epochs` is its length.
            datamodule: The images.
            initial: Pruning and finetuning after the training.
            side_by_side: Networks that a process trains in one fit, on the same batches.
        """
        assert isinstance(model, DataModelTraining)
        if self.max_epochs is None or self.max_epochs < 0:
            raise ConfigError("set trainer.max_epochs: how long the data models are trained.")
        return run_data_models(
            Context.of(self),
            datamodule,
            model,
            epochs=self.max_epochs,
            initial=initial,
            side_by_side=side_by_side,
        )

    def prune(self, datamodule: ImageDataModule, **settings: Any) -> list[Pruned] | list[Masked]:
        """Prune a network to speed-ups, or mask its weights.

        Metanetwork, finetune, prune, finetune.

        Args:
            datamodule: The images.
            settings: See the function.
        """
        return prune(Context.of(self), datamodule, **settings)

    def curve(self, datamodule: ImageDataModule, **settings: Any) -> Curve:
        """Draw accuracy over speed-up, or over compression by masks.

        Args:
            datamodule: The images.
            settings: See the function.
        """
        return curve(Context.of(self), datamodule, **settings)

    def select(self, datamodule: ImageDataModule, **settings: Any) -> Selection:
        """Choose among the metanetworks of all epochs by their validation curves.

        Args:
            datamodule: The images.
            settings: See the function.
        """
        return select(Context.of(self), datamodule, **settings)

    def analyze(self, datamodule: ImageDataModule, **settings: Any) -> Analysis:
        """Compare statistics of a network's weights before and after the metanetwork.

        Args:
            datamodule: The images.
            settings: See the function.
        """
        return analyze(Context.of(self), datamodule, **settings)

    def detect(self, datamodule: VOC, **settings: Any) -> list[Detected]:
        """Train a detector, and prune its backbone with and without a metanetwork.

        Args:
            datamodule: The images.
            settings: See the function.
        """
        return detect(Context.of(self), datamodule, **settings)

    def inspect(
        self,
        network: str,
        *,
        arguments: dict[str, Any] | None = None,
        state: str | None = None,
        input_shape: str | None = None,
        attention: AttentionUnits = "width",
        figure: str | None = None,
    ) -> Inspection:
        """Tell what can be pruned in a network, before any training.

        Args:
            network: Folder of a stored network, or a name: cifar_resnet, torchvision/NAME,
                timm/NAME, a NAME that only one of these knows, or package.module:function of your
                own.
            arguments: Keyword arguments of the builder that is named.
            state: File of its weights: safetensors, or a state dict of torch.save.
            input_shape: Channels, height and width of one image, as in 3,224,224; by default what
                the network is made for, as far as it tells.
            attention: What goes together in attention: `width`, the same channels of all heads, or
                whole `heads`.
            figure: File for a picture of the graph (.png, .pdf or .svg).
        """
        source = NetworkSource(network=network, arguments=arguments or {}, state=state)
        shape = None if input_shape is None else _as_shape(input_shape)
        return inspect_network(source, input_shape=shape, attention=attention, figure=figure)

    def experiment(self, chain: ExperimentSettings) -> ExperimentSettings:
        """Run the whole method with its controls, and report.

        Args:
            chain: Stages and comparisons.
        """
        return chain

    def compare(self, matrix: CompareSettings) -> CompareSettings:
        """Run experiments beside each other, with their metanetworks exchanged.

        Args:
            matrix: Experiments, and what is compared.
        """
        return matrix


def _as_shape(text: str) -> tuple[int, int, int]:
    numbers = re.findall(r"\d+", text)
    if len(numbers) != 3 or not all(map(int, numbers)):
        raise ConfigError(
            f"input_shape '{text}': give channels, height and width, as in 3,224,224."
        )
    return int(numbers[0]), int(numbers[1]), int(numbers[2])
