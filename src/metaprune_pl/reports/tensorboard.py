"""Trainings, curves and results in TensorBoard."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from metaprune_pl.reports.analysis import Analysis
from metaprune_pl.reports.choice import Selection
from metaprune_pl.reports.comparison import Comparison
from metaprune_pl.reports.curves import OVER, Curve
from metaprune_pl.reports.events import Events
from metaprune_pl.reports.figures import draw_by_epoch, draw_curves, draw_epochs, draw_matrix
from metaprune_pl.reports.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BY_EPOCH = "curves by epoch of meta-training"
"""Name of the figure of curves by epoch, while a metanetwork is trained and when it is chosen."""


def log_curves(events: Events, folder: Path, curves: Sequence[Curve]) -> None:
    """Write the figure of curves, and the points of one alone; step = 100 x what it is over."""
    over = curves[0].over
    events.log_figures(folder, {f"accuracy over {OVER[over][0]}": draw_curves(curves)})
    if len(curves) == 1:
        name = f"accuracy_over_{over}_percent"
        events.log_scalars(folder, [(round(100 * x), {name: y}) for x, y in curves[0].line])


def log_choice(events: Events, folder: Path, selection: Selection) -> None:
    """Write the figure of all epochs' curves, and what they come to by epoch."""
    events.log_figures(folder, {BY_EPOCH: draw_epochs(selection)})
    rows = [
        (
            int(row["epoch"].rpartition("_")[2]),
            {f"curve/{name}": float(row[name]) for name in ("accuracy", "flat_region", "area")},
        )
        for row in selection.rows()
    ]
    events.log_scalars(folder, rows)


def log_matrix(events: Events, folder: Path, comparison: Comparison) -> None:
    """Write the heat maps."""
    events.log_figures(folder, {"networks by metanetworks": draw_matrix(comparison)})


def log_analysis(
    events: Events, folder: Path, analysis: Analysis, figures: "Mapping[str, Figure]"
) -> None:
    """Write the figures, and a run for each of both networks.

    It has each layer's values as a histogram and their mean; the step is the layer.
    """
    events.log_figures(folder, figures)
    for who, statistics in (("origin", analysis.origin), ("after", analysis.after)):
        run = TensorBoardLogger(folder, name="", version=f"tensorboard/{who}")
        for name, layers in statistics.items():
            for step, (layer, values) in enumerate(layers.items(), 1):
                run.log_metrics({f"mean/{name}": float(values.mean())}, step)
                if len(values) > 1:
                    run.experiment.add_histogram(f"{name}/{layer}", values)
        run.finalize("success")


def log_epochs(loggers: Iterable[Logger], folder: Path, epoch: int, threshold: float) -> None:
    """Draw the curves of all epochs of a meta-training so far.

    Args:
        loggers: Of the training.
        folder: Folder with a folder for each epoch, with those of its curves.
        epoch: The last epoch.
        threshold: Accuracy to keep.
    """
    curves = {
        path.name: [Curve.from_json(file) for file in sorted(path.glob("*/curve.json"))]
        for path in sorted(folder.glob("epoch_*"))
        if path.name <= f"epoch_{epoch:03d}" and (path / "result.json").is_file()
    }
    figure = draw_by_epoch(curves, threshold)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(BY_EPOCH, figure, epoch)


def log_results(events: Events, folder: Path, results: Sequence[Result]) -> None:
    """Write a run's results: rows of the table of hyperparameters, or numbers of a larger run."""
    if events.is_part:
        rows = [
            (
                round(100 * result.axis),
                {f"result/{name}": value for name, value in result.values.items()},
            )
            for result in results
        ]
        events.log_scalars(folder, rows)
        return
    for result in results:
        events.log_hyperparameters(result.name, result.settings, result.values)


def log_rows(events: Events, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write an experiment's means: a row of the table of hyperparameters for each method.

    It lies in the method's run, with the results for each target and, of a part of the finetuning,
    for each budget.
    """
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        settings = {name: own[0][name] for name in ("method", "networks", "prunings")}
        values = {
            f"{_target_of(row)}/{name}": float(row[name])
            for row in own
            for name in row
            if row[name] is not None and name.startswith(RESULTS) and not name.endswith("_std")
        }
        events.log_hyperparameters(method, settings, values)


RESULTS = ("speed_up", "macs_pruned", "left", "accuracy", "difference", "milliseconds")
"""How the columns begin that the table of hyperparameters has."""


def _target_of(row: Mapping[str, Any]) -> str:
    """Name a row's target, and its budget where that is a part of the finetuning."""
    target = row["target"]
    text = target.replace(":", " of ") if isinstance(target, str) else f"{target:g}x"
    budget = row.get("budget", 1.0)
    return text if budget == 1 else f"{text}, {100 * budget:g} %"
