"""Stored metanetworks are found by name; a name imports no code, and any head can be stored."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers import random_resnet
from metaprune_pl.errors import StorageError
from metaprune_pl.graphs import Features, WeightGraph, read, trace
from metaprune_pl.metanetworks import (
    Metanetwork,
    PNAMetanetwork,
    Rewriter,
    load_metanetwork,
    save_metanetwork,
)


class MeanPredictor(Metanetwork):
    """A head that is no rewriting: a number for each network."""

    def __init__(self, *, schema: str = "resnet") -> None:
        super().__init__(schema=schema, arguments={"schema": schema})
        self.last = nn.Linear(len(self.schema.slots), 1)

    def forward(self, graph: WeightGraph, features: Features) -> Tensor:
        """Return a prediction, [1]."""
        mean: Tensor = self.last(features.nodes.mean(0))
        return mean


def test_a_head_that_rewrites_nothing_is_stored_and_loaded(tmp_path: Path) -> None:
    network, predictor = random_resnet(), MeanPredictor()
    graph = trace(network, torch.zeros(1, 3, 8, 8))
    features = read(graph, network.state_dict(), predictor.schema)
    save_metanetwork(tmp_path / "predictor", predictor, {})
    loaded = load_metanetwork(tmp_path / "predictor", MeanPredictor)
    assert torch.equal(loaded(graph, features), predictor(graph, features))
    assert not isinstance(loaded, Rewriter)
    with pytest.raises(StorageError, match="it is a MeanPredictor, which is no Rewriter"):
        load_metanetwork(tmp_path / "predictor")


@pytest.mark.parametrize("name", ["canary.Evil", "canary.torch.nn.Linear", "torch.nn.Linear", ""])
def test_a_name_in_a_file_imports_no_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "canary.py").write_text("from pathlib import Path\nPath('sung').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    save_metanetwork("stored", PNAMetanetwork(layers=1, hidden=4), {})
    card = json.loads(Path("stored/metanetwork.json").read_text())
    Path("stored/metanetwork.json").write_text(json.dumps({**card, "class": name}))
    with pytest.raises(StorageError, match="no metanetwork is known as"):
        load_metanetwork("stored")
    assert not Path("sung").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    metanetwork = PNAMetanetwork(layers=1, hidden=4)
    save_metanetwork(tmp_path / "stored", metanetwork, {})
    weights = tmp_path / "stored" / "weights.safetensors"
    broken = load_file(weights)
    broken[next(iter(broken))].fill_(torch.nan)
    save_file(broken, weights)
    with pytest.raises(StorageError, match=r"not finite|holds NaN or infinity"):
        load_metanetwork(tmp_path / "stored")
    nn.init.constant_(next(metanetwork.parameters()), torch.nan)
    with pytest.raises(StorageError, match="NaN or infinity"):
        save_metanetwork(tmp_path / "nan", metanetwork, {})
    assert not (tmp_path / "nan").exists()
