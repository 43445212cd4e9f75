"""An experiment's numbers by method and target: mean and spread over networks."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from metaprune_pl.reports.curves import FLAT_DROP, Curve
from metaprune_pl.reports.pruned import Pruned
from metaprune_pl.reports.results import Experiment, StageCost
from metaprune_pl.reports.text import count, percent

METHODS = ("none", "sparsity_learning", "metanetwork")
CLEAR_GAIN = 0.05
"""Flat regions that differ by less than this count as equal."""


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation; None for fewer than two values."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def count_of(results: Sequence[Any]) -> dict[str, int]:
    """Return how many networks results are of, and how many prunings: each network several times.

    Args:
        results: Those of one method and target.
    """
    return {"networks": len({result.network for result in results}), "prunings": len(results)}


def all_or_none(values: Iterable[float | None]) -> list[float]:
    """Return values of which none is missing, or nothing."""
    known = list(values)
    return [] if None in known else [value for value in known if value is not None]


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
                **count_of(curves),
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
    """One row for each method, target and budget: means over networks, of times the median."""
    rows: dict[tuple[float, str, float], list[Pruned]] = {}
    for each in sorted(experiment.pruned, key=lambda pruned: pruned.target):
        rows.setdefault((each.target, each.method, each.budget), []).append(each)
    return [_pruned_row(same) for same in rows.values()]


ALONE = ("macs", "parameters", "images", "left")
"""Columns of pruned networks without a deviation."""
SPREAD = (
    "speed_up",
    "macs_pruned",
    "accuracy_base",
    "accuracy_base_top_5",
    "accuracy_stale",
    "accuracy_pruned",
    "accuracy_finetuned",
    "difference",
    "accuracy_finetuned_top_5",
    "difference_top_5",
)
"""Those with one."""


def _pruned_row(same: Sequence[Pruned]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "target": same[0].target,
        "method": same[0].method,
        "budget": same[0].budget,
        **count_of(same),
    }
    rows = [pruned.row() for pruned in same]
    for name in (*ALONE, *SPREAD):
        values = all_or_none(row[name] for row in rows)
        mean, spread = mean_and_spread(values) if values else (None, None)
        row[name] = mean
        if name in SPREAD:
            row[f"{name}_std"] = spread
    for size in same[0].latency:
        times = [pruned.latency[size] for pruned in same]
        ratios = [pruned.latency_unpruned[size] / pruned.latency[size] for pruned in same]
        row[f"milliseconds_batch_{size}"] = statistics.median(times)
        row[f"latency_ratio_batch_{size}"] = statistics.median(ratios)
    return row


def recommendation(experiment: Experiment) -> str:
    """Say by an experiment's own figures what to take, and where a network lies.

    At the last target: of the methods and budgets within one standard deviation of the best the one
    that trains on the fewest images.
    """
    last = [row for row in pruned_rows(experiment) if row["target"] == _last_target(experiment)]
    if not last:
        return ""
    trained = _cheapest(last, "accuracy_finetuned")
    untrained = _cheapest(last, "accuracy_pruned")
    target, method, budget = trained["target"], trained["method"], trained["budget"]
    path = next(
        each.path
        for each in experiment.pruned
        if (each.target, each.method, each.budget) == (target, method, budget)
    )
    return (
        f"By these figures take {method} at {target:g}x: {_figure(trained, 'accuracy_finetuned')} "
        f"after {count(trained['images'])} images of training; without finetuning after pruning "
        f"{untrained['method']} has {_figure(untrained, 'accuracy_pruned')}. A pruned network lies "
        f"in {path}."
    )


def _last_target(experiment: Experiment) -> float:
    return max((pruned.target for pruned in experiment.pruned), default=0.0)


def _cheapest(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the row of the fewest images among those that are as good as the best."""
    best = max(rows, key=lambda row: row[name])
    bar = best[name] - (best[f"{name}_std"] or 0.0)
    good = [row for row in rows if row[name] >= bar]
    return min(good, key=lambda row: (row["images"], -row[name]))


def _figure(row: dict[str, Any], name: str) -> str:
    return f"{percent(row[name], row[f'{name}_std'])} %"


def choice_sentence(experiment: Experiment) -> str:
    """Say how each metanetwork was chosen, once for those that share a choice."""
    shared: dict[str, list[str]] = {}
    for method, choice in experiment.choices.items():
        shared.setdefault(choice.reason, []).append(method)
    sentences = [f"Choice, {', '.join(methods)}: {why}" for why, methods in shared.items()]
    if experiment.tuning:
        areas = ", ".join(f"{area:.4f} ({weight:g})" for weight, area in experiment.tuning.items())
        sentences.append(
            f"Weight of sparsity learning: {experiment.best_weight:g}, by the areas under its "
            f"validation curves {areas}."
        )
    return "\n".join(sentences)


