"""The data models of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metaprune_pl.reports.text import Grid, percent


@dataclass(frozen=True, kw_only=True)
class DataModels:
    """What is recorded of the data models of a run.

    Attributes:
        records: One for each seed.
    """

    records: Sequence[Mapping[str, Any]]

    def tables(self) -> list[Grid]:
        """Return them as a table."""
        rows = []
        for record in self.records:
            stored = record["validation_accuracy"]
            trained = record.get("validation_accuracy_trained", stored)
            speed_up = f"{record['speed_up']:.2f}x"
            rows.append((str(record["seed"]), speed_up, percent(trained), percent(stored)))
        title = "Data models: validation accuracy"
        return [Grid(title, ["seed", "speed-up", "trained %", "as stored %"], rows)]
