"""Every number of the paper's tables of hyperparameters against the shipped configs.

`paper_tables.csv` has a row for each: the place in the paper, its number, the config and the
setting, and where ours is another one, that and the reason.
"""

import csv
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from metaprune_pl.graphs import SCHEMAS
from metaprune_pl.pruning import MaskSettings
from metaprune_pl.settings.config_text import load_settings, with_included
from metaprune_pl.settings.experiment import GUIDED, ExperimentSettings
from metaprune_pl.settings.shipped import shipped_configs

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
    counted = Counter(row["table"] for row in ROWS)
    assert counted == {"10": 32, "13": 32, "16": 31, "19": 15, "22": 31}


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['table']}: {row['types']}, {row['name']}"
)
def test_the_config_has_the_papers_number(row: dict[str, str]) -> None:
    paper, ours = json.loads(row["paper"]), json.loads(row["ours"] or "null")
    assert bool(row["ours"]) == bool(row["why"]), "another number has a reason"
    assert value_of(row["config"], row["setting"]) == (ours if row["ours"] else paper)


def experiments() -> dict[str, dict[str, Any]]:
    """All shipped experiments that train a metanetwork: name to `chain`."""
    names = [name.removesuffix(".yaml") for name in shipped_configs()]
    chains = {name: settings(name).get("chain", {}) for name in names}
    return {name: chain for name, chain in chains.items() if "meta_training" in chain}


EXPERIMENTS = experiments()
BY_HAND = {
    name: "paper_quickstart" if name == "quickstart" else name
    for name in EXPERIMENTS
    if f"meta_{name}.yaml" in shipped_configs()
}
"""Experiments whose stages have configs of their own to what chains just these."""


NAMES = "data_models meta_training curve prune zoo predictor guided methods metanetworks".split()
NAMES += ["variants", "overrides", "on_own"]
"""Settings of an experiment that its runs follow from."""


def parts_of(chain: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    """Seeds to learn from, to choose by and to report on."""
    seeds = settings(chain["data_models"].removesuffix(".yaml"))["model"]["init_args"]["seeds"]
    overrides = chain.get("overrides", {}).get("data_models", {})
    seeds = overrides.get("model.init_args.seeds", seeds)
    choose, report = chain.get("validation", 1), chain.get("held_out", 2)
    learn = len(seeds) - choose - report
    return seeds[:learn], seeds[learn : learn + choose], seeds[learn + choose :]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_networks_to_learn_from_to_choose_by_and_to_report_on_are_three_sets(name: str) -> None:
    chain = EXPERIMENTS[name]
    learn, choose, report = parts_of(chain)
    assert choose and report and [*learn, *choose, *report] == sorted({*learn, *choose, *report})
    assert learn or "metanetwork" not in chain["methods"]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet56_cifar10", (8, 2, 1)),
        ("vgg19_cifar100", (8, 2, 1)),
        ("resnet110_cifar10", (8, 2, 1)),
        ("resnet50", (2, 1, 1)),
        ("vit_b_16", (1, 1, 1)),
    ],
)
def test_the_sets_are_as_large_as_the_papers(name: str, sizes: tuple[int, int, int]) -> None:
    assert tuple(map(len, parts_of(EXPERIMENTS[name]))) == sizes  # D.2.2, D.3.2, D.4.2, G


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tensorboard_has_few_runs(name: str) -> None:
    given = {key: value for key, value in EXPERIMENTS[name].items() if key in NAMES}
    masks = MaskSettings(sparsities=[0.5]) if "masks" in EXPERIMENTS[name] else None
    chain = ExperimentSettings(**given, masks=masks)
    stages = ("meta_training", "choice")
    shared = {
        (stage, chain.first_like(m, "meta_training", stage))
        for stage in stages
        for m in chain.shared
    }
    alone = {"experiment", "data_models", *(GUIDED if "guided" in chain.methods else ())}
    limit = 22 if name == "criteria_resnet56_cifar10" else 20  # seven metanetworks
    assert len(alone) + len(shared) + len(chain.compared) <= limit


@pytest.mark.parametrize("name", BY_HAND)
def test_stages_by_hand_have_the_sets_of_their_experiment(name: str) -> None:
    chain = EXPERIMENTS[BY_HAND[name]]
    _, choose, report = parts_of(chain)
    zoo = settings(f"meta_{name}")["data"]["init_args"]
    assert (zoo["validation"], zoo["held_out"]) == (len(choose), len(report))
    by_hand = {stage: settings(f"{stage}_{name}")["network"] for stage in ("curve", "prune")}
    assert int(by_hand["prune"].rpartition("_")[2]) in report
    split = settings(f"curve_{name}")["grid"]["split"]
    assert int(by_hand["curve"].rpartition("_")[2]) in (choose if split == "validation" else report)
    if name == "quickstart":
        assert int(settings("select_quickstart")["network"].rpartition("_")[2]) in choose
