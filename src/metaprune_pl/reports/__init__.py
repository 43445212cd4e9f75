"""What a run found out: dataclasses that go to JSON and CSV, and pictures and tables made from them."""

from metaprune_pl.reports.results import (
    Cost,
    Curve,
    CurvePoint,
    Detected,
    Experiment,
    Masked,
    Pruned,
    Selection,
    StageCost,
    read_json,
    write_csv,
    write_json,
)

__all__ = [
    "Cost",
    "Curve",
    "CurvePoint",
    "Detected",
    "Experiment",
    "Masked",
    "Pruned",
    "Selection",
    "StageCost",
    "read_json",
    "write_csv",
    "write_json",
]
