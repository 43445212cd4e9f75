"""Tables and numbers for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.console import JustifyMethod
from rich.table import Table

from metaprune_pl.pruning.cost.parameters import BYTES_EACH

UNITS = {"G": 1e9, "M": 1e6, "k": 1e3}


@dataclass(frozen=True)
class Grid:
    """A table of texts, for the console and for pages.

    Attributes:
        title: What it is of.
        columns: Their names; the first is of text, the others of numbers.
        rows: A cell for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich__(self) -> Table:
        """Return the table for the console."""
        table = Table(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            side: JustifyMethod = "right" if index else "left"
            table.add_column(column, justify=side, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table


Part: TypeAlias = Grid | str
"""What a person sees of a result: a table, or sentences."""


def percent(mean: float, spread: float | None = None) -> str:
    """Write a share in per cent, with its spread."""
    return decimal(100 * mean, None if spread is None else 100 * spread)


def decimal(mean: float, spread: float | None = None) -> str:
    """Write a number with its spread."""
    if spread is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {spread:.2f}"


def count(value: float) -> str:
    """Write a large number with a unit."""
    for unit, size in UNITS.items():
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def weight_size(parameters: int) -> str:
    """Write the size of so many parameters as they are stored."""
    return f"{count(BYTES_EACH * parameters)}B"


def milliseconds(median: float, spread: float, gain: float | None) -> str:
    """Write a measured time, and how many times faster it is; None within the spread."""
    factor = "within the spread" if gain is None else f"{gain:.2f}x"
    return f"{decimal(median, spread)} ({factor})"
