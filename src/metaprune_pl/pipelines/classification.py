"""Classifiers in the pruning loop: how they are made ready, trained and measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.networks import load_network
from metaprune_pl.networks.widths import is_unchanged
from metaprune_pl.pipelines.prepare import prepare
from metaprune_pl.pipelines.pruning_loop import Task
from metaprune_pl.pruning import Target, measure_latencies
from metaprune_pl.pruning.cost.latency import EAGER
from metaprune_pl.pruning.targets import ChannelTarget, Faster, MaskTarget, PrunedNetwork
from metaprune_pl.pruning.unpruned import as_built
from metaprune_pl.reports import Masked, Pruned
from metaprune_pl.reports.planned import planned
from metaprune_pl.reports.printing import print_result
from metaprune_pl.runs.command import tell
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.cost import trained_images
from metaprune_pl.stages.accuracy import AccuracyBefore, accuracy, accuracy_before, measure_accuracy
from metaprune_pl.stages.duration import training_seconds
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.preparation import Preparation
from metaprune_pl.stages.training_settings import FinetuneSettings

Outcome = Pruned | Masked
"""What is measured of a network: with fewer channels, or with masks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification(Task[Outcome]):
    """A classifier that loses channels or weights.

    Attributes:
        data: The images.
        given: Folder of the network as it was given.
        settings: Finetuning after pruning.
        before: Test accuracies before pruning.
        batches: Numbers of images in a forward pass whose time is measured.
    """

    data: ImageDataModule
    given: Path
    settings: FinetuneSettings
    before: AccuracyBefore
    batches: Sequence[int]

    @classmethod
    def of(
        cls,
        context: Context,
        data: ImageDataModule,
        preparation: Preparation,
        targets: Sequence[Target],
        settings: FinetuneSettings,
        batches: Sequence[int],
    ) -> Self:
        """Make a network ready for its targets, and measure it."""
        ready = prepare(context, data, preparation, targets)
        given, device = load_network(ready.given), context.device
        return cls(
            context=context,
            card=ready.card,
            network=ready.network,
            unpruned=ready.unpruned,
            pruner=preparation.pruner(
                data,
                device,
                context.broadcast,
                masks=not targets[0].channels,
                finetuning=settings.images(data.step_images, data.count("train")),
            ),
            data=data,
            given=ready.given,
            settings=settings,
            before=accuracy_before(given, ready.network, ready.card.record, data, device),
            batches=batches,
        )

    def kind(self, target: Target) -> type[Outcome]:
        """Return the class of what is measured for a target: see `Task.kind`."""
        return Pruned if target.channels else Masked

    def begin(self) -> None:
        """Say what comes first, which may take a while."""
        if not self.context.is_part:
            tell("Choosing what goes: seconds, or minutes where layers have hundreds of channels.")

    def announce(self, target: Target, pruned: PrunedNetwork) -> None:
        """Show the plan, and how long the training takes: see `Task.announce`."""
        if not target.channels or self.context.is_part or not self.context.is_global_zero:
            return
        title = f"{self.card.record['name']} to {target.label}, before the training"
        seconds = training_seconds(pruned.network, self.data, self.settings)
        runtime = target.runtime if isinstance(target, Faster) else EAGER
        after = pruned.network
        print_result(planned(title, self.unpruned, after, self.batches, seconds, runtime))

    def training(self, source: Path) -> NetworkTraining:
        """Return the finetuning of a stored network: see `Task.training`."""
        return self.settings.build(source, teacher=self.given)

    def accuracy(self, network: nn.Module) -> float:
        """Return the test accuracy of a network."""
        return accuracy(network, self.data, "test", self.context.device)

    def measure(self, target: Target, pruned: PrunedNetwork, final: nn.Module) -> Outcome:
        """Measure on the test images: see `Task.measure`."""
        finetuned = measure_accuracy(final, self.data, "test", self.context.device)
        record, after = self.card.record, self.accuracy(pruned.network)
        in_vain = self.settings.length > 0 and is_unchanged(final, pruned.network)
        shared: dict[str, Any] = {
            "network": record["name"],
            "method": record["method"],
            "accuracy_base": self.before.base.top_1,
            "accuracy_given": self.before.given,
            "accuracy_before": self.before.ready,
            "accuracy_stale": None if pruned.stale is None else self.accuracy(pruned.stale),
            "accuracy_finetuned": finetuned.top_1,
            "training_kept": not in_vain,
        }
        if isinstance(target, ChannelTarget):
            return Pruned.of(
                target,
                self.unpruned,
                pruned,
                final,
                **shared,
                images=record["images"] + trained_images(self.context.folder),
                accuracy_base_top_5=self.before.base.top_5,
                accuracy_pruned=after,
                accuracy_finetuned_top_5=finetuned.top_5,
                test_images=self.data.count("test"),
            )
        assert isinstance(target, MaskTarget)
        predicted = record.get("predicted_accuracy")
        shared |= {"accuracy_predicted": predicted, "accuracy_masked": after}
        return Masked.of(target, self.unpruned, pruned, final, **shared)

    def timed(self, targets: Sequence[Target], results: Sequence[Pruned]) -> list[Pruned]:
        """Measure the unpruned network and all results, in turn, for each number of images.

        Where a target is a time, all is measured in what it is of, and its number of images, too.
        """
        device, folder = self.context.device, self.context.folder
        stored = (load_network(folder / target.folder / "network") for target in targets)
        networks = [network.to(device) for network in (as_built(self.card), *stored)]
        example = self.card.example(device)
        batches = [target.batch for target in targets if isinstance(target, ChannelTarget)]
        timed = [target.runtime for target in targets if isinstance(target, Faster)]
        runtime = timed[0] if timed else EAGER
        sizes = sorted({*self.batches, *(size for size in batches if size is not None)})
        times = {
            str(size): measure_latencies(networks, example, size, runtime=runtime) for size in sizes
        }
        own, *others = (
            {size: timings[index] for size, timings in times.items()}
            for index in range(len(networks))
        )
        return [
            result.timed(other, own, runtime.name, batch)
            for result, other, batch in zip(results, others, batches, strict=True)
        ]
