"""JSON and CSV that appear whole or not at all."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metaprune_pl.errors import StorageError
from metaprune_pl.networks.storage import write_text


def write_json(path: Path, data: Any) -> None:
    """Write JSON that appears whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StorageError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}.") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; columns are the keys of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
