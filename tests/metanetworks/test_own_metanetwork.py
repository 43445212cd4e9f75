"""A metanetwork is one class: it is meta-trained, stored, and rewrites networks for pruning."""

import json
from pathlib import Path

import pytest
import torch

from conftest import QUIET, tiny
from metaprune_pl.__main__ import main
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.networks import load_network

TOY = '''
"""A metanetwork that somebody adds."""

import torch
from torch import nn

from metaprune_pl.graphs import Features, WeightGraph
from metaprune_pl.metanetworks import Rewriter


class Scaling(Rewriter):
    """Multiplies all weights by a number that it learns.

    Args:
        start: The number at the start.
        schema: Name of the node features that it reads.
    """

    def __init__(self, *, start: float = 1.0, schema: str = "resnet") -> None:
        super().__init__(schema=schema, arguments={"start": start, "schema": schema})
        self.factor = nn.Parameter(torch.tensor(start))

    def forward(self, graph: WeightGraph, features: Features) -> Features:
        edges = tuple(self.factor * values for values in features.edges)
        return Features(nodes=features.nodes, edges=edges)
'''


def meta_training(line: Path, *flags: str) -> list[str]:
    networks = line / "runs/quickstart/data_models/networks"
    common = [f"--data.init_args.data_models={networks}", "--data.init_args.rounds=1"]
    return [
        "fit",
        "--config=meta_quickstart.yaml",
        *common,
        "--trainer.max_epochs=1",
        *QUIET,
        *flags,
    ]


@pytest.mark.slow
def test_one_of_ones_own_is_trained_and_prunes_by_the_command_line(
    line: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("toy_metanetwork.py").write_text(TOY)
    monkeypatch.syspath_prepend(workdir)
    settings = "{class_path: toy_metanetwork.Scaling, init_args: {start: 1.5}}"
    own, trust = f"--model.init_args.metanetwork={settings}", "--trust=toy_metanetwork"
    main(meta_training(line, own, trust, "--trainer.default_root_dir=meta"))
    factor = dict(load_metanetwork("meta/metanetworks").named_parameters())["factor"]
    assert factor != 1.5
    given = line / "runs/quickstart/data_models/networks/seed_0002"
    flags = [f"--network={given}", "--metanetwork=meta/metanetworks", "--finetune.epochs=0"]
    short = ["--finetune_after.epochs=0", "--latency_batches=[]", "--speed_ups=[2]"]
    main(tiny("prune prune", *flags, *short, trust, "--trainer.default_root_dir=pruned"))
    before, after = load_network(given), load_network("pruned/rewritten")
    for name, weight in before.named_parameters():
        scaled = factor * weight if weight.dim() > 1 else weight
        assert torch.allclose(after.get_parameter(name), scaled), name


@pytest.mark.slow
def test_the_reference_has_a_short_name(line: Path, workdir: Path) -> None:
    small = "--model.init_args.metanetwork.init_args={layers: 1, hidden: 4, taps: [9]}"
    kind = "--model.init_args.metanetwork=PyGMetanetwork"
    flags = ["--data.init_args.models_per_step=1", "--trainer.limit_train_batches=1"]
    main(meta_training(line, kind, small, *flags, "--trainer.default_root_dir=meta"))
    card = json.loads(Path("meta/metanetworks/epoch_001/metanetwork.json").read_text())
    assert card["class"] == "metaprune_pl.metanetworks.pna_pyg.PyGMetanetwork"
