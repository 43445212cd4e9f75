"""Results as files: tables, figures, TensorBoard events, and JSON, which comes last.

A folder whose JSON is there holds all of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeVar

from metaprune_pl.errors import StorageError
from metaprune_pl.files import write_json
from metaprune_pl.records import read_record
from metaprune_pl.reports.analysis import Analysis
from metaprune_pl.reports.choice import Selection
from metaprune_pl.reports.comparison import Comparison
from metaprune_pl.reports.curves import Curve
from metaprune_pl.reports.events import Events
from metaprune_pl.reports.figures import (
    draw_cost,
    draw_curves,
    draw_epochs,
    draw_matrix,
    save_figure,
)
from metaprune_pl.reports.files import write_csv
from metaprune_pl.reports.masks import draw_masks, masked_rows
from metaprune_pl.reports.page import write_page
from metaprune_pl.reports.pages import page_of_comparison, page_of_experiment, page_of_results
from metaprune_pl.reports.result import Result
from metaprune_pl.reports.results import Experiment
from metaprune_pl.reports.statistics_figures import draw_analysis
from metaprune_pl.reports.summary import (
    cost_sentence,
    curve_rows,
    flat_region_sentence,
    own_sentence,
    pruned_rows,
    recommendation,
)
from metaprune_pl.reports.tables import rows_beside_paper
from metaprune_pl.reports.tensorboard import (
    log_analysis,
    log_choice,
    log_curves,
    log_matrix,
    log_results,
    log_rows,
)

R = TypeVar("R", bound=Result)


@singledispatch
def write_result(result: Any, folder: Path, events: Events) -> None:
    """Write a result of a command to its folder: see `print_result`, its like for the console.

    Args:
        result: What the command returns.
        folder: The run's folder, or one in it.
        events: Where TensorBoard's events of the run go.
    """
    raise NotImplementedError(type(result))


@write_result.register(list)
def _(results: list[Any], folder: Path, events: Events) -> None:
    """Write `report.csv`, the figure where there is one, TensorBoard events and `report.json`."""
    write_csv(folder / "report.csv", [result.row() for result in results])
    log_results(events, folder, results)
    kind = type(results[0])
    if kind.figure_name is not None:
        save_figure(kind.figure(results), folder / kind.figure_name)
    write_page(page_of_results(results), folder)
    write_json(folder / "report.json", [asdict(result) for result in results])


def read_report(folder: Path, kind: type[R]) -> list[R]:
    """Read what `write_result` wrote of a list.

    Raises:
        StorageError: The folder holds no finished pruning, or its report is damaged.
    """
    file = folder / "report.json"
    if not file.is_file():
        raise StorageError(f"'{folder}' holds no report.json of `metaprune prune`.")
    rows = read_record(list[Any], file)
    return [kind.from_plain(row, file) for row in rows]


@write_result.register
def _(curve: Curve, folder: Path, events: Events) -> None:
    """Write `curve.csv`, `curve.png`, TensorBoard events and `curve.json`."""
    write_csv(folder / "curve.csv", [asdict(point) for point in curve.points])
    _draw_curves(events, folder, [curve])
    write_json(folder / "curve.json", asdict(curve))


@write_result.register
def _(selection: Selection, folder: Path, events: Events) -> None:
    """Write `choice.csv`, `curves.png`, TensorBoard events and `choice.json`."""
    write_csv(folder / "choice.csv", selection.rows())
    save_figure(draw_epochs(selection), folder / "curves.png")
    log_choice(events, folder, selection)
    write_json(folder / "choice.json", {"reason": selection.reason, **asdict(selection)})


@write_result.register
def _(analysis: Analysis, folder: Path, events: Events) -> None:
    """Write `summary.csv`, `layers.csv`, `histograms.csv`, figures and TensorBoard events."""
    write_csv(folder / "summary.csv", analysis.summary())
    write_csv(folder / "layers.csv", analysis.layer_rows())
    write_csv(folder / "histograms.csv", list(analysis.histogram_rows()))
    figures = draw_analysis(analysis)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    log_analysis(events, folder, analysis, figures)


@write_result.register
def _(experiment: Experiment, folder: Path, events: Events) -> None:
    """Write tables, figures, TensorBoard events and `report.json`."""
    pruned, masked = pruned_rows(experiment), masked_rows(experiment.masked)
    curves = curve_rows(experiment)
    if pruned or masked:
        write_csv(folder / "report.csv", pruned + masked)
    _write_beside_paper(folder, [experiment])
    if masked:
        save_figure(draw_masks(experiment.masked), folder / "masks.png")
    if curves:  # some baselines have none
        write_csv(folder / "curves.csv", curves)
        _draw_curves(events, folder, experiment.curves)
    save_figure(draw_cost(experiment.costs), folder / "cost.png")
    log_rows(events, pruned + masked)
    write_page(page_of_experiment(experiment), folder)
    results = {
        "pruned": pruned,
        "masked": masked,
        "curves": curves,
        "flat_region": flat_region_sentence(experiment),
        "cost": cost_sentence(experiment.costs),
        "recommendation": recommendation(experiment),
        "on_own": own_sentence(experiment),
        "choices": {method: choice.reason for method, choice in experiment.choices.items()},
    }
    write_json(folder / "report.json", {"results": results, **asdict(experiment)})


@write_result.register
def _(comparison: Comparison, folder: Path, events: Events) -> None:
    """Write `report.csv`, heat maps, TensorBoard events, `report.json`, and curves.

    The curves of each experiment go to its folder; where their metanetworks were not exchanged,
    those of all of them together go to this one.
    """
    write_csv(folder / "report.csv", comparison.rows())
    _write_beside_paper(folder, comparison.experiments.values())
    save_figure(draw_matrix(comparison), folder / "matrix.png")
    log_matrix(events, folder, comparison)
    for name, experiment in comparison.experiments.items():
        _draw_curves(events, folder / name, experiment.curves)
    if not comparison.exchanged:
        _draw_curves(events, folder, comparison.curves)
    write_page(page_of_comparison(comparison), folder)
    experiments = {name: asdict(experiment) for name, experiment in comparison.experiments.items()}
    write_json(folder / "report.json", {"results": comparison.rows(), "experiments": experiments})


def _draw_curves(events: Events, folder: Path, curves: Sequence[Curve]) -> None:
    """Draw curves in one picture, and write them for TensorBoard."""
    if curves:
        save_figure(draw_curves(curves), folder / "curve.png")
        log_curves(events, folder, curves)


def _write_beside_paper(folder: Path, experiments: Iterable[Experiment]) -> None:
    """Write `paper.csv` where the paper's numbers are known."""
    rows = [row for experiment in experiments for row in rows_beside_paper(experiment)]
    if rows:
        write_csv(folder / "paper.csv", rows)
