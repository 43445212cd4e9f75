"""Results of experiments as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from metaprune_pl.reports.curves import FLAT_DROP, OVER
from metaprune_pl.reports.masked import target_name
from metaprune_pl.reports.masks import masked_rows
from metaprune_pl.reports.paper import beside_paper, paper_table
from metaprune_pl.reports.results import Experiment, StageCost
from metaprune_pl.reports.summary import curve_rows, pruned_rows
from metaprune_pl.reports.text import Grid, count, decimal, percent


def experiment_tables(experiment: Experiment) -> list[Grid]:
    """Return the tables of an experiment.

    Results first, then what was measured in time on this machine.
    """
    spread = _spread_of([*pruned_rows(experiment), *masked_rows(experiment.masked)])
    tables = [
        _pruned_table(experiment, spread),
        _masked_table(experiment, spread),
        paper_table(rows_beside_paper(experiment)),
        _curves_table(experiment),
        _latency_table(experiment),
        _cost_table(experiment.costs),
    ]
    return [table for table in tables if table.rows]


def rows_beside_paper(experiment: Experiment) -> list[dict[str, Any]]:
    """Return a row for each number of the paper's that an experiment stands beside."""
    whole = (row for row in pruned_rows(experiment) if row["budget"] == 1)
    ours = [*whole, *masked_rows(experiment.masked)]
    return beside_paper(experiment.paper, ours)


def _spread_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what the numbers of rows are means over."""
    if not rows or rows[0]["prunings"] == 1:
        return "test accuracy of one held-out network"
    networks, prunings = rows[0]["networks"], rows[0]["prunings"]
    over = f"{networks} held-out networks"
    if prunings > networks:
        over = f"{prunings} prunings of {networks} held-out network{'s'[: networks - 1]}"
    return f"test accuracy, mean ± standard deviation over {over}"


def _pruned_table(experiment: Experiment, spread: str) -> Grid:
    """Return what a person compares; all columns of the paper's tables (1, 8, 11, 14, 15, 21).

    The latter where an experiment stands beside the paper; else those are in CSV and JSON.
    `images` are those trained on for a network, and `unrepaired` is before statistics and repair;
    top 5 is there where there is one.
    """
    every = pruned_rows(experiment)
    names = ["accuracy_base", "accuracy_pruned", "accuracy_finetuned"]
    if experiment.paper:
        stale = any(row["accuracy_stale"] is not None for row in every)
        names[1:1] = ["accuracy_stale"] * stale
        names = ["macs_pruned", "left", *names, "difference"]
    if any(row["accuracy_finetuned_top_5"] is not None for row in every):
        names += ["accuracy_base_top_5", "accuracy_finetuned_top_5", "difference_top_5"]
    budgets = len({row["budget"] for row in every}) > 1
    columns = ["target", "method", "reached", *["budget %"] * budgets, "images"]
    columns += [_TITLES[name] for name in names]
    rows = [_cells_of(row, names, budgets) for row in every]
    return Grid(f"Pruned networks: {spread}", columns, rows)


_TITLES = {
    "macs_pruned": "pruned MACs %",
    "left": "left params %",
    "accuracy_base": "base %",
    "accuracy_stale": "unrepaired %",
    "accuracy_pruned": "pruned %",
    "accuracy_finetuned": "finetuned %",
    "difference": "difference",
    "accuracy_base_top_5": "base top-5 %",
    "accuracy_finetuned_top_5": "top-5 %",
    "difference_top_5": "difference top-5",
}
"""Column of a result to what the table calls it."""


def _cells_of(row: Mapping[str, Any], names: Sequence[str], budgets: bool) -> list[str]:
    def share(name: str) -> str:
        return "" if row[name] is None else percent(row[name], row.get(f"{name}_std"))

    reached = decimal(row["speed_up"], row["speed_up_std"])
    budget = [f"{100 * row['budget']:g}"] * budgets
    cells = [f"{row['target']:g}x", row["method"], reached, *budget, count(row["images"])]
    return [*cells, *(share(name) for name in names)]


def _masked_table(experiment: Experiment, spread: str) -> Grid:
    masked = masked_rows(experiment.masked)
    known = ["accuracy_base"]
    if any(row["accuracy_predicted"] is not None for row in masked):
        known.append("accuracy_predicted")
    rows = [
        (
            target_name(row["target"]),
            row["method"],
            f"{100 * row['left']:.2f}",
            *(
                "" if row[name] is None else percent(row[name], row[f"{name}_std"])
                for name in known
            ),
            percent(row["accuracy_masked"], row["accuracy_masked_std"]),
            percent(row["accuracy_finetuned"], row["accuracy_finetuned_std"]),
        )
        for row in masked
    ]
    names = (f"{name.removeprefix('accuracy_')} %" for name in known)
    columns = ["target", "method", "left params %", *names, "masked %", "finetuned %"]
    return Grid(f"Masked networks: {spread}", columns, rows)


def _curves_table(experiment: Experiment) -> Grid:
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
    return Grid(f"Curves: accuracy over {over}, before finetuning", columns, rows)


def _latency_table(experiment: Experiment) -> Grid:
    sizes = list(experiment.pruned[0].latency) if experiment.pruned else []
    rows = []
    every = pruned_rows(experiment)
    full = max((row["budget"] for row in every), default=1.0)
    for row in (row for row in every if row["budget"] == full):
        cells = [f"{row['target']:g}x", row["method"]]
        for size in sizes:
            milliseconds = row[f"milliseconds_batch_{size}"]
            ratio = row[f"latency_ratio_batch_{size}"]
            cells.append(f"{milliseconds:.2f} ({ratio:.2f}x)")
        rows.append(cells)
    columns = ["target", "method", *(f"ms, batch {size}" for size in sizes)]
    return Grid(
        "Measured on this machine: time of a forward pass (speed-up over the unpruned network)",
        columns,
        rows,
    )


def _cost_table(costs: Sequence[StageCost]) -> Grid:
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
    return Grid(
        "Measured on this machine: time, images trained on, memory at its peak", columns, rows
    )
