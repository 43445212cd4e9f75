"""Figures of statistics.

The origin is orange, the network ready for pruning blue (paper, figures 7 and 13 to 15).
"""

from typing import TYPE_CHECKING

import torch

from metaprune_pl.reports.analysis import LABELS, MANY, OUTLIERS, Analysis, histograms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORIGIN, AFTER = "#ff7f0e", "#1f77b4"
PANELS = 6
"""Panels of a picture of histograms: all layers together, and some layers evenly spread."""
WIDE = 100.0
"""Layer means that differ by more than this factor are drawn on a logarithmic axis."""


def draw_analysis(analysis: Analysis) -> "dict[str, Figure]":
    """Draw all figures.

    `layers`, and `histogram_STATISTIC` for each statistic with several values in a layer.
    """
    drawn = {f"histogram_{name}": draw_histograms(analysis, name) for name in analysis.origin}
    return {"layers": draw_layers(analysis)} | {
        name: figure for name, figure in drawn.items() if figure is not None
    }


def draw_layers(analysis: Analysis) -> "Figure":
    """Draw the mean of each statistic over the layers (figures 7, 13, 14 and 15)."""
    from matplotlib.figure import Figure

    means = analysis.means()
    figure = Figure(figsize=(13, 6.2), dpi=150, layout="constrained")
    panels = figure.subplots(2, 4).flatten()
    for axes, (name, (origin, after)) in zip(panels, means.items(), strict=False):
        mark = "o" if len(origin) <= 25 else ""
        for values, color in ((origin, ORIGIN), (after, AFTER)):
            axes.plot(
                range(1, len(values) + 1),
                values,
                color=color,
                linewidth=1.6,
                marker=mark,
                markersize=3,
            )
        _scale(axes, [*origin, *after])
        axes.set_title(LABELS[name], fontsize=10)
        axes.set_xlabel("pruning group" if name == "group_score" else "layer", fontsize=9)
        axes.grid(alpha=0.3)
    for axes in panels[len(means) :]:
        axes.axis("off")
    handles = [panels[0].lines[0], panels[0].lines[1]]
    panels[-1].legend(handles, _names(analysis), loc="center", fontsize=10, frameon=False)
    figure.suptitle(
        f"{analysis.network}: mean in each layer ({analysis.images} validation images)", fontsize=11
    )
    return figure


def draw_histograms(analysis: Analysis, name: str) -> "Figure | None":
    """Draw how the values of a statistic are spread in some layers.

    None where no layer has several.
    """
    from matplotlib.figure import Figure

    origin, after = analysis.origin[name], analysis.after[name]
    several = [layer for layer, values in origin.items() if len(values) > 1]
    if not several:
        return None
    places = (
        torch.linspace(0, len(several) - 1, min(PANELS - 1, len(several))).round().int().tolist()
    )
    every = "all pruning groups" if name == "group_score" else "all layers"
    drawn = {every: (torch.cat(list(origin.values())), torch.cat(list(after.values())))}
    drawn |= {several[place]: (origin[several[place]], after[several[place]]) for place in places}
    figure = Figure(figsize=(12, 6), dpi=150, layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for axes, (layer, both) in zip(panels, drawn.items(), strict=False):
        edges, counts = histograms(both)
        for values, color in zip(counts, (ORIGIN, AFTER), strict=True):
            share = [100 * count / sum(values) for count in values]
            axes.stairs(share, edges, color=color, fill=True, alpha=0.3)
            axes.stairs(share, edges, color=color, linewidth=1.4)
        axes.set_title(f"{layer} ({len(both[0]):,} values)", fontsize=9)
        axes.set_ylabel("% of the values", fontsize=9)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
        axes.grid(alpha=0.3)
    for axes in panels[len(drawn) :]:
        axes.axis("off")
    figure.legend(
        panels[0].patches[1::2],
        _names(analysis),
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    last = f"; of over {MANY:,} values the last bin also counts the largest {100 * OUTLIERS:g} %"
    last = last if len(drawn[every][0]) > MANY else ""
    figure.suptitle(f"{analysis.network}: {LABELS[name]}{last}", fontsize=11)
    return figure


def _names(analysis: Analysis) -> list[str]:
    return [
        f"{name} ({100 * accuracy:.1f} %)"
        for name, accuracy in zip(("origin", analysis.change), analysis.accuracy, strict=True)
    ]


def _scale(axes: "Axes", values: list[float]) -> None:
    """Take a logarithmic axis where values are far apart, and one from 0 where not."""
    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
