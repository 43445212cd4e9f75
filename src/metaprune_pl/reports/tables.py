"""Results as tables for the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from metaprune_pl.reports.curves import FLAT_DROP, OVER
from metaprune_pl.reports.masked import target_name
from metaprune_pl.reports.masks import masked_rows
from metaprune_pl.reports.results import Experiment, StageCost
from metaprune_pl.reports.summary import curve_rows, pruned_rows
from metaprune_pl.reports.text import count, decimal, percent, text_table


def data_model_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return what is recorded of data models."""
    rows = []
    for record in records:
        stored = record["validation_accuracy"]
        trained = record.get("validation_accuracy_trained", stored)
        rows.append(
            (str(record["seed"]), f"{record['speed_up']:.2f}x", percent(trained), percent(stored))
        )
    return text_table(
        "Data models: validation accuracy", ["seed", "speed-up", "trained %", "as stored %"], rows
    )


def experiment_tables(experiment: Experiment) -> list[RenderableType]:
    """Return the tables of an experiment.

    Results first, then what was measured in time on this machine.
    """
    named = {result.network for result in experiment.pruned}
    named |= {result.network for result in experiment.masked}
    named |= {curve.network for curve in experiment.curves}
    networks = len(named)
    spread = "test accuracy of one held-out network"
    if networks > 1:
        spread = f"test accuracy, mean ± standard deviation over {networks} held-out networks"
    tables = [
        _pruned_table(experiment, spread),
        _masked_table(experiment, spread),
        _curves_table(experiment),
        _latency_table(experiment),
        _cost_table(experiment.costs),
    ]
    return [table for table in tables if table.rows]


def _pruned_table(experiment: Experiment, spread: str) -> Table:
    rows = [
        (
            f"{row['target']:g}x",
            row["method"],
            f"{row['speed_up']:.2f}x",
            count(row["macs"]),
            count(row["parameters"]),
            percent(row["accuracy_pruned"], row["accuracy_pruned_std"]),
            percent(row["accuracy_finetuned"], row["accuracy_finetuned_std"]),
        )
        for row in pruned_rows(experiment)
    ]
    columns = ["target", "method", "reached", "MACs", "parameters", "pruned %", "finetuned %"]
    return text_table(f"Pruned networks: {spread}", columns, rows)


def _masked_table(experiment: Experiment, spread: str) -> Table:
    rows = [
        (
            target_name(row["target"]),
            row["method"],
            f"{100 * row['left']:.2f}",
            percent(row["accuracy_masked"], row["accuracy_masked_std"]),
            percent(row["accuracy_finetuned"], row["accuracy_finetuned_std"]),
        )
        for row in masked_rows(experiment.masked)
    ]
    columns = ["target", "method", "left params %", "masked %", "finetuned %"]
    return text_table(f"Masked networks: {spread}", columns, rows)


def _curves_table(experiment: Experiment) -> Table:
    rows = [
        (
            row["method"],
            percent(row["accuracy_unpruned"], row["accuracy_unpruned_std"]),
            decimal(row["flat_region"], row["flat_region_std"]),
            f"{row['area']:.4f}",
        )
        for row in curve_rows(experiment)
    ]
    over = OVER[experiment.curves[0].over][0] if rows else ""
    columns = ["method", "unpruned %", f"flat to ({100 * FLAT_DROP:g} points)", "area"]
    return text_table(f"Curves: accuracy over {over}, before finetuning", columns, rows)


def _latency_table(experiment: Experiment) -> Table:
    sizes = list(experiment.pruned[0].latency) if experiment.pruned else []
    rows = []
    for row in pruned_rows(experiment):
        cells = [f"{row['target']:g}x", row["method"]]
        for size in sizes:
            milliseconds = row[f"milliseconds_batch_{size}"]
            ratio = row[f"latency_ratio_batch_{size}"]
            cells.append(f"{milliseconds:.2f} ({ratio:.2f}x)")
        rows.append(cells)
    columns = ["target", "method", *(f"ms, batch {size}" for size in sizes)]
    return text_table(
        "Measured on this machine: time of a forward pass (speed-up over the unpruned network)",
        columns,
        rows,
    )


def _cost_table(costs: Sequence[StageCost]) -> Table:
    rows = [
        (
            f"{'once' if c.once else 'per network'}: {c.stage}",
            c.method,
            f"{c.cost.seconds:.1f}",
            count(c.cost.images),
            count(c.cost.host_bytes),
            count(c.cost.device_bytes),
        )
        for c in costs
    ]
    columns = ["stage", "method", "seconds", "images", "host bytes", "device bytes"]
    return text_table(
        "Measured on this machine: time, images trained on, memory at its peak", columns, rows
    )
