"""Tables on disk."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metaprune_pl.files import write_text


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; columns are the keys of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
