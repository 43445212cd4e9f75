"""Results as tables for the console."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from metaprune_pl.reports.analysis import LABELS, Analysis
from metaprune_pl.reports.comparison import MEASURES, Comparison
from metaprune_pl.reports.curves import Curve, Selection
from metaprune_pl.reports.masks import masked_rows, target_name
from metaprune_pl.reports.results import Detected, Experiment, Masked, Pruned, StageCost
from metaprune_pl.reports.summary import FLAT_DROP, OVER, curve_rows, pruned_rows


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _percent(mean: float, spread: float | None = None) -> str:
    return f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def _number(mean: float, spread: float | None = None) -> str:
    return f"{mean:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def _count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def curve_table(curve: Curve) -> Table:
    """Return the points of one curve."""
    rows = [
        (f"{x:.2f}x", _percent(accuracy), _count(p.macs), _count(p.left * p.parameters))
        for p, (x, accuracy) in zip(curve.points, curve.line, strict=True)
    ]
    title = (
        f"{curve.network}, {curve.method}, {curve.split}: flat to "
        f"{curve.flat_region(FLAT_DROP):.2f}x, "
        f"area {curve.area:.4f}"
    )
    return _table(title, [OVER[curve.over][0], "accuracy %", "MACs", "parameters"], rows)


def data_model_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return what is recorded of data models."""
    rows = []
    for record in records:
        stored = record["validation_accuracy"]
        trained = record.get("validation_accuracy_trained", stored)
        rows.append(
            (str(record["seed"]), f"{record['speed_up']:.2f}x", _percent(trained), _percent(stored))
        )
    return _table(
        "Data models: validation accuracy", ["seed", "speed-up", "trained %", "as stored %"], rows
    )


def selection_table(selection: Selection) -> Table:
    """Return the metanetworks whose curves were drawn."""
    rows = [
        (
            row["epoch"],
            _percent(row["accuracy"]),
            "yes" if row["kept"] else "no",
            f"{row['area']:.4f}",
            "chosen" if row["chosen"] else "",
        )
        for row in selection.rows()
    ]
    columns = ["metanetwork", "flat region %", "kept", "area", ""]
    return _table(f"Validation curves, {len(rows)} of {selection.candidates}", columns, rows)


def analysis_table(analysis: Analysis) -> Table:
    """Return the means of the statistics before and after."""
    rows = [
        (
            LABELS[row["statistic"]],
            f"{row['origin']:.4g}",
            f"{row['after']:.4g}",
            "" if row["ratio"] is None else f"{row['ratio']:.3g}",
            f"{row['lower_in']} of {row['layers']}",
        )
        for row in analysis.summary()
    ]
    before, after = (_percent(value) for value in analysis.accuracy)
    rows.append((f"accuracy %, {analysis.images} validation images", before, after, "", ""))
    title = f"{analysis.network}, {analysis.change}: mean over layers"
    return _table(title, ["statistic", "origin", "after", "ratio", "lower in"], rows)


def pruned_table(results: Sequence[Pruned]) -> Table:
    """Return one network's targets."""
    rows = []
    for p in results:
        latency = [
            f"{p.latency[size]:.2f} ({p.latency_unpruned[size] / p.latency[size]:.2f}x)"
            for size in p.latency
        ]
        rows.append(
            (
                f"{p.target:g}x",
                f"{p.speed_up:.2f}x",
                _count(p.macs),
                _count(p.parameters),
                *(_percent(value) for value in p.accuracies),
                *latency,
            )
        )
    columns = [
        "target",
        "reached",
        "MACs",
        "parameters",
        "as given %",
        "before %",
        "pruned %",
        "finetuned %",
    ]
    columns += [f"ms, batch {size}" for size in results[0].latency]
    return _table(f"{results[0].network}, {results[0].method}: test accuracy", columns, rows)


def masked_table(results: Sequence[Masked]) -> Table:
    """Return one network's masks."""
    rows = [
        (
            target_name(m.target),
            f"{100 * m.left:.2f}",
            _count(m.left * m.parameters),
            *(_percent(value) for value in m.accuracies),
            ", ".join(m.dense),
        )
        for m in results
    ]
    columns = ["target", "left params %", "left params"]
    columns += ["as given %", "before %", "masked %", "finetuned %", "left whole"]
    return _table(f"{results[0].network}, {results[0].method}: test accuracy", columns, rows)


def detection_table(results: Sequence[Detected]) -> Table:
    """Return the detectors of a run."""
    rows = [
        (
            d.method if d.method == "origin" else f"{d.method}, {d.target:g}x",
            f"{d.speed_up:.2f}x",
            _count(d.macs),
            _count(d.parameters),
            "" if d.precision_pruned is None else _percent(d.precision_pruned),
            "" if d.precision_50_pruned is None else _percent(d.precision_50_pruned),
            _percent(d.precision),
            _percent(d.precision_50),
            f"{d.milliseconds:.1f} ({d.milliseconds_unpruned / d.milliseconds:.2f}x)",
        )
        for d in results
    ]
    columns = [
        "detector",
        "speed-up",
        "MACs",
        "parameters",
        "pruned mAP %",
        "mAP50 %",
        "finetuned mAP %",
        "mAP50 %",
        "ms",
    ]
    title = "Detectors: test mAP; speed-up and MACs are the backbone's, parameters and ms the whole detector's"
    return _table(title, columns, rows)


