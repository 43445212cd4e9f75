"""Experiments: which networks metanetworks learn from, and rows of the paper that stand alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metaprune_pl.data import DataModelZoo, Digits
from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines import experiment
from metaprune_pl.pipelines.experiment import Line
from metaprune_pl.reports.paper import PaperRow
from metaprune_pl.settings.experiment import ExperimentSettings

STAGES = {
    name: f"{short}_quickstart.yaml"
    for name, short in (
        ("data_models", "data"),
        ("meta_training", "meta"),
        ("curve", "curve"),
        ("prune", "prune"),
    )
}


@pytest.mark.parametrize("there", [5, 8])
def test_networks_of_other_seeds_shift_no_set(
    there: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / f"seed_{seed:04d}" for seed in range(there)]
    for folder in folders:
        folder.mkdir()
        (folder / "network.json").touch()
    chain = ExperimentSettings(**STAGES, held_out=2, validation=1)
    asked, known = folders[:5], list[Any]()

    def choose(run: Any, networks: list[Path], zoo: dict[str, Any]) -> Any:
        data = DataModelZoo(Digits(), **zoo)
        known.append((networks, data.models_to_choose_by, data.models))
        return SimpleNamespace(metanetwork="")

    monkeypatch.setattr(experiment, "choose_metanetwork", choose)
    Line(context=None, chain=chain).make_metanetworks(asked)  # type: ignore[arg-type]
    assert known == [([folders[2]], [folders[2]], folders[:2])]


def row(**settings: Any) -> PaperRow:
    return PaperRow(**{"table": 8, "row": "ours", "target": 2.0, **settings})


def test_rows_of_the_paper_that_stand_beside_nothing_are_told() -> None:
    rows = [row(), row(method="nobody"), row(target=2.5), row(target="2:4"), row(method="none")]
    chain = ExperimentSettings(**STAGES, speed_ups=[2.0, 3.0], paper=rows)
    assert chain.beside_nothing == rows[1:4]


@pytest.mark.parametrize("table", [0, 23])
def test_tables_that_the_paper_has_not_are_refused(table: int) -> None:
    with pytest.raises(ConfigError, match=f"the paper has tables 1 to 22, not {table}"):
        row(table=table)
