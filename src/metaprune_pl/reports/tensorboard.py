"""Curves and results in TensorBoard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import TensorBoardLogger

from metaprune_pl.reports.analysis import Analysis
from metaprune_pl.reports.comparison import Comparison
from metaprune_pl.reports.curves import OVER, Curve
from metaprune_pl.reports.figures import draw_curves, draw_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_curves(folder: Path, curves: Sequence[Curve]) -> None:
    """Write the figure, and each curve's points as scalars.

    One run per method, step = 100 x what it is over.
    """
    logger = TensorBoardLogger(folder, name="", version="")
    logger.experiment.add_figure(f"accuracy over {OVER[curves[0].over][0]}", draw_curves(curves))
    logger.finalize("success")
    for curve in curves:
        version = f"tensorboard/{curve.method}-{curve.network}"
        run = TensorBoardLogger(folder, name="", version=version)
        for x, accuracy in curve.line:
            metrics = {f"curve/accuracy_over_{curve.over}_percent": accuracy}
            run.log_metrics(metrics, round(100 * x))
        run.finalize("success")


def log_matrix(folder: Path, comparison: Comparison) -> None:
    """Write the heat maps."""
    logger = TensorBoardLogger(folder, name="", version="")
    logger.experiment.add_figure("networks by metanetworks", draw_matrix(comparison))
    logger.finalize("success")


def log_analysis(folder: Path, analysis: Analysis, figures: "Mapping[str, Figure]") -> None:
    """Write the figures, and a run for each of both networks.

    It has each layer's values as a histogram and their mean; the step is the layer.
    """
    logger = TensorBoardLogger(folder, name="", version="")
    for name, figure in figures.items():
        logger.experiment.add_figure(name, figure)
    logger.finalize("success")
    for who, statistics in (("origin", analysis.origin), ("after", analysis.after)):
        run = TensorBoardLogger(folder, name="", version=f"tensorboard/{who}")
        for name, layers in statistics.items():
            for step, (layer, values) in enumerate(layers.items(), 1):
                run.log_metrics({f"mean/{name}": float(values.mean())}, step)
                if len(values) > 1:
                    run.experiment.add_histogram(f"{name}/{layer}", values)
        run.finalize("success")


def log_results(
    folder: Path, name: str, settings: Mapping[str, Any], results: Mapping[str, float]
) -> None:
    """Write settings with their results, for TensorBoard's table of runs."""
    version = f"tensorboard/{name}"
    logger = TensorBoardLogger(folder, name="", version=version, default_hp_metric=False)
    metrics = {f"result/{key}": value for key, value in results.items()}
    logger.log_hyperparams(dict(settings), metrics)
    logger.finalize("success")
