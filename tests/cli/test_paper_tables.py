"""Every number of the paper's tables of hyperparameters against the shipped configs.

`paper_tables.csv` has a row for each: the place in the paper, its number, the config and the
setting, and where ours is another one, that and the reason.
"""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from metaprune_pl.graphs import SCHEMAS
from metaprune_pl.settings.config_text import load_settings, with_included

with Path(__file__).with_name("paper_tables.csv").open() as file:
    ROWS = list(csv.DictReader(file))


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay settings over others."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


@cache
def settings(config: str) -> dict[str, Any]:
    """A config with all that it includes."""
    merged: dict[str, Any] = {}
    for _, text in with_included(f"{config}.yaml"):
        merged = merge(merged, load_settings(text))
    merged.pop("include", None)
    return merged


def value_of(config: str, setting: str) -> Any:
    """A setting by its path; `|len` counts it, and the like."""
    path, _, what = setting.partition("|")
    value: Any = settings(config)
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    converted = {
        "": lambda: value,
        "len": lambda: len(value),
        "slots": lambda: len(SCHEMAS[value].slots),
        "epoch": lambda: int(value.rpartition("_")[2]),
    }
    return converted[what]()


def test_all_five_tables_are_there() -> None:
    counted = {
        table: sum(row["table"] == table for row in ROWS) for table in "10 13 16 19 22".split()
    }
    assert len(ROWS) == sum(counted.values()) and min(counted.values()) >= 15


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['table']}: {row['types']}, {row['name']}"
)
def test_the_config_has_the_papers_number(row: dict[str, str]) -> None:
    paper, ours = json.loads(row["paper"]), json.loads(row["ours"] or "null")
    assert bool(row["ours"]) == bool(row["why"]), "another number has a reason"
    assert value_of(row["config"], row["setting"]) == (ours if row["ours"] else paper)


EXPERIMENTS = {row["config"].partition("_")[2] for row in ROWS if row["config"][:5] == "meta_"}
DISJOINT = ["quickstart", "resnet20_cifar10_jpeg", *sorted(EXPERIMENTS)]


@pytest.mark.parametrize("name", DISJOINT)
def test_networks_to_learn_from_to_choose_by_and_to_report_on_are_three_sets(name: str) -> None:
    seeds = settings(f"data_{name}")["model"]["init_args"]["seeds"]
    zoo = settings(f"meta_{name}")["data"]["init_args"]
    chain = settings("paper_quickstart" if name == "quickstart" else name)["chain"]
    sizes = zoo["validation"], zoo["held_out"]
    assert sizes == (chain.get("validation", 1), chain["held_out"]) and min(sizes) > 0
    learn = seeds[: -sum(sizes)]
    choose, report = seeds[len(learn) : -sizes[1]], seeds[-sizes[1] :]
    assert learn and choose and report and [*learn, *choose, *report] == sorted(set(seeds))
    by_hand = {stage: settings(f"{stage}_{name}")["network"] for stage in ("curve", "prune")}
    assert int(by_hand["prune"].rpartition("_")[2]) in report
    split = settings(f"curve_{name}")["grid"]["split"]
    assert int(by_hand["curve"].rpartition("_")[2]) in (choose if split == "validation" else report)
    if name == "quickstart":
        assert int(settings("select_quickstart")["network"].rpartition("_")[2]) in choose
