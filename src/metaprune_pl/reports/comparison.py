"""Several experiments as a matrix.

A row for the networks of each, a column for each way to prune them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metaprune_pl.reports.results import Experiment
from metaprune_pl.reports.summary import curve_rows, methods_of, pruned_rows

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
    """

    experiments: Mapping[str, Experiment]

    @property
    def columns(self) -> list[str]:
        """Methods, in the order in which they come."""
        return methods_of([c for e in self.experiments.values() for c in [*e.curves, *e.pruned]])

    def labels(self, measure: str) -> dict[str, str]:
        """Name of each experiment, with the speed-up of its pruned networks where it applies."""
        pruned = (
            {}
            if measure == "flat_region"
            else {n: e.pruned[0] for n, e in self.experiments.items() if e.pruned}
        )
        return {
            name: f"{name}, {pruned[name].target:g}x" if name in pruned else name
            for name in self.experiments
        }

    def own(self, name: str, column: str) -> bool:
        """Whether a metanetwork has learnt from the networks of this experiment."""
        return f"{column}_".startswith(f"metanetwork_{name}_")

    def matrix(self, measure: str) -> dict[str, dict[str, tuple[float, float | None]]]:
        """Return mean and standard deviation over held-out networks by row and column.

        {} where nothing is measured.
        """
        found = {}
        for name, experiment in self.experiments.items():
            rows = curve_rows(experiment) if measure == "flat_region" else pruned_rows(experiment)
            found[name] = {row["method"]: (row[measure], row[f"{measure}_std"]) for row in rows}
        return found if any(found.values()) else {}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each experiment and measure, a column and its deviation for each method."""
        rows = []
        for measure in MEASURES:
            for name, entries in self.matrix(measure).items():
                experiment = self.experiments[name]
                row: dict[str, Any] = {
                    "networks_of": name,
                    "measure": measure,
                    "target": experiment.pruned[0].target if experiment.pruned else None,
                    "networks": len(
                        {c.network for c in experiment.curves}
                        | {p.network for p in experiment.pruned}
                    ),
                }
                for column in self.columns:
                    row[column], row[f"{column}_std"] = entries.get(column, (None, None))
                rows.append(row)
        return rows
