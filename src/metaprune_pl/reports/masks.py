"""Masked networks by target and method.

Rows, and a figure over the parameters that are left (paper, table 3).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metaprune_pl.reports.figures import colors_of, legend_below
from metaprune_pl.reports.masked import Masked
from metaprune_pl.reports.summary import all_or_none, count_of, mean_and_spread, methods_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = {"masked": "straight after masking", "finetuned": "after finetuning"}
MEANS = ("accuracy_base", "difference", "accuracy_predicted", *(f"accuracy_{x}" for x in STEPS))
"""Columns of masked networks that are means, each with its deviation."""


def masked_rows(results: Sequence[Masked]) -> list[dict[str, Any]]:
    """One row for each target and method: means over networks."""
    rows = []
    for target in dict.fromkeys(masked.target for masked in results):
        for method in methods_of(results):
            same = [result for result in results if result.target == target]
            same = [result for result in same if result.method == method]
            row: dict[str, Any] = {
                "target": target,
                "method": method,
                **count_of(same),
            }
            row["left"] = statistics.fmean(result.left for result in same)
            for name in MEANS:
                values = all_or_none(getattr(result, name) for result in same)
                mean, spread = mean_and_spread(values) if values else (None, None)
                row |= {name: mean, f"{name}_std": spread}
            rows.append(row)
    return rows


def whole_sentence(results: Sequence[Masked]) -> str:
    """Name the weights that patterns leave whole; nothing where there are none."""
    whole = {result.target: ", ".join(result.dense) for result in results if result.dense}
    patterns: dict[str, list[str]] = {}
    for target, names in whole.items():
        patterns.setdefault(names, []).append(target)
    return "\n".join(
        f"Patterns {', '.join(targets)} leave these whole, whose input channels they do not "
        f"divide: {names}."
        for names, targets in patterns.items()
    )


def draw_masks(results: Sequence[Masked]) -> "Figure":
    """Draw accuracy over the parameters left before and after finetuning, a colour for a method.

    Means and standard deviations over networks; lines join shares, and squares are patterns.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), dpi=150, layout="constrained")
    rows = masked_rows(results)
    colors = colors_of(methods_of(results))
    left = sorted({row["target"]: row["left"] for row in rows}.values(), reverse=True)
    hundredth = (left[0] / left[-1]) ** 0.01  # of the width of the figure
    for axes, (step, title) in zip(figure.subplots(1, 2), STEPS.items(), strict=True):
        axes.grid(alpha=0.3)
        for index, (method, color) in enumerate(colors.items()):
            aside = hundredth ** (0.5 * index - 0.25 * (len(colors) - 1))  # no bar hides another
            _draw_method(axes, rows, step, method, color, aside)
        _name_patterns(axes, rows, step)
        _scale_axes(axes, left, hundredth)
        axes.set_title(title, fontsize=10)
    legend_below(figure)
    networks = list(dict.fromkeys(result.network for result in results))
    subject = networks[0]
    if len(networks) > 1:
        subject = f"mean ± standard deviation over {len(networks)} networks"
    figure.suptitle(f"{subject}; lines: shares of zeros, squares: patterns N:M", fontsize=10)
    return figure


def _scale_axes(axes: Any, left: Sequence[float], hundredth: float) -> None:
    """Scale the axes to the parameters left, with ticks that are far enough apart to read."""
    axes.margins(y=0.1)
    axes.set_xscale("log")
    axes.set_xlim(1.12 * left[0], 0.9 * left[-1])
    pairs = zip([math.inf, *left], left, strict=False)
    ticks = [x for before, x in pairs if x < before / hundredth**8]
    axes.set_xticks(ticks, [f"{100 * x:.3g}" for x in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("parameters left (%)")
    axes.set_ylabel("test accuracy (%)")


def _draw_method(
    axes: Any, rows: Sequence[Mapping[str, Any]], step: str, method: str, color: str, aside: float
) -> None:
    """Draw one method's shares as a line and its patterns as squares, moved aside by a factor."""
    has_shares = any(":" not in row["target"] for row in rows)
    of_method = [row for row in rows if row["method"] == method]
    of_method.sort(key=lambda row: row["left"])
    for is_pattern, form in ((False, "o-"), (True, "s")):
        points = [row for row in of_method if (":" in row["target"]) == is_pattern]
        axes.errorbar(
            [row["left"] / aside for row in points],
            [100 * row[f"accuracy_{step}"] for row in points],
            [100 * (row[f"accuracy_{step}_std"] or 0) for row in points],
            fmt=form,
            color=color,
            mfc="white" if is_pattern else color,
            capsize=2,
            linewidth=1.6,
            elinewidth=0.8,
            label=None if is_pattern == has_shares else method.replace("_", " "),
        )


def _name_patterns(axes: Any, rows: Sequence[Mapping[str, Any]], step: str) -> None:
    """Write each pattern above the highest of its squares."""
    accuracy = f"accuracy_{step}"
    patterns = dict.fromkeys(row["target"] for row in rows if ":" in row["target"])
    for pattern in patterns:
        same = [row for row in rows if row["target"] == pattern]
        highest = max(same, key=lambda row: row[accuracy])
        axes.annotate(
            pattern,
            (highest["left"], 100 * highest[accuracy]),
            (0, 8),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
