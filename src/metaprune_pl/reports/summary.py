"""An experiment's numbers by method and target: mean and spread over networks."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from metaprune_pl.reports.pruned import Pruned
from metaprune_pl.reports.results import Experiment, StageCost

METHODS = ("none", "sparsity_learning", "metanetwork")
FLAT_DROP = 0.02
"""A curve is flat as long as accuracy stays within this of the unpruned network's."""

OVER = {
    "speed_up": ("speed-up", "multiply-accumulates of the unpruned network / of the pruned one"),
    "compression": ("compression", "parameters / those that are not zero"),
}
"""What a curve is over to what it is called, and what that is."""

CLEAR_GAIN = 0.05
"""Flat regions that differ by less than this count as equal."""


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation; None for fewer than two values."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def methods_of(items: Iterable[Any]) -> list[str]:
    """Return the methods of curves or pruned networks, in the order in which they come."""
    return list(dict.fromkeys(item.method for item in items))


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
                "method": method,
                "networks": len(curves),
                "accuracy_unpruned": before,
                "accuracy_unpruned_std": before_spread,
                "flat_region": flat,
                "flat_region_std": flat_spread,
                "area": area,
                "area_std": area_spread,
            }
        )
    return rows


def pruned_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """One row for each method and target: means over networks, of times the median."""
    rows = []
    for target in sorted({pruned.target for pruned in experiment.pruned}):
        for method in methods_of(experiment.pruned):
            rows.append(
                _pruned_row(
                    [p for p in experiment.pruned if (p.method, p.target) == (method, target)]
                )
            )
    return rows


def _pruned_row(same: Sequence[Pruned]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "target": same[0].target,
        "method": same[0].method,
        "networks": len(same),
    }
    for name in ("speed_up", "macs", "parameters"):
        row[name] = statistics.fmean(getattr(pruned, name) for pruned in same)
    for name in ("accuracy_pruned", "accuracy_finetuned"):
        row[name], row[f"{name}_std"] = mean_and_spread([getattr(pruned, name) for pruned in same])
    for size in same[0].latency:
        row[f"milliseconds_batch_{size}"] = statistics.median(
            pruned.latency[size] for pruned in same
        )
        row[f"latency_ratio_batch_{size}"] = statistics.median(
            pruned.latency_unpruned[size] / pruned.latency[size] for pruned in same
        )
    return row


def choice_sentence(experiment: Experiment) -> str:
    """Say how each metanetwork was chosen, once for those that share a choice."""
    reasons = dict.fromkeys(choice.reason for choice in experiment.choices.values())
    shared = {
        reason: [m for m, choice in experiment.choices.items() if choice.reason == reason]
        for reason in reasons
    }
    return "\n".join(
        f"Choice, {', '.join(methods)}: {reason}" for reason, methods in shared.items()
    )


def flat_region_sentence(experiment: Experiment) -> str:
    """Say of each metanetwork whether it lengthened the flat region, with the figures."""
    flat: dict[tuple[str, str], float] = {
        (c.method, c.network): c.flat_region(FLAT_DROP) for c in experiment.curves
    }
    start = {(c.method, c.network): c.points[0].accuracy for c in experiment.curves}
    sentences = []
    for method in (m for m in methods_of(experiment.curves) if m.startswith("metanetwork")):
        networks = sorted({network for other, network in flat if other == method})
        gains = [flat[method, n] - flat["none", n] for n in networks if ("none", n) in flat]
        if not gains:
            continue
        lost = statistics.fmean(
            start["none", n] - start[method, n] for n in networks if ("none", n) in flat
        )
        if lost > FLAT_DROP:
            sentences.append(
                f"After the {method.replace('_', ' ', 1)}, accuracy is {100 * lost:.1f} points "
                "below that without a "
                "metanetwork: the length of its flat region says nothing."
            )
            continue
        mean, longer = statistics.fmean(gains), sum(gain > 0 for gain in gains)
        verb = (
            "lengthens"
            if mean >= CLEAR_GAIN and 2 * longer > len(gains)
            else "does NOT clearly lengthen"
        )
        figures = ", ".join(f"{gain:+.2f}" for gain in gains)
        sentences.append(
            f"The {method.replace('_', ' ', 1)} {verb} the flat region over no metanetwork: "
            f"{mean:+.2f}x on average, "
            f"longer on {longer} of {len(gains)} held-out networks ({figures})."
        )
    return (
        "\n".join(sentences)
        or "There is no pair of curves with and without metanetwork to compare."
    )


def amortised(costs: Sequence[StageCost]) -> dict[str, tuple[float, float]]:
    """Return each method's seconds, those that are spent once and those for each network."""
    found = {}
    for method in dict.fromkeys(c.method for c in costs if not c.once):
        own = any(
            c.once and c.method == method for c in costs
        )  # a metanetwork: it needs what all of them share, too
        once = sum(c.cost.seconds for c in costs if c.once and own and c.method in {method, ""})
        found[method] = (
            once,
            sum(c.cost.seconds for c in costs if not c.once and c.method == method),
        )
    return found


def break_even(costs: Sequence[StageCost]) -> tuple[str, dict[str, int | None]]:
    """Return the method that metanetworks are compared with, and where each breaks even.

    That is the number of networks after which a metanetwork costs no more; None is never.

    Where both train on as many images for each network, seconds differ by what else the machine
    did: never.
    """
    amounts = amortised(costs)
    other = "sparsity_learning" if "sparsity_learning" in amounts else "none"
    crossing: dict[str, int | None] = {}
    for method, (once, each) in amounts.items():
        if once and other in amounts:
            saved = (
                amounts[other][1] - each if _images(costs, method) < _images(costs, other) else 0
            )
            crossing[method] = math.ceil(once / saved) if saved > 0 else None
    return other, crossing


def _images(costs: Sequence[StageCost], method: str) -> float:
    """Images that a method trains on for each network."""
    return sum(c.cost.images for c in costs if not c.once and c.method == method)


def cost_sentence(costs: Sequence[StageCost]) -> str:
    """Say after how many networks each metanetwork has paid for itself in time."""
    other, crossing = break_even(costs)

    def when(method: str, networks: int | None) -> str:
        if networks is not None:
            return f"after about {networks} network{'s' if networks > 1 else ''}."
        as_many = _images(costs, method) >= _images(costs, other)
        reason = (
            "each of them is trained on as many images with both"
            if as_many
            else "it is not faster for each of them"
        )
        return f"for no number of networks: {reason}."

    return "\n".join(
        f"In time, the {method.replace('_', ' ', 1)} pays for itself against "
        f"{other.replace('_', ' ')} " + when(method, n)
        for method, n in crossing.items()
    )
