"""An experiment's numbers beside those of the paper's tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metaprune_pl.errors import ConfigError
from metaprune_pl.reports.text import Grid

QUANTITIES = {
    "base": "accuracy_base",
    "accuracy": "accuracy_finetuned",
    "accuracy_std": "accuracy_finetuned_std",
    "difference": "difference",
    "base_top_5": "accuracy_base_top_5",
    "top_5": "accuracy_finetuned_top_5",
    "top_5_std": "accuracy_finetuned_top_5_std",
    "difference_top_5": "difference_top_5",
    "macs_pruned": "macs_pruned",
    "macs_pruned_std": "macs_pruned_std",
    "left": "left",
    "speed_up": "speed_up",
    "speed_up_std": "speed_up_std",
}
"""What the paper's tables print to our column; all but the speed-up are in percent."""


TABLES = 22
"""Tables that the paper has."""


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of a table in the paper.

    Attributes:
        table: The table.
        row: What tells the row from the others.
        target: Which of our targets it stands beside.
        numbers: The paper's numbers by what they are: `base`, `accuracy`, `difference`,
            `macs_pruned`, `left` (parameters), `speed_up`, with `_top_5` and `_std`; shares in
            percent.
        method: Which of our methods it stands beside.
    """

    table: int
    row: str
    target: float | str
    numbers: dict[str, float] = field(default_factory=dict)
    method: str = "metanetwork"

    def __post_init__(self) -> None:
        if not 1 <= self.table <= TABLES:
            raise ConfigError(f"chain.paper: the paper has tables 1 to {TABLES}, not {self.table}.")
        if unknown := sorted(self.numbers.keys() - QUANTITIES.keys()):
            raise ConfigError(f"chain.paper: '{unknown[0]}' is none of {', '.join(QUANTITIES)}.")
        numbers = [*self.numbers.values(), self.target]
        if not all(math.isfinite(value) for value in numbers if isinstance(value, float)):
            raise ConfigError(f"chain.paper: a number of the row '{self.row}' is not finite.")


def beside_paper(
    rows: Iterable[PaperRow], ours: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Lay our means beside the paper's numbers.

    Args:
        rows: The paper's rows.
        ours: A row for each method and target, shares from 0 to 1.

    Returns:
        A row for each number; ours and the difference are None where we have none.
    """
    means = {(row["method"], str(row["target"])): row for row in ours}
    beside = []
    for row in rows:
        mean = means.get((row.method, str(row.target)), {})
        for quantity, paper in row.numbers.items():
            value = mean.get(QUANTITIES[quantity])
            if value is not None and not quantity.startswith("speed_up"):
                value *= 100
            beside.append(
                {
                    "table": row.table,
                    "row": row.row,
                    "method": row.method,
                    "target": row.target,
                    "quantity": quantity,
                    "paper": paper,
                    "ours": value,
                    "difference": None if value is None else value - paper,
                }
            )
    return beside


def paper_table(beside: Sequence[Mapping[str, Any]]) -> Grid:
    """Return the numbers that were laid beside the paper's as a table for the console."""
    rows = [
        (
            f"{row['table']}: {row['row']}",
            row["quantity"],
            f"{row['paper']:.2f}",
            "" if row["ours"] is None else f"{row['ours']:.2f}",
            "" if row["ours"] is None else f"{row['difference']:+.2f}",
        )
        for row in beside
    ]
    columns = ["table of the paper", "quantity", "paper", "ours", "difference"]
    return Grid("Beside the paper's numbers (shares in percent)", columns, rows)
