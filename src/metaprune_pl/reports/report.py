"""The report of a run that pruned to several targets."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from metaprune_pl.errors import StorageError
from metaprune_pl.files import write_json
from metaprune_pl.records import read_record
from metaprune_pl.reports.figures import save_figure
from metaprune_pl.reports.files import write_csv
from metaprune_pl.reports.result import Result
from metaprune_pl.reports.tensorboard import log_results

R = TypeVar("R", bound=Result)


def write_report(folder: Path, results: Sequence[Result]) -> None:
    """Write `report.csv`, the figure where there is one, TensorBoard events and `report.json`."""
    rows = [result.row() for result in results]
    write_csv(folder / "report.csv", rows)
    for result in results:
        log_results(folder, result.name, result.settings, result.values)
    kind = type(results[0])
    if kind.figure_name is not None:
        save_figure(kind.figure(results), folder / kind.figure_name)
    write_json(folder / "report.json", [asdict(result) for result in results])


def read_report(folder: Path, kind: type[R]) -> list[R]:
    """Read what `write_report` wrote.

    Raises:
        StorageError: The folder holds no finished pruning, or its report is damaged.
    """
    file = folder / "report.json"
    if not file.is_file():
        raise StorageError(f"'{folder}' holds no report.json of `metaprune prune`.")
    rows = read_record(list[Any], file)
    return [kind.from_plain(row, file) for row in rows]
