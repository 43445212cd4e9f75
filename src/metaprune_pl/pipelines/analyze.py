"""What the metanetwork changes: statistics of a network before and after (paper, 5.4 and H)."""

from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.loader import Order
from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines.context import Context
from metaprune_pl.pipelines.prepare import Preparation, prepare
from metaprune_pl.pruning.statistics import loss_gradients, network_statistics
from metaprune_pl.reports import write_csv
from metaprune_pl.reports.analysis import Analysis
from metaprune_pl.reports.figures import save_figure
from metaprune_pl.reports.statistics_figures import draw_analysis
from metaprune_pl.reports.tensorboard import log_analysis


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


def run_analyze(
    context: Context, data: ImageDataModule, how: Preparation, sample: SampleSettings
) -> Analysis:
    """Make a network ready for pruning, and compare its weights with those it had.

    Writes `summary.csv`, `layers.csv`, `histograms.csv`, `layers.png`, `histogram_STATISTIC.png`
    and TensorBoard events to the run's folder.

    Args:
        context: Where to run.
        data: The images.
        how: What to make ready, and how.
        sample: Images that gradients are of.

    Raises:
        ConfigError: Nothing is to be done with the network, or it was made for other images.
    """
    steps = {
        "metanetwork": how.metanetwork is not None,
        "finetuning" if how.sparsity is None else "sparsity learning": how.finetune.epochs > 0,
    }
    change = " and ".join(step for step, done in steps.items() if done)
    if not change:
        raise ConfigError(
            "nothing would change in the network: set metanetwork, or finetune.epochs, or both."
        )
    ready = prepare(context, data, how, [1.0])
    origin, _ = how.source.open(input_shape=data.input_shape, num_classes=data.num_classes)
    origin = origin.to(context.device)
    assert ready.checked is not None
    groups, _ = ready.checked
    count = data.count("validation")
    every = -(-count // sample.images)
    order = Order(count, batch_size=data.batch_size, train=False, ranks=every)
    found, accuracies = [], []
    for name, network in (("origin", origin), (change, ready.network)):
        batches = data.evaluation("validation", context.device, order)
        tracked = track(batches, f"Gradients, {name}", total=order.batches, transient=True)
        gradients, accuracy = loss_gradients(network, tracked)
        accuracies.append(accuracy)
        found.append(network_statistics(groups, network.state_dict(), gradients, how.criterion))
    result = Analysis(
        network=ready.name,
        origin=found[0],
        after=found[1],
        change=f"after {change}",
        images=len(range(0, count, every)),
        accuracy=accuracies,
    )
    if context.is_global_zero:
        _write(context.folder, result)
    return result


def _write(folder: Path, analysis: Analysis) -> None:
    write_csv(folder / "summary.csv", analysis.summary())
    write_csv(folder / "layers.csv", analysis.layer_rows())
    write_csv(folder / "histograms.csv", list(analysis.histogram_rows()))
    figures = draw_analysis(analysis)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    log_analysis(folder, analysis, figures)
