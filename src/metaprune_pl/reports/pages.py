"""Which page a result of a command has."""

from collections.abc import Sequence
from typing import Any

from metaprune_pl.reports.chart import Chart, Series
from metaprune_pl.reports.comparison import Comparison
from metaprune_pl.reports.curves import OVER, Curve
from metaprune_pl.reports.page import Page, Widths
from metaprune_pl.reports.pruned import Pruned
from metaprune_pl.reports.results import Experiment
from metaprune_pl.reports.summary import (
    choice_sentence,
    cost_sentence,
    flat_region_sentence,
    methods_of,
)
from metaprune_pl.reports.summary import recommendation as recommended
from metaprune_pl.reports.tables import experiment_tables
from metaprune_pl.reports.text import Grid, count, decimal, percent

KEPT = 0.01
"""Accuracy that a network which is recommended has lost at most."""


def page_of_results(results: Sequence[Any]) -> Page:
    """Return the page of one network's results."""
    kind = type(results[0])
    if kind is Pruned:
        return page_of_pruned(results)
    grid = kind.table(results)
    return Page(title=grid.title, sentences=kind.notes(results), grids=[grid])


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
        sentences=[recommendation(results), *Pruned.notes(results)],
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
            f"{percent(best.accuracy_given)} %: {best.change}."
        )
    best = max(results, key=lambda result: result.accuracy_finetuned)
    return (
        f"None keeps the accuracy within {100 * KEPT:g} point: the best, {best.speed_up:.2f}x, "
        f"has {best.change}. Train longer after pruning, or lower the target."
    )


def _said(result: Pruned) -> str:
    return (
        f"{result.speed_up:.2f}x: {percent(result.accuracy_finetuned)} %, {count(result.macs)} "
        f"multiply-accumulates, {count(result.parameters)} parameters"
    )


def _accuracies(results: Sequence[Pruned]) -> Grid:
    columns, rows = Pruned.cells(results)
    return Grid(Pruned.title(results), columns, rows)


def _times(results: Sequence[Pruned]) -> Grid:
    sizes = list(results[0].latency)
    first = results[0]
    spread = first.latency_unpruned_spread
    before = [decimal(first.latency_unpruned[size], spread.get(size)) for size in sizes]
    rows = [("as given", *before)]
    rows += [(f"{r.target:g}x", *(r.time(size) for size in sizes)) for r in results]
    title = f"Milliseconds of a forward pass on the machine of the run, in {first.runtime}"
    return Grid(title, ["", *(f"batch {size}" for size in sizes)], rows)


def page_of_experiment(experiment: Experiment) -> Page:
    """Return the page of an experiment."""
    sentences = [recommended(experiment), flat_region_sentence(experiment)]
    sentences += [choice_sentence(experiment), cost_sentence(experiment.costs)]
    return Page(
        title="Experiment",
        sentences=sentences,
        charts=_curves(experiment.curves),
        grids=experiment_tables(experiment),
    )


def page_of_comparison(comparison: Comparison) -> Page:
    """Return the page of several experiments."""
    sentence = "A row for the networks of each experiment, a column for each way to prune them."
    charts = [] if comparison.exchanged else _curves(comparison.curves)
    return Page(title="Comparison", sentences=[sentence], charts=charts, grids=comparison.tables())


def _curves(curves: Sequence[Curve]) -> list[Chart]:
    """Return a chart of curves, a colour for a method; none where there are no curves."""
    series = []
    for method in methods_of(curves):
        for curve in (c for c in curves if c.method == method):
            said = f"{method}, {curve.network}"
            points = [(x, 100 * y, f"{said}, {x:.2f}x: {percent(y)} %") for x, y in curve.line]
            series.append(Series(name=method, points=points))
    if not series:
        return []
    over, _ = OVER[curves[0].over]
    return [Chart(x_label=over, y_label="accuracy without finetuning (%)", series=series)]
