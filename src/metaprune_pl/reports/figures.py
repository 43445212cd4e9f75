"""Curves as pictures."""

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metaprune_pl.files import whole_file
from metaprune_pl.reports.comparison import MEASURES, Comparison
from metaprune_pl.reports.curves import Curve, Selection
from metaprune_pl.reports.results import StageCost
from metaprune_pl.reports.summary import FLAT_DROP, OVER, amortised, break_even, methods_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLORS = {"none": "#7f7f7f", "sparsity_learning": "#1f77b4", "metanetwork": "#d62728"}


def _sheet() -> "tuple[Figure, Axes]":
    """An empty picture of the usual size, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _gradual_colors(count: int) -> "Colormap":
    """Colours from dark to light for lines in an order."""
    from matplotlib import colormaps

    return colormaps["viridis"].resampled(count + 1)  # its last colour is too bright for a line


def colors_of(methods: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each method: always the same for the three of the paper."""
    others = [method for method in methods if method not in COLORS]
    gradual = _gradual_colors(len(others))
    return {
        method: COLORS[method] if method in COLORS else gradual(others.index(method))
        for method in methods
    }


def _points(curve: Curve) -> tuple[list[float], list[float]]:
    """Speed-ups or compressions, and accuracies in percent."""
    return [x for x, _ in curve.line], [100 * accuracy for _, accuracy in curve.line]


def _name_axes(axes: "Axes", curve: Curve) -> None:
    """Say what a curve is of."""
    name, meaning = OVER[curve.over]
    axes.set_xlabel(f"{name} ({meaning})")
    axes.set_ylabel(f"{curve.split} accuracy without finetuning (%)")