def experiment_tables(experiment: Experiment) -> list[RenderableType]:
    """Return the tables of an experiment.

    Results first, then what was measured in time on this machine.
    """
    count = len(
        {
            run.network
            for runs in (experiment.curves, experiment.pruned, experiment.masked)
            for run in runs
        }
    )
    pruned = [
        (
            f"{row['target']:g}x",
            row["method"],
            f"{row['speed_up']:.2f}x",
            _count(row["macs"]),
            _count(row["parameters"]),
            _percent(row["accuracy_pruned"], row["accuracy_pruned_std"]),
            _percent(row["accuracy_finetuned"], row["accuracy_finetuned_std"]),
        )
        for row in pruned_rows(experiment)
    ]
    masked = [
        (
            target_name(row["target"]),
            row["method"],
            f"{100 * row['left']:.2f}",
            _percent(row["accuracy_masked"], row["accuracy_masked_std"]),
            _percent(row["accuracy_finetuned"], row["accuracy_finetuned_std"]),
        )
        for row in masked_rows(experiment.masked)
    ]
    curves = [
        (
            row["method"],
            _percent(row["accuracy_unpruned"], row["accuracy_unpruned_std"]),
            _number(row["flat_region"], row["flat_region_std"]),
            f"{row['area']:.4f}",
        )
        for row in curve_rows(experiment)
    ]
    spread = "test accuracy of one held-out network"
    if count > 1:
        spread = f"test accuracy, mean ± standard deviation over {count} held-out networks"
    tables = [
        _table(
            f"Pruned networks: {spread}",
            ["target", "method", "reached", "MACs", "parameters", "pruned %", "finetuned %"],
            pruned,
        ),
        _table(
            f"Masked networks: {spread}",
            ["target", "method", "left params %", "masked %", "finetuned %"],
            masked,
        ),
        _table(
            f"Curves: accuracy over {OVER[experiment.curves[0].over][0] if curves else ''}, "
            "before finetuning",
            ["method", "unpruned %", f"flat to ({100 * FLAT_DROP:g} points)", "area"],
            curves,
        ),
        _latency_table(experiment),
        _cost_table(experiment.costs),
    ]
    return [table for table in tables if table.rows]


def comparison_tables(comparison: Comparison) -> list[RenderableType]:
    """Return a matrix for each measure.

    A row for the networks of each experiment, a column for each method.
    """
    tables: list[RenderableType] = []
    for measure, title in MEASURES.items():
        form = _number if measure == "flat_region" else _percent
        rows = [
            (
                comparison.labels(measure)[name],
                *(form(*entries[c]) if c in entries else "" for c in comparison.columns),
            )
            for name, entries in comparison.matrix(measure).items()
        ]
        names = [column.replace("_", " ").replace(" ", "\n", 1) for column in comparison.columns]
        if rows:
            tables.append(_table(f"{title[0].upper()}{title[1:]}", ["networks of", *names], rows))
    return tables


def _latency_table(experiment: Experiment) -> Table:
    sizes = list(experiment.pruned[0].latency) if experiment.pruned else []
    rows = [
        (
            f"{row['target']:g}x",
            row["method"],
            *(
                f"{row[f'milliseconds_batch_{s}']:.2f} ({row[f'latency_ratio_batch_{s}']:.2f}x)"
                for s in sizes
            ),
        )
        for row in pruned_rows(experiment)
    ]
    columns = ["target", "method", *(f"ms, batch {size}" for size in sizes)]
    return _table(
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
            _count(c.cost.images),
            _count(c.cost.host_bytes),
            _count(c.cost.device_bytes),
        )
        for c in costs
    ]
    columns = ["stage", "method", "seconds", "images", "host bytes", "device bytes"]
    return _table(
        "Measured on this machine: time, images trained on, memory at its peak", columns, rows
    )


MOST_ROWS = 40
"""Rows of a table of what was found in a network, at most."""


def inspection_tables(found: Any) -> list[RenderableType]:
    """Return what `metaprune inspect` found.

    The network as a whole, what can be pruned, and what cannot.
    """
    outside = [f"{name} ({_count(size)})" for name, size in found.outside.items()]
    more = f" and {len(outside) - 12} more" if len(outside) > 12 else ""
    pruned = abs(found.speed_up - 1) > 0.005
    whole = Table(title=found.network, title_justify="left", show_header=False)
    for row in (
        ("image", "x".join(map(str, found.input_shape))),
        ("multiply-accumulates", _count(found.macs)),
        (
            "parameters",
            f"{_count(found.parameters)}, {100 * found.covered:.2f} % of them in the graph",
        ),
        ("parameters outside", ", ".join(outside[:12]) + more if outside else "none"),
        ("neurons", f"{found.neurons:,} in {found.neuron_groups} layers"),
        ("connections", f"{found.connections} with {found.edges:,} edges"),
        *(
            [("speed-up so far", f"{found.speed_up:.2f}x; `prune` counts from the network before")]
            if pruned
            else []
        ),
        (
            "highest speed-up",
            f"{found.highest_speed_up:.1f}x, with one unit left in each pruning group",
        ),
    ):
        whole.add_row(*row)
    tables: list[RenderableType] = [whole]
    if found.groups:
        rest = f" (the first {MOST_ROWS}; --json has all)" if len(found.groups) > MOST_ROWS else ""
        table = _table(
            f"What can be pruned: {len(found.groups)} groups{rest}",
            ["group", "channels", "units"],
            [],
        )
        table.add_column("together with", overflow="fold")
        for g in found.groups[:MOST_ROWS]:
            others = ", ".join(g.layers[1:4]) + (
                f" and {len(g.layers) - 4} more" if len(g.layers) > 4 else ""
            )
            table.add_row(g.name, str(g.width), str(g.units), others)
        tables.append(table)
    stays = Table("layer", "why", title="What cannot be pruned", title_justify="left")
    for name, why in list(found.stays.items())[:MOST_ROWS]:
        stays.add_row(name, why)
    return [*tables, stays]
