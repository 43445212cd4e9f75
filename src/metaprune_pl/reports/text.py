"""Tables and numbers for the console."""

from collections.abc import Iterable, Sequence

from rich.table import Table


def text_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table for the console whose first column is text."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def percent(mean: float, spread: float | None = None) -> str:
    """Write a share in per cent, with its spread."""
    return f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def decimal(mean: float, spread: float | None = None) -> str:
    """Write a number with its spread."""
    return f"{mean:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def count(value: float) -> str:
    """Write a large number with a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"
