"""`analyze`: statistics of a network before and after the metanetwork (paper, 5.4 and H)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import track

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.loader import Order
from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines.preparation import Preparation
from metaprune_pl.pipelines.prepare import classifier_pruner, prepare
from metaprune_pl.pruning import SpeedUp
from metaprune_pl.pruning.statistics import Statistics, loss_gradients, network_statistics
from metaprune_pl.reports.analysis import Analysis
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Which images gradients are of.

    Attributes:
        images: Number of validation images at most, evenly spread over all.
    """

    images: int = 1000

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"sample.images is {self.images}; it is at least 1.")


def analyze(
    context: Context,
    data: ImageDataModule,
    *,
    sample: SampleSettings = SampleSettings(),
    **preparation: Any,
) -> Analysis:
    """Compare statistics of a network's weights before and after the metanetwork.

    Args:
        context: Where to run.
        data: The images.
        sample: Images that gradients are of.
        preparation: The network, and what is done to it: see `Preparation`; 0 epochs of finetuning
            show what the metanetwork itself does.

    Example:
        metaprune analyze --config analyze_quickstart.yaml
    """
    before = Preparation(**preparation)
    change = _change(before)
    ready = prepare(context, data, before, [SpeedUp(value=1.0, settings=before.pruning)])
    groups, images = ready.unpruned.groups, classifier_pruner(context, data, before).images
    assert groups is not None
    origin, _ = before.source.open(input_shape=data.input_shape, num_classes=data.num_classes)
    count = data.count("validation")
    every = -(-count // sample.images)
    order = Order(count, batch_size=data.batch_size, train=False, ranks=every)
    criterion = before.importance()
    statistics = []
    accuracies = []
    for name, network in (("origin", origin.to(context.device)), (change, ready.network)):
        batches = data.evaluation("validation", context.device, order)
        tracked = track(batches, f"Gradients, {name}", total=order.batches, transient=True)
        gradients, accuracy = loss_gradients(network, tracked)
        measured = criterion.measure(network, groups.graph, images(criterion))
        state = network.state_dict()
        statistics.append(network_statistics(groups, state, gradients, criterion, measured))
        accuracies.append(accuracy)
    result = _analysis(ready.name, change, statistics, accuracies, len(range(0, count, every)))
    if context.is_global_zero:
        write_result(result, context.folder, context.events)
    return result


def _analysis(
    network: str,
    change: str,
    statistics: Sequence[Statistics],
    accuracies: list[float],
    images: int,
) -> Analysis:
    origin, after = statistics
    return Analysis(
        network=network,
        origin=origin,
        after=after,
        change=f"after {change}",
        images=images,
        accuracy=accuracies,
    )


def _change(preparation: Preparation) -> str:
    """Say what is done to the network.

    Raises:
        ConfigError: Nothing is.
    """
    finetuning = "finetuning" if preparation.sparsity is None else "sparsity learning"
    steps = {
        "metanetwork": preparation.metanetwork is not None,
        finetuning: preparation.finetune.length > 0,
    }
    change = " and ".join(step for step, done in steps.items() if done)
    if not change:
        raise ConfigError(
            "nothing would change in the network: set metanetwork, or finetune.epochs, or both."
        )
    return change
