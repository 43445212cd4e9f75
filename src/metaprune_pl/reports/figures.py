"""Curves as pictures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metaprune_pl.reports.comparison import MEASURES, Comparison
from metaprune_pl.reports.results import Curve, Masked, Selection, StageCost
from metaprune_pl.reports.summary import FLAT_DROP, amortised, break_even, methods_of

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


def _points(curve: Curve) -> tuple[list[float], list[float]]:
    """Speed-ups, and accuracies in percent."""
    return [point.speed_up for point in curve.points], [100 * point.accuracy for point in curve.points]


def _name_axes(axes: "Axes", split: str) -> None:
    """Say what a curve is of."""
    axes.set_xlabel("speed-up (multiply-accumulates of the unpruned network / of the pruned one)")
    axes.set_ylabel(f"{split} accuracy without finetuning (%)")


def draw_curves(curves: Sequence[Curve]) -> "Figure":
    """Draw accuracy over speed-up: a colour for each method, a line for each network, a dot where it ends."""
    figure, axes = _sheet()
    methods = methods_of(curves)
    others = [method for method in methods if method not in COLORS]
    gradual = _gradual_colors(len(others))
    for method in methods:
        same = [curve for curve in curves if curve.method == method]
        color = COLORS[method] if method in COLORS else gradual(others.index(method))
        for number, curve in enumerate(same):
            label = (
                f"{method.replace('_', ' ')} ({len(same)} network{'s' if len(same) > 1 else ''})"
                if number == 0
                else None
            )
            axes.plot(*_points(curve), color=color, alpha=0.85, linewidth=1.6, label=label)
            flat = curve.flat_region(FLAT_DROP)
            axes.plot([flat], [100 * (curve.points[0].accuracy - FLAT_DROP)], "o", color=color, markersize=5)
    _name_axes(axes, curves[0].split)
    axes.set_title(
        f"Accuracy over speed-up; dots: end of the flat region ({100 * FLAT_DROP:g} points down)", fontsize=10
    )
    if len(methods) > 4:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    else:
        axes.legend()
    return figure


def draw_beside(curves: Mapping[str, Curve]) -> "Figure":
    """Draw curves of several runs by their folders, named from where these part."""
    figure, axes = _sheet()
    colors = _gradual_colors(len(curves))
    start = os.path.commonpath([os.path.abspath(folder) for folder in curves])
    for number, (folder, curve) in enumerate(curves.items()):
        first, flat = curve.points[0].accuracy, curve.flat_region(FLAT_DROP)
        axes.plot(
            *_points(curve), color=colors(number), linewidth=1.8,
            label=f"{os.path.relpath(folder, start)}: {100 * first:.1f} %, flat to {flat:.2f}x",
        )  # fmt: skip
    _name_axes(axes, next(iter(curves.values())).split)
    axes.set_title("Accuracy over speed-up, by folder", fontsize=10)
    short = all(len(str(line.get_label())) < 45 for line in axes.lines)
    figure.legend(loc="outside lower center", ncols=2 if short else 1, frameon=False)
    return figure


def draw_epochs(selection: Selection) -> "Figure":
    """Draw the curves of metanetworks of several epochs, the chosen one thick, and the accuracy to keep."""
    figure, axes = _sheet()
    colors = _gradual_colors(len(selection.curves))
    chosen = Path(selection.metanetwork).name
    for number, (name, curve) in enumerate(selection.curves.items()):
        axes.plot(
            *_points(curve), color=colors(number), linewidth=3 if name == chosen else 1.3,
            label=f"{name}: area {curve.area:.4f}" + (", chosen" if name == chosen else ""),
        )  # fmt: skip
    axes.axhline(100 * selection.target, color="black", linestyle=":", linewidth=1, label="accuracy to keep")
    _name_axes(axes, "validation")
    axes.set_title(f"{len(selection.curves)} of {selection.candidates} metanetworks", fontsize=10)
    axes.legend()
    return figure


def draw_masks(results: Sequence[Masked]) -> "Figure":
    """Draw accuracy over the share of parameters left, straight after masking and after finetuning; patterns named."""
    figure, axes = _sheet()
    points = sorted(results, key=lambda masked: masked.left)
    for name, color in (("masked", "#7f7f7f"), ("finetuned", "#d62728")):
        accuracies = [(100 * m.left, 100 * float(getattr(m, f"accuracy_{name}")), m.target) for m in points]
        shares = [(left, accuracy) for left, accuracy, target in accuracies if ":" not in target]
        axes.plot([x for x, _ in shares], [y for _, y in shares], "o-", color=color, label=f"unstructured, {name}")
        patterns = [point for point in accuracies if ":" in point[2]]
        axes.plot([x for x, _, _ in patterns], [y for _, y, _ in patterns], "s", color=color, mfc="white", zorder=3)
        for x, y, target in patterns:
            axes.annotate(target, (x, y), xytext=(5, -11), textcoords="offset points", fontsize=8, color=color)
    axes.axhline(100 * results[0].accuracy_before, color="black", linestyle=":", linewidth=1, label="before masking")
    axes.set_xlabel("parameters left (%)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(f"{results[0].network}, {results[0].method}; squares: patterns N:M", fontsize=10)
    axes.invert_xaxis()
    axes.legend()
    return figure


def draw_matrix(comparison: Comparison) -> "Figure":
    """Draw a heat map for each measure: a row for the networks of an experiment, coloured by its gain over `none`."""
    from matplotlib.figure import Figure

    measures = {measure: found for measure in MEASURES if (found := comparison.matrix(measure))}
    columns, rows = comparison.columns, comparison.labels
    figure = Figure(
        figsize=(3 + 1.15 * len(columns), (1.3 + 0.55 * len(rows)) * len(measures)), dpi=150, layout="constrained"
    )
    for axes, (measure, found) in zip(
        figure.subplots(len(measures), squeeze=False).flat, measures.items(), strict=True
    ):
        factor = 1 if measure == "flat_region" else 100
        gains = [
            [factor * (e[c][0] - e["none"][0]) if c in e and "none" in e else float("nan") for c in columns]
            for e in found.values()
        ]
        limit = max((abs(gain) for row in gains for gain in row if gain == gain), default=0) or 1
        image = axes.imshow(gains, cmap="RdBu", vmin=-1.6 * limit, vmax=1.6 * limit, aspect="auto")
        for y, entries in enumerate(found.values()):
            for x, column in enumerate(columns):
                mean, spread = entries.get(column, (None, None))
                text = "" if mean is None else f"{factor * mean:.2f}"
                axes.text(
                    x,
                    y,
                    text + (f"\n± {factor * spread:.2f}" if spread is not None else ""),
                    ha="center",
                    va="center",
                    size=8,
                )
        axes.set_yticks(range(len(rows)), list(rows.values()), size=8)
        names = [column.replace("_", " ").replace(" ", "\n", 1) for column in columns]
        axes.set_xticks(range(len(columns)), names, size=8)
        axes.set_title(MEASURES[measure], fontsize=9)
        figure.colorbar(image, ax=axes, label="gain over none")
    return figure


def draw_cost(costs: Sequence[StageCost]) -> "Figure":
    """Draw seconds for each network over the number of networks: what is spent once is shared by them (figure 8)."""
    figure, axes = _sheet()
    amounts = amortised(costs)
    _, crossing = break_even(costs)
    last = max(20, 3 * max((n for n in crossing.values() if n is not None and n <= 200), default=0))
    numbers = range(1, last + 1)
    for index, (method, (once, each)) in enumerate(amounts.items()):
        color = COLORS.get(method, f"C{index}")
        label = f"{method.replace('_', ' ')}: {once:.0f} s once, {each:.1f} s each"
        axes.plot(numbers, [once / n + each for n in numbers], color=color, linewidth=1.8, label=label)
    axes.set_xlabel("number of networks that are pruned")
    axes.set_ylabel("seconds for each network")
    axes.set_ylim(bottom=0)
    axes.set_title("Cost; the metanetworks' data models, meta-training and choice are shared", fontsize=10)
    axes.legend()
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(new)
    os.replace(new, path)
