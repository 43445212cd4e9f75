"""Several experiments as a matrix.

A row for the networks of each, a column for each way to prune them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from metaprune_pl.reports.curves import Curve
from metaprune_pl.reports.pruned import Pruned
from metaprune_pl.reports.results import Experiment
from metaprune_pl.reports.summary import curve_rows, methods_of, pruned_rows
from metaprune_pl.reports.text import Grid, decimal, percent

MEASURES = {
    "accuracy_finetuned": "test accuracy after pruning and finetuning (%)",
    "accuracy_pruned": "test accuracy straight after pruning (%)",
    "flat_region": "speed-up before accuracy first falls 2 points, without finetuning",
}
"""What is measured to what it is called."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a comparison measured.

    Attributes:
        experiments: What each experiment measured, by name.
        exchanged: Whether the networks of each were pruned by the metanetworks of all.
    """

    experiments: Mapping[str, Experiment]
    exchanged: bool = True

    @property
    def curves(self) -> list[Curve]:
        """Curves of all experiments, whose names go before those of their methods."""
        return [
            replace(curve, method=f"{name}, {curve.method}")
            for name, experiment in self.experiments.items()
            for curve in experiment.curves
        ]

    @property
    def columns(self) -> list[str]:
        """Methods, in the order in which they come."""
        results: list[Curve | Pruned] = []
        for experiment in self.experiments.values():
            results += experiment.curves
            results += experiment.pruned
        return methods_of(results)

    def labels(self, measure: str) -> dict[str, str]:
        """Name of each experiment, with the speed-up of its pruned networks where it applies."""
        labels = {}
        for name, experiment in self.experiments.items():
            labels[name] = name
            if experiment.pruned and measure != "flat_region":
                labels[name] = f"{name}, {experiment.pruned[0].target:g}x"
        return labels

    def own(self, name: str, column: str) -> bool:
        """Whether a metanetwork has learnt from the networks of this experiment."""
        return f"{column}_".startswith(f"metanetwork_{name}_")

    def matrix(self, measure: str) -> dict[str, dict[str, tuple[float, float | None]]]:
        """Return mean and standard deviation over held-out networks by row and column.

        {} where nothing is measured.
        """
        matrix = {}
        for name, experiment in self.experiments.items():
            rows = curve_rows(experiment) if measure == "flat_region" else pruned_rows(experiment)
            matrix[name] = {row["method"]: (row[measure], row[f"{measure}_std"]) for row in rows}
        return matrix if any(matrix.values()) else {}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each experiment and measure, a column and its deviation for each method."""
        rows = []
        for measure in MEASURES:
            for name, entries in self.matrix(measure).items():
                experiment = self.experiments[name]
                networks = {curve.network for curve in experiment.curves}
                networks |= {result.network for result in experiment.pruned}
                row: dict[str, Any] = {"networks_of": name, "measure": measure}
                row["target"] = experiment.pruned[0].target if experiment.pruned else None
                row["networks"] = len(networks)
                for column in self.columns:
                    mean, spread = entries.get(column, (None, None))
                    row[column] = mean
                    row[f"{column}_std"] = spread
                rows.append(row)
        return rows

    def tables(self) -> list[Grid]:
        """Return a matrix for each measure.

        A row for the networks of each experiment, a column for each method.
        """
        tables = []
        for measure, title in MEASURES.items():
            write = decimal if measure == "flat_region" else percent
            labels = self.labels(measure)
            rows = []
            for name, entries in self.matrix(measure).items():
                cells = [write(*entries[c]) if c in entries else "" for c in self.columns]
                rows.append([labels[name], *cells])
            names = [column.replace("_", " ").replace(" ", "\n", 1) for column in self.columns]
            if rows:
                capitalised = f"{title[0].upper()}{title[1:]}"
                tables.append(Grid(capitalised, ["networks of", *names], rows))
        return tables
