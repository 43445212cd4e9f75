"""Masked networks by target and method.

Rows, and a picture over the parameters that are left (paper, table 3).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metaprune_pl.reports.figures import colors_of, legend_below
from metaprune_pl.reports.masked import Masked
from metaprune_pl.reports.summary import mean_and_spread, methods_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = {"masked": "straight after masking", "finetuned": "after finetuning"}


def masked_rows(results: Sequence[Masked]) -> list[dict[str, Any]]:
    """One row for each target and method: means over networks."""
    rows = []
    for target in dict.fromkeys(masked.target for masked in results):
        for method in methods_of(results):
            same = [
                masked for masked in results if (masked.target, masked.method) == (target, method)
            ]
            row: dict[str, Any] = {"target": target, "method": method, "networks": len(same)}
            row["left"] = statistics.fmean(masked.left for masked in same)
            for step in STEPS:
                values = [getattr(masked, f"accuracy_{step}") for masked in same]
                row[f"accuracy_{step}"], row[f"accuracy_{step}_std"] = mean_and_spread(values)
            rows.append(row)
    return rows


def whole_sentence(results: Sequence[Masked]) -> str:
    """Name the weights that patterns leave whole; nothing where there are none."""
    whole = {masked.target: ", ".join(masked.dense) for masked in results if masked.dense}
    same = {names: [t for t, other in whole.items() if other == names] for names in whole.values()}
    return "\n".join(
        f"Patterns {', '.join(targets)} leave these whole, whose input channels they do not "
        f"divide: {names}."
        for names, targets in same.items()
    )


def draw_masks(results: Sequence[Masked]) -> "Figure":
    """Draw accuracy over the parameters left before and after finetuning, a colour for a method.

    Means and standard deviations over networks; lines join shares, and squares are patterns.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), dpi=150, layout="constrained")
    rows, colors = masked_rows(results), colors_of(methods_of(results))
    left = sorted({row["target"]: row["left"] for row in rows}.values(), reverse=True)
    part = (left[0] / left[-1]) ** 0.01  # of the picture's width
    for axes, (step, title) in zip(figure.subplots(1, 2), STEPS.items(), strict=True):
        axes.grid(alpha=0.3)
        for index, (method, color) in enumerate(colors.items()):
            aside = part ** (0.5 * index - 0.25 * (len(colors) - 1))  # no bar hides another
            _draw_method(axes, rows, step, method, color, aside)
        _name_patterns(axes, rows, step)
        axes.margins(y=0.1)
        axes.set_xscale("log")
        axes.set_xlim(1.12 * left[0], 0.9 * left[-1])
        pairs = zip([math.inf, *left], left, strict=False)
        apart = [x for before, x in pairs if x < before / part**8]
        axes.set_xticks(apart, [f"{100 * x:.3g}" for x in apart])
        axes.set_xticks([], minor=True)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("parameters left (%)")
        axes.set_ylabel("test accuracy (%)")
    legend_below(figure)
    networks = list(dict.fromkeys(masked.network for masked in results))
    of = networks[0]
    if len(networks) > 1:
        of = f"mean ± standard deviation over {len(networks)} networks"
    figure.suptitle(f"{of}; lines: shares of zeros, squares: patterns N:M", fontsize=10)
    return figure


def _draw_method(
    axes: Any, rows: Sequence[Mapping[str, Any]], step: str, method: str, color: str, aside: float
) -> None:
    """Draw one method's shares as a line and its patterns as squares, moved aside by a factor."""
    shares = any(":" not in row["target"] for row in rows)
    mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row["left"])
    for pattern, style in ((False, "o-"), (True, "s")):
        own = [row for row in mine if (":" in row["target"]) == pattern]
        axes.errorbar(
            [row["left"] / aside for row in own],
            [100 * row[f"accuracy_{step}"] for row in own],
            [100 * (row[f"accuracy_{step}_std"] or 0) for row in own],
            fmt=style,
            color=color,
            mfc="white" if pattern else color,
            capsize=2,
            linewidth=1.6,
            elinewidth=0.8,
            label=None if pattern == shares else method.replace("_", " "),
        )


def _name_patterns(axes: Any, rows: Sequence[Mapping[str, Any]], step: str) -> None:
    """Write each pattern above the highest of its squares."""
    for target in dict.fromkeys(row["target"] for row in rows if ":" in row["target"]):
        same = (row for row in rows if row["target"] == target)
        highest = max(same, key=lambda row: row[f"accuracy_{step}"])
        axes.annotate(
            target,
            (highest["left"], 100 * highest[f"accuracy_{step}"]),
            (0, 8),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
