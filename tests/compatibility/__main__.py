"""The compatibility report: `python -m tests.compatibility [NAME ...]`.

It takes networks through the whole line.

Each network runs in a process of its own, and torch-pruning afterwards in others, those first that
took least time before. Rows go to `tests/compatibility/report.csv`, which is added to, so that a
stopped report goes on where it was; the summary between the marks in the README of src is written
anew.
"""

import csv
import io
import multiprocessing
import queue
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from compatibility.line import Row, put_other, put_row
from compatibility.networks import whole_report
from metaprune_pl.files import write_text

REPORT = Path(__file__).with_name("report.csv")
README = Path(__file__).parents[2] / "src" / "metaprune_pl" / "README.md"
MARKS = ("<!-- compatibility -->", "<!-- end of compatibility -->")
LIMIT = 900
"""Seconds for one network."""
OTHER_LIMIT = 120
"""Seconds for torch-pruning on one network."""


def main(names: list[str]) -> None:
    """Run what the report lacks or failed, or the given networks anew, and write the summary."""
    networks = whole_report()
    rows = {row["network"]: row for row in csv.DictReader(io.StringIO(REPORT.read_text()))}

    def seconds(name: str) -> float:
        return float(rows[name]["seconds"]) if name in rows else 0.0

    lacking = [name for name in networks if name not in rows or not rows[name]["compared"]]
    todo = sorted(names or lacking, key=seconds)
    for number, name in enumerate(todo, 1):
        row = _in_a_process(put_row, name, networks.get(name, "3,224,224"), LIMIT)
        if isinstance(row, str):
            row = Row(network=name, seconds=LIMIT, error=row)
        other = rows.get(name, {}).get("torch_pruning", "")
        rows[name] = {key: str(value) for key, value in asdict(row).items()}
        rows[name]["torch_pruning"] = other
        print(
            f"{number}/{len(todo)} {name}: {row.verdict} ({row.seconds:.0f} s) {row.error}",
            flush=True,
        )
        _write(rows, networks)
    for name in sorted(names or rows, key=seconds):
        if not rows[name].get("torch_pruning"):
            shape = networks.get(name, "3,224,224")
            rows[name]["torch_pruning"] = _in_a_process(put_other, name, shape, OTHER_LIMIT)
            print(f"{name}: torch-pruning {rows[name]['torch_pruning']}", flush=True)
            _write(rows, networks)


def _in_a_process(put: Callable[..., None], name: str, shape: str, limit: int) -> Any:
    """Return what a process of its own puts, or why it puts nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["compatibility.line"])
    results: multiprocessing.Queue[Any] = context.Queue()
    process = context.Process(target=put, args=(name, shape, results))
    process.start()
    try:
        for _ in range(limit):
            try:
                return results.get(timeout=1)
            except queue.Empty:
                if not process.is_alive() and results.empty():
                    return f"its process ended with {process.exitcode}"
        return f"not done within {limit} s"
    finally:
        process.kill()
        process.join()


def _write(rows: dict[str, dict[str, str]], networks: Mapping[str, str]) -> None:
    """Write all rows in the order of the networks, and the summary of them in the README."""
    known = [name for name in (*networks, *sorted(rows.keys() - networks.keys())) if name in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in known)
    write_text(REPORT, table.getvalue())
    before, rest = README.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    new = summary([rows[name] for name in known])
    write_text(README, f"{before}{MARKS[0]}\n{new}{MARKS[1]}{after}")


def summary(rows: list[dict[str, str]]) -> str:
    """Return the table of the README.

    How many networks of each library pass each step, and every exception.
    """
    steps = {
        "traced": "traced",
        "exact": "exact round trip, also pruned",
        "metanetwork": "metanetwork",
        "pruned": "pruned to 2x",
        "compared": "equal to the masked one (largest difference)",
        "trains": "then trains",
        "loads": "stored, loaded",
        "torch_pruning": "torch-pruning to 2x",
    }
    lines = [
        "",
        f"| library | networks | {' | '.join(steps.values())} | coverage, least | seconds, median "
        "|",
    ]
    lines.append("|---" * (len(steps) + 4) + "|")
    for library in ("torchvision", "timm", "other"):
        own = [row for row in rows if _library(row) == library]
        counts = [_count(own, step) for step in steps]
        coverage = min(
            (float(row["coverage"]) for row in own if row["traced"] == "True"), default=0.0
        )
        seconds = sorted(float(row["seconds"]) for row in own)
        middle = seconds[len(seconds) // 2] if seconds else 0.0
        lines.append(
            f"| {library} | {len(own)} | {' | '.join(counts)} | {100 * coverage:.1f} % | "
            f"{middle:.0f} |"
        )
    failed = [row for row in rows if row["error"]]
    lines += (
        ["", *(f"- `{row['network']}`: {row['error']}" for row in failed), ""] if failed else [""]
    )
    return "\n".join(lines)


def _library(row: dict[str, str]) -> str:
    library = row["network"].partition("/")[0]
    return library if library in {"torchvision", "timm"} else "other"


def _all_outputs(row: dict[str, str]) -> bool:
    """Whether the values of all outputs were compared."""
    return row["compared"].startswith("outputs")


def _count(rows: list[dict[str, str]], step: str) -> str:
    """How many networks pass a step; torch-pruning's, of those that it has been tried on."""
    if step == "torch_pruning":
        tried = [row[step] for row in rows if row.get(step)]
        passed = sum(result.endswith("x") for result in tried)
        return f"{passed} of {len(tried)}" if tried else "not tried"
    if step == "compared":
        differences = [float(row["difference"]) for row in rows if _all_outputs(row)]
        return f"{len(differences)} ({max(differences, default=0.0):.1e})"
    if step == "pruned":
        return str(sum(float(row["speed_up"]) >= 2 for row in rows))
    return str(sum(row[step] == "True" for row in rows))


if __name__ == "__main__":
    main(sys.argv[1:])