def _mean(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    """Mean of curves where all of them are, as `_points`; one alone is itself."""
    if len(curves) == 1:
        return _points(curves[0])
    lines = [_points(curve) for curve in curves]
    grid = np.linspace(max(xs[0] for xs, _ in lines), min(xs[-1] for xs, _ in lines), 200)
    return list(grid), list(np.mean([np.interp(grid, xs, ys) for xs, ys in lines], axis=0))


def draw_curves(curves: Sequence[Curve]) -> "Figure":
    """Draw accuracy over speed-up or compression.

    A colour for each method, thin lines for networks, a thick mean.
    """
    figure, axes = _sheet()
    networks = len({curve.network for curve in curves})
    for method, color in colors_of(methods_of(curves)).items():
        same = [curve for curve in curves if curve.method == method]
        for curve in same if len(same) > 1 else ():
            axes.plot(*_points(curve), color=color, alpha=0.35, linewidth=0.9)
        axes.plot(*_mean(same), color=color, linewidth=2.2, label=method.replace("_", " "))
        flat = statistics.fmean(curve.flat_region(FLAT_DROP) for curve in same)
        height = statistics.fmean(curve.points[0].accuracy for curve in same) - FLAT_DROP
        axes.plot(
            [flat],
            [100 * height],
            "o",
            color=color,
            markersize=6,
            markeredgecolor="white",
            zorder=3,
        )
    _name_axes(axes, curves[0])
    who = (
        f"{networks} networks (thin) and their mean (thick)" if networks > 1 else curves[0].network
    )
    axes.set_title(
        f"{who}; dots: end of the flat region ({100 * FLAT_DROP:g} points down)", fontsize=10
    )
    legend_below(figure)
    return figure


def legend_below(figure: "Figure") -> None:
    """Put a legend where it hides nothing, in as many columns as there is room for."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = max(1, int(13 * figure.get_figwidth() / (max(map(len, labels)) + 7)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def draw_beside(curves: Mapping[str, Curve]) -> "Figure":
    """Draw curves of several runs by their folders, named from where these part."""
    figure, axes = _sheet()
    colors = _gradual_colors(len(curves))
    start = os.path.commonpath([os.path.abspath(folder) for folder in curves])
    for number, (folder, curve) in enumerate(curves.items()):
        first, flat = curve.points[0].accuracy, curve.flat_region(FLAT_DROP)
        axes.plot(
            *_points(curve),
            color=colors(number),
            linewidth=1.8,
            label=f"{os.path.relpath(folder, start)}: {100 * first:.1f} %, flat to {flat:.2f}x",
        )
    one = next(iter(curves.values()))
    _name_axes(axes, one)
    axes.set_title(f"Accuracy over {OVER[one.over][0]}, by folder", fontsize=10)
    legend_below(figure)
    return figure


def draw_epochs(selection: Selection) -> "Figure":
    """Draw the curves of metanetworks by epoch.

    The chosen one is thick; a dashed line is the accuracy to keep.
    """
    figure, axes = _sheet()
    colors = _gradual_colors(len(selection.curves))
    chosen, named = Path(selection.metanetwork).name, len(selection.curves) // 25 + 1
    for number, (name, curve) in enumerate(selection.curves.items()):
        label = f"{name}: {curve.area:.4f}" + (", chosen" if name == chosen else "")
        axes.plot(
            *_points(curve),
            color=colors(number),
            linewidth=3 if name == chosen else 1.3,
            label=label if name == chosen or number % named == 0 else None,
        )
    axes.axhline(
        100 * selection.target, color="black", linestyle=":", linewidth=1, label="accuracy to keep"
    )
    _name_axes(axes, selection.curves[chosen])
    axes.set_title(f"{len(selection.curves)} of {selection.candidates} metanetworks", fontsize=10)
    figure.set_figwidth(8.5)
    figure.legend(
        loc="outside right upper", title="area under the curve", fontsize=8, frameon=False
    )
    return figure


def draw_matrix(comparison: Comparison) -> "Figure":
    """Draw a heat map for each measure.

    A row for the networks of an experiment, coloured by its gain over `none`.
    """
    from matplotlib.figure import Figure

    measures = [measure for measure in MEASURES if comparison.matrix(measure)]
    columns, height = comparison.columns, 1.3 + 0.55 * len(comparison.experiments)
    figure = Figure(
        figsize=(3 + 1.15 * len(columns), height * len(measures)), dpi=150, layout="constrained"
    )
    for axes, measure in zip(
        figure.subplots(len(measures), squeeze=False).flat, measures, strict=True
    ):
        _draw_measure(axes, comparison, measure)
    if any(comparison.own(name, column) for name in comparison.experiments for column in columns):
        figure.suptitle(
            "bold: the metanetwork has learnt from networks of the same kind", fontsize=8
        )
    return figure


def _draw_measure(axes: "Axes", comparison: Comparison, measure: str) -> None:
    """Draw the heat map of a measure: mean and deviation of each method on each row's networks."""
    found, columns, factor = (
        comparison.matrix(measure),
        comparison.columns,
        1 if measure == "flat_region" else 100,
    )
    gains = [
        [
            factor * (e[c][0] - e["none"][0]) if c in e and "none" in e else float("nan")
            for c in columns
        ]
        for e in found.values()
    ]
    limit = max((abs(gain) for row in gains for gain in row if gain == gain), default=0) or 1
    image = axes.imshow(gains, cmap="RdBu", vmin=-1.6 * limit, vmax=1.6 * limit, aspect="auto")
    for y, (name, entries) in enumerate(found.items()):
        for x, column in enumerate(columns):
            mean, spread = entries.get(column, (None, None))
            text = "" if mean is None else f"{factor * mean:.2f}"
            text += f"\n± {factor * spread:.2f}" if spread is not None else ""
            weight = "bold" if comparison.own(name, column) else "normal"
            axes.text(x, y, text, ha="center", va="center", size=8, weight=weight)
    axes.set_yticks(range(len(found)), list(comparison.labels(measure).values()), size=8)
    axes.set_ylabel("networks of", fontsize=8)
    axes.set_xticks(
        range(len(columns)), [c.replace("_", " ").replace(" ", "\n", 1) for c in columns], size=8
    )
    axes.set_title(MEASURES[measure], fontsize=9)
    axes.figure.colorbar(image, ax=axes, label="gain over none")


def draw_cost(costs: Sequence[StageCost]) -> "Figure":
    """Draw seconds for each network over the number of networks.

    What is spent once is shared by them (figure 8).
    """
    figure, axes = _sheet()
    amounts = amortised(costs)
    _, crossing = break_even(costs)
    last = max(20, 3 * max((n for n in crossing.values() if n is not None and n <= 200), default=0))
    numbers = range(1, last + 1)
    for (method, (once, each)), color in zip(
        amounts.items(), colors_of(list(amounts)).values(), strict=True
    ):
        label = f"{method.replace('_', ' ')}: {once:.0f} s once, {each:.1f} s each"
        axes.plot(
            numbers, [once / n + each for n in numbers], color=color, linewidth=1.8, label=label
        )
    axes.set_xlabel("number of networks that are pruned")
    axes.set_ylabel("seconds for each network")
    axes.set_ylim(bottom=0)
    axes.set_title(
        "Cost; the metanetworks' data models, meta-training and choice are shared", fontsize=10
    )
    axes.legend()
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture that appears whole or not at all."""
    with whole_file(path) as new:
        figure.savefig(new)
