"""Figures of statistics.

The origin is orange, the network ready for pruning blue (paper, figures 7 and 13 to 15).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metaprune_pl.reports.analysis import LABELS, MANY, OUTLIERS, Analysis, histograms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORIGIN = "#ff7f0e"
AFTER = "#1f77b4"
PANELS = 6
"""Panels of a figure of histograms: all layers together, and some layers evenly spread."""
WIDE = 100.0
"""Layer means that differ by more than this factor are drawn on a logarithmic axis."""


def draw_analysis(analysis: Analysis) -> "dict[str, Figure]":
    """Draw all figures.

    `layers`, and `histogram_STATISTIC` for each statistic with several values in a layer.
    """
    figures = {"layers": draw_layers(analysis)}
    for name in analysis.origin:
        figure = draw_histograms(analysis, name)
        if figure is not None:
            figures[f"histogram_{name}"] = figure
    return figures


def draw_layers(analysis: Analysis) -> "Figure":
    """Draw the mean of each statistic over the layers (figures 7, 13, 14 and 15)."""
    from matplotlib.figure import Figure

    means = analysis.means()
    figure = Figure(figsize=(13, 6.2), dpi=150, layout="constrained")
    panels = figure.subplots(2, 4).flatten()
    for axes, (name, (origin, after)) in zip(panels, means.items(), strict=False):
        layers = range(1, len(origin) + 1)
        marker = "o" if len(origin) <= 25 else ""
        for values, color in ((origin, ORIGIN), (after, AFTER)):
            axes.plot(
                layers,
                values,
                color=color,
                linewidth=1.6,
                marker=marker,
                markersize=3,
            )
        _scale(axes, [*origin, *after])
        axes.set_title(LABELS[name], fontsize=10)
        axes.set_xlabel("pruning group" if name == "group_score" else "layer", fontsize=9)
        axes.grid(alpha=0.3)
    for axes in panels[len(means) :]:
        axes.axis("off")
    lines = panels[0].lines[:2]
    panels[-1].legend(
        lines,
        _names(analysis),
        loc="center",
        fontsize=10,
        frameon=False,
    )
    title = f"{analysis.network}: mean in each layer ({analysis.images} validation images)"
    figure.suptitle(title, fontsize=11)
    return figure


def draw_histograms(analysis: Analysis, name: str) -> "Figure | None":
    """Draw how the values of a statistic are spread in some layers.

    None where no layer has several.
    """
    from matplotlib.figure import Figure

    drawn = _histogram_values(analysis, name)
    if not drawn:
        return None
    figure = Figure(figsize=(12, 6), dpi=150, layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for axes, (layer, both) in zip(panels, drawn.items(), strict=False):
        _draw_histogram(axes, both)
        axes.set_title(f"{layer} ({len(both[0]):,} values)", fontsize=9)
    for axes in panels[len(drawn) :]:
        axes.axis("off")
    handles = panels[0].patches[1::2]
    names = _names(analysis)
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    title = f"{analysis.network}: {LABELS[name]}"
    if max(len(both[0]) for both in drawn.values()) > MANY:
        largest = f"the largest {100 * OUTLIERS:g} %"
        title += f"; of over {MANY:,} values the last bin also counts {largest}"
    figure.suptitle(title, fontsize=11)
    return figure


def _histogram_values(analysis: Analysis, name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Values of both networks by panel; {} where no layer has several."""
    origin = analysis.origin[name]
    after = analysis.after[name]
    several = [layer for layer, values in origin.items() if len(values) > 1]
    if not several:
        return {}
    whole = "all pruning groups" if name == "group_score" else "all layers"
    values = {whole: (torch.cat(list(origin.values())), torch.cat(list(after.values())))}
    panels = min(PANELS - 1, len(several))
    spread = torch.linspace(0, len(several) - 1, panels).round().int()
    for index in spread.tolist():
        layer = several[index]
        values[layer] = (origin[layer], after[layer])
    return values


def _draw_histogram(axes: "Axes", both: tuple[Tensor, Tensor]) -> None:
    edges, histogram_counts = histograms(both)
    for counts, color in zip(histogram_counts, (ORIGIN, AFTER), strict=True):
        total = sum(counts)
        percentages = [100 * count / total for count in counts]
        axes.stairs(percentages, edges, color=color, fill=True, alpha=0.3)
        axes.stairs(percentages, edges, color=color, linewidth=1.4)
    axes.set_ylabel("% of the values", fontsize=9)
    axes.ticklabel_format(
        axis="x",
        style="sci",
        scilimits=(-2, 3),
    )
    axes.grid(alpha=0.3)


def _names(analysis: Analysis) -> list[str]:
    names = ("origin", analysis.change)
    pairs = zip(names, analysis.accuracy, strict=True)
    return [f"{name} ({100 * accuracy:.1f} %)" for name, accuracy in pairs]


def _scale(axes: "Axes", values: list[float]) -> None:
    """Take a logarithmic axis where values are far apart, and one from 0 where not."""
    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
