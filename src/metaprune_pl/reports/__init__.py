"""Results of a run as dataclasses, written as JSON and CSV, with their figures and tables."""

from metaprune_pl.files import read_json, write_json
from metaprune_pl.reports.choice import Selection
from metaprune_pl.reports.curves import Curve, CurvePoint
from metaprune_pl.reports.detected import Detected
from metaprune_pl.reports.files import write_csv
from metaprune_pl.reports.masked import Masked
from metaprune_pl.reports.pruned import Pruned
from metaprune_pl.reports.result import Result
from metaprune_pl.reports.results import Cost, Experiment, StageCost

__all__ = [
    "Cost",
    "Curve",
    "CurvePoint",
    "Detected",
    "Experiment",
    "Masked",
    "Pruned",
    "Result",
    "Selection",
    "StageCost",
    "read_json",
    "write_csv",
    "write_json",
]
