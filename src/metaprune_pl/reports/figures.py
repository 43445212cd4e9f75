"""Figures of curves, comparisons and costs."""

import itertools
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metaprune_pl.errors import ConfigError
from metaprune_pl.files import check_new, whole_file
from metaprune_pl.reports.choice import Selection, Shape
from metaprune_pl.reports.comparison import MEASURES, Comparison
from metaprune_pl.reports.curves import FLAT_DROP, OVER, Curve
from metaprune_pl.reports.results import StageCost
from metaprune_pl.reports.summary import amortised, break_even, methods_of
from metaprune_pl.reports.text import percent

PICTURES = (".png", ".pdf", ".svg")
"""Endings of their names."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLORS: dict[str, Any] = {
    "none": "#7f7f7f",
    "sparsity_learning": "#1f77b4",
    "metanetwork": "#d62728",
}


def _sheet() -> "tuple[Figure, Axes]":
    """An empty figure of the usual size, and its axes."""
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
    colors = COLORS | {method: gradual(index) for index, method in enumerate(others)}
    return {method: colors[method] for method in methods}


def _points(curve: Curve) -> tuple[list[float], list[float]]:
    """Speed-ups or compressions, and accuracies in percent."""
    xs = [x for x, _ in curve.line]
    percentages = [100 * accuracy for _, accuracy in curve.line]
    return xs, percentages


def _name_axes(axes: "Axes", curve: Curve) -> None:
    """Label the axes of a curve."""
    name, meaning = OVER[curve.over]
    axes.set_xlabel(f"{name} ({meaning})")
    axes.set_ylabel(f"{curve.split} accuracy without finetuning (%)")


def _mean(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    """Mean of curves where all of them are, as `_points`; one alone is itself."""
    if len(curves) == 1:
        return _points(curves[0])
    lines = [_points(curve) for curve in curves]
    first = max(xs[0] for xs, _ in lines)
    last = min(xs[-1] for xs, _ in lines)
    grid = np.linspace(first, last, 200)
    interpolated = [np.interp(grid, xs, ys) for xs, ys in lines]
    return list(grid), list(np.mean(interpolated, axis=0))


def draw_curves(curves: Sequence[Curve]) -> "Figure":
    """Draw accuracy over speed-up or compression.

    A colour for each method, thin lines for networks, a thick mean.
    """
    figure, axes = _sheet()
    networks = len({curve.network for curve in curves})
    for method, color in colors_of(methods_of(curves)).items():
        same = [curve for curve in curves if curve.method == method]
        _draw_method(axes, same, method, color)
    _name_axes(axes, curves[0])
    subject = curves[0].network
    if networks > 1:
        subject = f"{networks} networks (thin) and their mean (thick)"
    dots = f"end of the flat region ({100 * FLAT_DROP:g} points down)"
    axes.set_title(f"{subject}; dots: {dots}", fontsize=10)
    legend_below(figure)
    return figure


def _draw_method(axes: "Axes", curves: Sequence[Curve], method: str, color: Any) -> None:
    """Draw the curves of one method, their mean, and a dot at the end of its flat region."""
    if len(curves) > 1:
        for curve in curves:
            axes.plot(
                *_points(curve),
                color=color,
                alpha=0.35,
                linewidth=0.9,
            )
    axes.plot(
        *_mean(curves),
        color=color,
        linewidth=2.2,
        label=method.replace("_", " "),
    )
    flat = statistics.fmean(curve.flat_region(FLAT_DROP) for curve in curves)
    accuracy = statistics.fmean(curve.points[0].accuracy for curve in curves)
    dot = {"color": color, "markersize": 6, "markeredgecolor": "white", "zorder": 3}
    axes.plot(
        [flat],
        [100 * (accuracy - FLAT_DROP)],
        "o",
        **dot,
    )


def legend_below(figure: "Figure") -> None:
    """Put a legend where it hides nothing, in as many columns as there is room for."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    longest = max(map(len, labels))
    columns = max(1, int(13 * figure.get_figwidth() / (longest + 7)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def draw_beside(curves: Mapping[str, Curve]) -> "Figure":
    """Draw curves of several runs by their folders, relative to the one they share."""
    figure, axes = _sheet()
    colors = _gradual_colors(len(curves))
    start = os.path.commonpath([os.path.abspath(folder) for folder in curves])
    for index, (folder, curve) in enumerate(curves.items()):
        name = os.path.relpath(folder, start)
        percentage = 100 * curve.points[0].accuracy
        label = f"{name}: {percentage:.1f} %, flat to {curve.flat_region(FLAT_DROP):.2f}x"
        axes.plot(
            *_points(curve),
            color=colors(index),
            linewidth=1.8,
            label=label,
        )
    first = next(iter(curves.values()))
    _name_axes(axes, first)
    axes.set_title(f"Accuracy over {OVER[first.over][0]}, by folder", fontsize=10)
    legend_below(figure)
    return figure


def draw_epochs(selection: Selection) -> "Figure":
    """Draw the curves that a metanetwork was chosen by: see `draw_by_epoch`."""
    figure = draw_by_epoch(selection.curves, selection.target, selection.chosen)
    title = f"{len(selection.curves)} of {selection.candidates} metanetworks"
    figure.axes[0].set_title(title, fontsize=10)
    return figure


def draw_by_epoch(
    epochs: Mapping[str, Sequence[Curve]], target: float, chosen: str | None = None
) -> "Figure":
    """Draw the curves of metanetworks by epoch, means over networks.

    Args:
        epochs: Curves of each epoch, one for each network.
        target: Accuracy to keep, a dotted line.
        chosen: The epoch whose curve is thick.
    """
    figure, axes = _sheet()
    colors = _gradual_colors(len(epochs))
    label_every = len(epochs) // 25 + 1
    for index, (name, curves) in enumerate(epochs.items()):
        label: str | None = None
        width = 1.3
        shape = Shape.of(curves)
        text = f"{name}: {percent(shape.accuracy)} %, to {shape.flat_region:.2f}x"
        if index % label_every == 0:
            label = text
        if name == chosen:
            label = f"{text}, chosen"
            width = 3.0
        axes.plot(
            *_mean(curves),
            color=colors(index),
            linewidth=width,
            label=label,
        )
    axes.axhline(
        100 * target,
        color="black",
        linestyle=":",
        linewidth=1,
        label="accuracy to keep",
    )
    first = next(iter(epochs.values()))[0]
    _name_axes(axes, first)
    figure.set_figwidth(9)
    figure.legend(
        loc="outside right upper", title="flat region: accuracy, end", fontsize=8, frameon=False
    )
    return figure


def draw_matrix(comparison: Comparison) -> "Figure":
    """Draw a heat map for each measure.

    A row for the networks of an experiment, coloured by its gain over `none`.
    """
    from matplotlib.figure import Figure

    measures = [measure for measure in MEASURES if comparison.matrix(measure)]
    width = 3 + 1.15 * len(comparison.columns)
    height = 1.3 + 0.55 * len(comparison.experiments)
    figure = Figure(
        figsize=(width, height * len(measures)),
        dpi=150,
        layout="constrained",
    )
    panels = figure.subplots(len(measures), squeeze=False).flat
    for axes, measure in zip(panels, measures, strict=True):
        _draw_measure(axes, comparison, measure)
    cells = itertools.product(comparison.experiments, comparison.columns)
    if any(comparison.own(name, column) for name, column in cells):
        note = "bold: the metanetwork has learnt from networks of the same kind"
        figure.suptitle(note, fontsize=8)
    return figure


def _draw_measure(axes: "Axes", comparison: Comparison, measure: str) -> None:
    """Draw the heat map of a measure: mean and deviation of each method on each row's networks."""
    matrix = comparison.matrix(measure)
    columns = comparison.columns
    factor = 1 if measure == "flat_region" else 100
    gains = [_gains(entries, columns, factor) for entries in matrix.values()]
    limit = np.nanmax(np.abs([*gains, [0.0] * len(columns)])) or 1
    image = axes.imshow(
        gains,
        cmap="RdBu",
        vmin=-1.6 * limit,
        vmax=1.6 * limit,
        aspect="auto",
    )
    for y, (name, entries) in enumerate(matrix.items()):
        for x, column in enumerate(columns):
            mean, spread = entries.get(column, (None, None))
            text = "" if mean is None else f"{factor * mean:.2f}"
            if spread is not None:
                text += f"\n± {factor * spread:.2f}"
            weight = "bold" if comparison.own(name, column) else "normal"
            axes.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                size=8,
                weight=weight,
            )
    axes.set_yticks(range(len(matrix)), list(comparison.labels(measure).values()), size=8)
    axes.set_ylabel("networks of", fontsize=8)
    names = [column.replace("_", " ").replace(" ", "\n", 1) for column in columns]
    axes.set_xticks(range(len(columns)), names, size=8)
    axes.set_title(MEASURES[measure], fontsize=9)
    axes.figure.colorbar(image, ax=axes, label="gain over none")


def _gains(
    entries: Mapping[str, tuple[float, float | None]], columns: Sequence[str], factor: float
) -> list[float]:
    """Gains over `none` in a row of a matrix; NaN where either is missing."""
    gains = []
    for column in columns:
        gain = float("nan")
        if column in entries and "none" in entries:
            gain = factor * (entries[column][0] - entries["none"][0])
        gains.append(gain)
    return gains


def draw_cost(costs: Sequence[StageCost]) -> "Figure":
    """Draw seconds for each network over the number of networks.

    What is spent once is shared by them (figure 8).
    """
    figure, axes = _sheet()
    amounts = amortised(costs)
    _, crossing = break_even(costs)
    near = [count for count in crossing.values() if count is not None and count <= 200]
    counts = range(1, max(20, 3 * max(near, default=0)) + 1)
    for method, color in colors_of(list(amounts)).items():
        once, each = amounts[method]
        label = f"{method.replace('_', ' ')}: {once:.0f} s once, {each:.1f} s each"
        seconds = [once / count + each for count in counts]
        axes.plot(counts, seconds, color=color, linewidth=1.8, label=label)
    axes.set_xlabel("number of networks that are pruned")
    axes.set_ylabel("seconds for each network")
    axes.set_ylim(bottom=0)
    title = "Cost; the metanetworks' data models, meta-training and choice are shared"
    axes.set_title(title, fontsize=10)
    axes.legend()
    return figure


def check_figure(path: Path) -> None:
    """Refuse a name that is no picture's, or that something has already.

    Raises:
        ConfigError: It ends in something else.
        StorageError: It is taken.
    """
    if path.suffix not in PICTURES:
        raise ConfigError(f"figure '{path}': the name of a picture ends in {', '.join(PICTURES)}.")
    check_new(path)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure that appears whole or not at all."""
    with whole_file(path) as new:
        figure.savefig(new)