def own_sentence(experiment: Experiment) -> str:
    """Say which metanetworks have learnt from the networks that they prune; nothing of others."""
    if not experiment.on_own:
        return ""
    return (
        f"{', '.join(experiment.on_own)}: a metanetwork for each network, which has learnt from "
        "that very network; the others have not seen the networks that are pruned."
    )


def flat_region_sentence(experiment: Experiment) -> str:
    """Say of each metanetwork whether it lengthened the flat region, with the figures."""
    sentences = []
    for method in methods_of(experiment.curves):
        if method.startswith("metanetwork"):
            sentences += _flat_region_sentence(experiment, method)
    return (
        "\n".join(sentences)
        or "There is no pair of curves with and without metanetwork to compare."
    )


def _flat_region_sentence(experiment: Experiment, method: str) -> list[str]:
    """The sentence on one metanetwork; [] where no network has both curves."""
    without = _numbered(curve for curve in experiment.curves if curve.method == "none")
    own = _numbered(curve for curve in experiment.curves if curve.method == method)
    pairs = [(own[key], without[key]) for key in sorted(own.keys() & without.keys())]
    if not pairs:
        return []
    name = method.replace("_", " ", 1)
    lost = statistics.fmean(b.points[0].accuracy - a.points[0].accuracy for a, b in pairs)
    if lost > FLAT_DROP:
        return [
            f"After the {name}, accuracy is {100 * lost:.1f} points below that without a "
            "metanetwork: the length of its flat region says nothing."
        ]
    gains = [a.flat_region(FLAT_DROP) - b.flat_region(FLAT_DROP) for a, b in pairs]
    mean = statistics.fmean(gains)
    longer = sum(gain > 0 for gain in gains)
    clear = mean >= CLEAR_GAIN and 2 * longer > len(gains)
    verb = "lengthens" if clear else "does NOT clearly lengthen"
    figures = ", ".join(f"{gain:+.2f}" for gain in gains)
    return [
        f"The {name} {verb} the flat region over no metanetwork: {mean:+.2f}x on average, "
        f"longer on {longer} of {len(gains)} held-out networks ({figures})."
    ]


def _numbered(curves: Iterable[Curve]) -> dict[tuple[str, int], Curve]:
    """Return curves by their network and, where that was pruned several times, which it was."""
    by_key: dict[tuple[str, int], Curve] = {}
    times: Counter[str] = Counter()
    for curve in curves:
        by_key[curve.network, times[curve.network]] = curve
        times[curve.network] += 1
    return by_key


def amortised(costs: Sequence[StageCost]) -> dict[str, tuple[float, float]]:
    """Return each method's seconds, those that are spent once and those for each network."""
    seconds = {}
    for method in dict.fromkeys(cost.method for cost in costs if not cost.once):
        own = [cost for cost in costs if cost.method == method]
        once = [cost for cost in own if cost.once]
        if method.startswith("metanetwork"):  # it also needs what all metanetworks share
            once = [cost for cost in costs if cost.once and cost.method in {method, ""}]
        each = [cost for cost in own if not cost.once]
        seconds[method] = (_seconds(once), _seconds(each))
    return seconds


def _seconds(costs: Sequence[StageCost]) -> float:
    return sum(stage.cost.seconds for stage in costs)


def break_even(costs: Sequence[StageCost]) -> tuple[str, dict[str, int | None]]:
    """Return the method that metanetworks are compared with, and where each breaks even.

    That is the number of networks after which a metanetwork costs no more; None is never. Where it
    trains on as many images for each network as the other, it never does: the seconds differ by
    chance.
    """
    amounts = amortised(costs)
    other = "sparsity_learning" if "sparsity_learning" in amounts else "none"
    crossing: dict[str, int | None] = {}
    for method, (once, each) in amounts.items():
        if method.startswith("metanetwork") and other in amounts:
            fewer_images = _images(costs, method) < _images(costs, other)
            saved = amounts[other][1] - each
            pays = fewer_images and saved > 0
            crossing[method] = math.ceil(once / saved) if pays else None
    return other, crossing


def _images(costs: Sequence[StageCost], method: str) -> float:
    """Images that a method trains on for each network."""
    return sum(c.cost.images for c in costs if not c.once and c.method == method)


def cost_sentence(costs: Sequence[StageCost]) -> str:
    """Say after how many networks each metanetwork has paid for itself in time."""
    other, crossing = break_even(costs)

    sentences = []
    for method, networks in crossing.items():
        subject = f"In time, the {method.replace('_', ' ', 1)} pays for itself against "
        subject += other.replace("_", " ")
        if networks is not None:
            plural = "s" if networks > 1 else ""
            sentences.append(f"{subject} after about {networks} network{plural}.")
        elif _images(costs, method) >= _images(costs, other):
            reason = "each of them is trained on as many images with both"
            sentences.append(f"{subject} for no number of networks: {reason}.")
        else:
            reason = "it is not faster for each of them"
            sentences.append(f"{subject} for no number of networks: {reason}.")
    return "\n".join(sentences)
