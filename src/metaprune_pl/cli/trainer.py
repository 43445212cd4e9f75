"""The Trainer with our subcommands as methods; LightningCLI reads their signatures."""

import re
from typing import Any

from lightning.pytorch import LightningModule

from metaprune_pl.data import VOC, ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkCard, NetworkSource
from metaprune_pl.pipelines.analyze import SampleSettings, run_analyze
from metaprune_pl.pipelines.compare import CompareSettings
from metaprune_pl.pipelines.context import Context
from metaprune_pl.pipelines.curve import CurveSettings, run_curve
from metaprune_pl.pipelines.data_models import InitialPruning, run_data_models
from metaprune_pl.pipelines.detection import DetectionSettings, run_detection
from metaprune_pl.pipelines.experiment import ExperimentSettings
from metaprune_pl.pipelines.inspect import Inspection, inspect_network
from metaprune_pl.pipelines.masks import run_masks
from metaprune_pl.pipelines.prepare import FinetuneSettings, Preparation
from metaprune_pl.pipelines.prune import run_prune
from metaprune_pl.pipelines.select import SearchSettings, run_select
from metaprune_pl.pruning import (
    AttentionUnits,
    Importance,
    Magnitude,
    MaskSettings,
    PruningSettings,
    Sparsity,
)
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

    def prune(
        self,
        datamodule: ImageDataModule,
        *,
        network: str,
        arguments: dict[str, Any] | None = None,
        state: str | None = None,
        metanetwork: str | None = None,
        sparsity: Sparsity | None = None,
        criterion: Importance = Magnitude(),  # noqa: B008  (frozen)
        pruning: PruningSettings = PruningSettings(),  # noqa: B008  (frozen)
        finetune: FinetuneSettings = FinetuneSettings(),  # noqa: B008  (frozen)
        finetune_after: FinetuneSettings = FinetuneSettings(),  # noqa: B008  (frozen)
        speed_ups: tuple[float, ...] = (2.0,),
        masks: MaskSettings | None = None,
        rounds: int = 1,
        latency_batches: tuple[int, ...] = (1, 256),
    ) -> list[Pruned] | list[Masked]:
        """Prune a network to speed-ups, or mask its weights.

        Metanetwork, finetune, prune, finetune.

        Args:
            datamodule: The images.
            network: Folder of a stored network, or a name: cifar_resnet, torchvision/NAME,
                timm/NAME, a NAME that only one of these knows, or package.module:function of your
                own.
            arguments: Keyword arguments of the builder that is named.
            state: File of its weights: safetensors, or a state dict of torch.save.
            metanetwork: Folder of a metanetwork (or of several: the last is taken); none is a
                control.
            sparsity: Sparsity term of the first finetuning, instead of a metanetwork: sparsity
                learning, a control.
            criterion: Which channels matter.
            pruning: Steps and floors.
            finetune: Finetuning before pruning.
            finetune_after: Finetuning after pruning.
            speed_ups: Targets: multiply-accumulates of the unpruned network over those of the
                result, increasing.
            masks: Which weights become zero, in place of channels that are removed; `pruning`,
                `speed_ups` and `latency_batches` have no effect then.
            rounds: Rounds in which the network comes to each target, by the same factor; after each
                but the last it is trained for `finetune_after`, ranked anew, and its weights are
                rewound to those before the rounds. Patterns are made in one.
            latency_batches: Numbers of images in a forward pass whose time is measured.
        """
        how = Preparation(
            source=NetworkSource(network=network, arguments=arguments or {}, state=state),
            metanetwork=metanetwork,
            sparsity=sparsity,
            criterion=criterion,
            pruning=pruning,
            finetune=finetune,
        )
        if masks is not None:
            return run_masks(
                Context.of(self),
                datamodule,
                how,
                masks,
                finetune_after=finetune_after,
                rounds=rounds,
            )
        return run_prune(
            Context.of(self),
            datamodule,
            how,
            finetune_after=finetune_after,
            speed_ups=speed_ups,
            latency_batches=latency_batches,
            rounds=rounds,
        )

    def curve(
        self,
        datamodule: ImageDataModule,
        *,
        network: str,
        arguments: dict[str, Any] | None = None,
        state: str | None = None,
        metanetwork: str | None = None,
        sparsity: Sparsity | None = None,
        criterion: Importance = Magnitude(),  # noqa: B008  (frozen)
        pruning: PruningSettings = PruningSettings(),  # noqa: B008  (frozen)
        finetune: FinetuneSettings = FinetuneSettings(),  # noqa: B008  (frozen)
        grid: CurveSettings = CurveSettings(),  # noqa: B008  (frozen)
        masks: MaskSettings | None = None,
        beside: tuple[str, ...] = (),
    ) -> Curve:
        """Draw accuracy over speed-up, or over compression by masks.

        Args:
            datamodule: The images.
            network: Folder of a stored network, or a name: cifar_resnet, torchvision/NAME,
                timm/NAME, a NAME that only one of these knows, or package.module:function of your
                own.
            arguments: Keyword arguments of the builder that is named.
            state: File of its weights: safetensors, or a state dict of torch.save.
            metanetwork: Folder of a metanetwork (or of several: the last is taken); none is a
                control.
            sparsity: Sparsity term of the finetuning, instead of a metanetwork: sparsity learning,
                a control.
            criterion: Which channels matter.
            pruning: Steps and floors.
            finetune: Finetuning before pruning.
            grid: Which points.
            masks: Shares of weights that become zero, in place of the speed-ups of `grid` and of
                `pruning`, which have no effect then; patterns are no points of a curve.
            beside: Folders of finished curves to draw in one picture with this one, `beside.png`.
        """
        how = Preparation(
            source=NetworkSource(network=network, arguments=arguments or {}, state=state),
            metanetwork=metanetwork,
            sparsity=sparsity,
            criterion=criterion,
            pruning=pruning,
            finetune=finetune,
        )
        return run_curve(Context.of(self), datamodule, how, grid, masks, beside)

    def select(
        self,
        datamodule: ImageDataModule,
        *,
        network: str,
        metanetwork: str,
        arguments: dict[str, Any] | None = None,
        state: str | None = None,
        criterion: Importance = Magnitude(),  # noqa: B008  (frozen)
        pruning: PruningSettings = PruningSettings(),  # noqa: B008  (frozen)
        finetune: FinetuneSettings = FinetuneSettings(),  # noqa: B008  (frozen)
        grid: CurveSettings = CurveSettings(),  # noqa: B008  (frozen)
        masks: MaskSettings | None = None,
        search: SearchSettings = SearchSettings(),  # noqa: B008  (frozen)
    ) -> Selection:
        """Choose among the metanetworks of all epochs by their validation curves.

        Args:
            datamodule: The images.
            network: Folder of a stored network, or a name (see `metaprune prune --help`), to draw
                the curves of.
            metanetwork: Folder of the metanetworks of all epochs.
            arguments: Keyword arguments of the builder that is named.
            state: File of its weights: safetensors, or a state dict of torch.save.
            criterion: Which channels matter.
            pruning: Steps and floors.
            finetune: Finetuning before pruning.
            grid: Which points.
            masks: Shares of weights that become zero, in place of the points of `grid`: see
                `metaprune curve --help`.
            search: Which metanetworks are tried.
        """
        how = Preparation(
            source=NetworkSource(network=network, arguments=arguments or {}, state=state),
            metanetwork=metanetwork,
            sparsity=None,
            criterion=criterion,
            pruning=pruning,
            finetune=finetune,
        )
        return run_select(Context.of(self), datamodule, how, grid, search, masks)

    def analyze(
        self,
        datamodule: ImageDataModule,
        *,
        network: str,
        arguments: dict[str, Any] | None = None,
        state: str | None = None,
        metanetwork: str | None = None,
        sparsity: Sparsity | None = None,
        criterion: Importance = Magnitude(),  # noqa: B008  (frozen)
        pruning: PruningSettings = PruningSettings(),  # noqa: B008  (frozen)
        finetune: FinetuneSettings = FinetuneSettings(),  # noqa: B008  (frozen)
        sample: SampleSettings = SampleSettings(),  # noqa: B008  (frozen)
    ) -> Analysis:
        """Compare statistics of a network's weights before and after the metanetwork.

        Args:
            datamodule: The images.
            network: Folder of a stored network, or a name (see `metaprune prune --help`).
            arguments: Keyword arguments of the builder that is named.
            state: File of its weights: safetensors, or a state dict of torch.save.
            metanetwork: Folder of a metanetwork (or of several: the last is taken); none is a
                control.
            sparsity: Sparsity term of the finetuning, instead of a metanetwork: sparsity learning,
                a control.
            criterion: Scores of the pruning groups.
            pruning: What goes together in attention.
            finetune: Finetuning after the metanetwork; 0 epochs shows what the metanetwork itself
                does.
            sample: Images that gradients are of.
        """
        how = Preparation(
            source=NetworkSource(network=network, arguments=arguments or {}, state=state),
            metanetwork=metanetwork,
            sparsity=sparsity,
            criterion=criterion,
            pruning=pruning,
            finetune=finetune,
        )
        return run_analyze(Context.of(self), datamodule, how, sample)

    def detect(self, datamodule: VOC, *, detection: DetectionSettings) -> list[Detected]:
        """Train a detector, and prune its backbone with and without a metanetwork.

        Args:
            datamodule: Images with objects.
            detection: What to run.
        """
        return run_detection(Context.of(self), datamodule, detection)

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
