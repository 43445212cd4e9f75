"""Curves as pictures."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metaprune_pl.reports.results import Curve
from metaprune_pl.reports.summary import FLAT_DROP, methods_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"none": "#7f7f7f", "sparsity_learning": "#1f77b4", "metanetwork": "#d62728"}


def draw_curves(curves: Sequence[Curve]) -> "Figure":
    """Draw accuracy over speed-up: a colour for each method, a line for each network, a dot where it ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for method in methods_of(curves):
        same = [curve for curve in curves if curve.method == method]
        for number, curve in enumerate(same):
            color = COLORS.get(method, "black")
            label = (
                f"{method.replace('_', ' ')} ({len(same)} network{'s' if len(same) > 1 else ''})"
                if number == 0
                else None
            )
            speed_ups = [point.speed_up for point in curve.points]
            accuracies = [100 * point.accuracy for point in curve.points]
            axes.plot(speed_ups, accuracies, color=color, alpha=0.85, linewidth=1.6, label=label)
            flat = curve.flat_region(FLAT_DROP)
            axes.plot([flat], [100 * (curve.points[0].accuracy - FLAT_DROP)], "o", color=color, markersize=5)
    axes.set_xlabel("speed-up (multiply-accumulates of the unpruned network / of the pruned one)")
    axes.set_ylabel(f"{curves[0].split} accuracy without finetuning (%)")
    axes.set_title(
        f"Accuracy over speed-up; dots: end of the flat region ({100 * FLAT_DROP:g} points down)", fontsize=10
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(new)
    os.replace(new, path)
