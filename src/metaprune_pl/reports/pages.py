"""Which page a result of a command has."""

from collections.abc import Sequence

from metaprune_pl.reports.chart import Chart, Series
from metaprune_pl.reports.curves import OVER
from metaprune_pl.reports.page import Grid, Page, Widths
from metaprune_pl.reports.pruned import Pruned
from metaprune_pl.reports.results import Experiment
from metaprune_pl.reports.summary import (
    choice_sentence,
    cost_sentence,
    flat_region_sentence,
    methods_of,
)
from metaprune_pl.reports.summary import recommendation as recommended
from metaprune_pl.reports.tables import curve_cells, pruned_cells
from metaprune_pl.reports.text import count, decimal, percent

KEPT = 0.01
"""Accuracy that a network which is recommended has lost at most."""


def page_of_pruned(results: Sequence[Pruned]) -> Page:
    """Return the page of one network that was pruned to several targets."""
    first = results[0]
    points = [
        (result.speed_up, 100 * result.accuracy_finetuned, _said(result)) for result in results
    ]
    dense = (1.0, 100 * first.accuracy_given, f"as given: {percent(first.accuracy_given)} %")
    chart = Chart(
        x_label="speed-up",
        y_label="test accuracy (%)",
        series=[
            Series(name="as given", points=[dense], line=False),
            Series(name="pruned and finetuned", points=points),
        ],
    )
    return Page(
        title=f"{first.network}, pruned",
        sentences=[recommendation(results)],
        charts=[chart],
        grids=[_accuracies(results), *([_times(results)] if first.latency else [])],
        widths=[Widths(name=f"{r.target:g}x", layers=r.widths) for r in results if r.widths],
    )


def recommendation(results: Sequence[Pruned]) -> str:
    """Say which of several networks to take."""
    kept = [r for r in results if r.accuracy_finetuned >= r.accuracy_given - KEPT]
    if kept:
        best = max(kept, key=lambda result: result.speed_up)
        return (
            f"Take {best.speed_up:.2f}x: its test accuracy is "
            f"{percent(best.accuracy_finetuned)} %, that of the network as given "
            f"{percent(best.accuracy_given)} %."
        )
    best = max(results, key=lambda result: result.accuracy_finetuned)
    lost = 100 * (best.accuracy_given - best.accuracy_finetuned)
    return (
        f"None keeps the accuracy within {100 * KEPT:g} point: the best, {best.speed_up:.2f}x, "
        f"loses {lost:.2f} points. Train longer after pruning, or lower the target."
    )


def _said(result: Pruned) -> str:
    return (
        f"{result.speed_up:.2f}x: {percent(result.accuracy_finetuned)} %, {count(result.macs)} "
        f"multiply-accumulates, {count(result.parameters)} parameters"
    )


def _accuracies(results: Sequence[Pruned]) -> Grid:
    columns, rows = Pruned.columns(results), [result.cells for result in results]
    return Grid(title="Test accuracy", columns=columns, rows=rows)


def _times(results: Sequence[Pruned]) -> Grid:
    sizes = list(results[0].latency)
    before = [decimal(results[0].latency_unpruned[size]) for size in sizes]
    rows = [("as given", *before)]
    rows += [(f"{r.target:g}x", *(r.time(size) for size in sizes)) for r in results]
    title = "Milliseconds of a forward pass on the machine of the run"
    return Grid(title=title, columns=["", *(f"batch {size}" for size in sizes)], rows=rows)


def page_of_experiment(experiment: Experiment) -> Page:
    """Return the page of an experiment."""
    charts = [_curves(experiment)] if experiment.curves else []
    columns, rows = pruned_cells(experiment)
    grids = [Grid(title="Pruned networks: test accuracy", columns=columns, rows=rows)]
    flat = curve_cells(experiment)
    columns = ["method", "unpruned %", "flat to", "area"]
    grids.append(Grid(title="Curves before finetuning", columns=columns, rows=flat))
    sentences = [recommended(experiment), flat_region_sentence(experiment)]
    sentences += [choice_sentence(experiment), cost_sentence(experiment.costs)]
    return Page(
        title="Experiment",
        sentences=sentences,
        charts=charts,
        grids=[grid for grid in grids if grid.rows],
    )


def _curves(experiment: Experiment) -> Chart:
    series = []
    for method in methods_of(experiment.curves):
        for curve in (c for c in experiment.curves if c.method == method):
            said = f"{method}, {curve.network}"
            points = [(x, 100 * y, f"{said}, {x:.2f}x: {percent(y)} %") for x, y in curve.line]
            series.append(Series(name=method, points=points))
    over, _ = OVER[experiment.curves[0].over]
    return Chart(x_label=over, y_label="accuracy without finetuning (%)", series=series)
