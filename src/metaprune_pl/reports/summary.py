"""An experiment's numbers by method and target: mean and spread over networks."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from metaprune_pl.reports.results import Experiment, Pruned

METHODS = ("none", "sparsity_learning", "metanetwork")
FLAT_DROP = 0.02
"""A curve is flat as long as accuracy stays within this of the unpruned network's."""


CLEAR_GAIN = 0.05
"""Flat regions that differ by less than this speed-up count as equal."""


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation; None for fewer than two values."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def methods_of(items: Iterable[Any]) -> list[str]:
    """Return the methods of curves or pruned networks, in the order of reports."""
    found = {item.method for item in items}
    return [method for method in METHODS if method in found] + sorted(found - set(METHODS))


def curve_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """One row for each method: flat region and area of its curves."""
    rows = []
    for method in methods_of(experiment.curves):
        curves = [curve for curve in experiment.curves if curve.method == method]
        flat, flat_spread = mean_and_spread([curve.flat_region(FLAT_DROP) for curve in curves])
        area, area_spread = mean_and_spread([curve.area for curve in curves])
        before, before_spread = mean_and_spread([curve.points[0].accuracy for curve in curves])
        rows.append(
            {
                "method": method, "networks": len(curves), "accuracy_unpruned": before,
                "accuracy_unpruned_std": before_spread, "flat_region": flat, "flat_region_std": flat_spread,
                "area": area, "area_std": area_spread,
            }
        )  # fmt: skip
    return rows


def pruned_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """One row for each method and target: means over networks, of times the median."""
    rows = []
    for target in sorted({pruned.target for pruned in experiment.pruned}):
        for method in methods_of(experiment.pruned):
            rows.append(_pruned_row([p for p in experiment.pruned if (p.method, p.target) == (method, target)]))
    return rows


def _pruned_row(same: Sequence[Pruned]) -> dict[str, Any]:
    row: dict[str, Any] = {"target": same[0].target, "method": same[0].method, "networks": len(same)}
    for name in ("speed_up", "macs", "parameters"):
        row[name] = statistics.fmean(getattr(pruned, name) for pruned in same)
    for name in ("accuracy_pruned", "accuracy_finetuned"):
        row[name], row[f"{name}_std"] = mean_and_spread([getattr(pruned, name) for pruned in same])
    for size in same[0].latency:
        row[f"milliseconds_batch_{size}"] = statistics.median(pruned.latency[size] for pruned in same)
        row[f"latency_ratio_batch_{size}"] = statistics.median(
            pruned.latency_unpruned[size] / pruned.latency[size] for pruned in same
        )
    return row


def flat_region_sentence(experiment: Experiment) -> str:
    """Say whether the metanetwork lengthened the flat region over no metanetwork, with the figures."""
    flat: dict[tuple[str, str], float] = {(c.method, c.network): c.flat_region(FLAT_DROP) for c in experiment.curves}
    networks = sorted({network for method, network in flat if method == "metanetwork"})
    gains = [flat["metanetwork", n] - flat["none", n] for n in networks if ("none", n) in flat]
    if not gains:
        return "There is no pair of curves with and without metanetwork to compare."
    mean, longer = statistics.fmean(gains), sum(gain > 0 for gain in gains)
    verb = "lengthens" if mean >= CLEAR_GAIN and 2 * longer > len(gains) else "does NOT clearly lengthen"
    figures = ", ".join(f"{gain:+.2f}" for gain in gains)
    return (
        f"The metanetwork {verb} the flat region over no metanetwork: {mean:+.2f}x on average, "
        f"longer on {longer} of {len(gains)} held-out networks ({figures})."
    )
