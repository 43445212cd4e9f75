"""`analyze`: statistics of a network before and after the metanetwork (paper, 5.4 and H)."""

from typing import Any

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines.prepare import prepare
from metaprune_pl.pruning import SpeedUp
from metaprune_pl.reports.analysis import Analysis
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.preparation import Preparation
from metaprune_pl.stages.statistics import SampleSettings, measure_statistics


def analyze(
    context: Context,
    data: ImageDataModule,
    *,
    sample: SampleSettings = SampleSettings(),  # noqa: B008  (frozen)
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
    given, _ = before.open(input_shape=data.input_shape, num_classes=data.num_classes)
    order, criterion = sample.order(data), before.importance()
    networks = {"origin": given.to(context.device), change: ready.network}
    (origin, accuracy_origin), (after, accuracy_after) = (
        measure_statistics(network, ready.unpruned.groups, criterion, data, order, name)
        for name, network in networks.items()
    )
    return context.write(
        Analysis(
            network=ready.card.record["name"],
            origin=origin,
            after=after,
            change=f"after {change}",
            images=len(range(0, order.count, order.ranks)),
            accuracy=[accuracy_origin, accuracy_after],
        )
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
