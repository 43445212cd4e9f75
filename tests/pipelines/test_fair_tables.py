"""An experiment without metanetwork and curves, with methods of one's own; and the defaults."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_experiment import write_toy_configs

from conftest import QUIET
from metaprune_pl.__main__ import main
from metaprune_pl.networks import load_network
from metaprune_pl.pipelines.curve import curve
from metaprune_pl.pipelines.prune import prune
from metaprune_pl.pruning import Elimination, Magnitude, Sparsity
from metaprune_pl.settings.experiment import ExperimentSettings
from metaprune_pl.settings.parsing import parser_of
from metaprune_pl.stages.preparation import Preparation

CHAIN: dict[str, Any] = {
    "data_models": "toy_data.yaml",
    "prune": "toy_prune.yaml",
    "held_out": 1,
    "speed_ups": [2.0],
    "budgets": [0.5, 1.0],
    "methods": ["repaired", "by_share", "sparsity_learning"],
    "sparsity": {"weight": 0.001},
    "variants": {
        "repaired": {
            "prune": {"criterion": {"class_path": "Elimination"}, "repair": {"images": 40}}
        },
        "by_share": {"prune": {"pruning.ranking": "uniform", "finetune.epochs": 0}},
    },
}


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run it, and give its report."""
    monkeypatch.chdir(tmp_path)
    write_toy_configs(tmp_path)
    Path("own.yaml").write_text(yaml.safe_dump({"chain": CHAIN}))
    main(["experiment", "--config=own.yaml", "--trainer.default_root_dir=out", *QUIET])
    found: dict[str, Any] = json.loads(Path("out/report.json").read_text())
    return found


def test_methods_and_budgets_of_ones_own(report: dict[str, Any]) -> None:
    rows = {(row["method"], row["budget"]): row for row in report["results"]["pruned"]}
    assert list(rows) == [(method, share) for method in CHAIN["methods"] for share in (0.5, 1.0)]
    for method in CHAIN["methods"]:
        half, full = rows[method, 0.5], rows[method, 1.0]
        assert half["accuracy_pruned"] == full["accuracy_pruned"]
        before = 0 if method == "by_share" else report_images(method)
        assert full["images"] - before == 2 * (half["images"] - before) > 0
    assert rows["repaired", 1.0]["accuracy_stale"] is not None
    path = next(each["path"] for each in report["pruned"] if each["method"] == "by_share")
    assert load_network(path) is not None
    assert "By these figures take" in report["results"]["recommendation"]
    assert not report["curves"] and not report["choices"]


def report_images(method: str) -> int:
    """Images of the finetuning before pruning, by what the fit itself wrote."""
    (network,) = Path("out/networks").glob(f"*-{method}")
    return int((network / "prune" / "finetuned" / "images.json").read_text())


def test_defaults_are_what_keeps_most_accuracy() -> None:
    for command in (prune, curve):
        defaults = parser_of(command).get_defaults()
        assert (
            defaults["repair.init_args.images"] == defaults["statistics.init_args.images"] == 1024
        )
        assert defaults["criterion"] is None and defaults["finetune.epochs"] == 0
        assert defaults["pruning.max_ratio"] == 0.9
    after = parser_of(prune).get_defaults().finetune_after
    assert after.keep == "best" and after.distillation is not None
    assert after.optimizer.interval == "step" and after.optimizer.schedule == "cosine"


def test_the_criterion_goes_with_the_rest() -> None:
    plain = Preparation(network="net")
    assert isinstance(plain.importance(), Elimination)
    assert isinstance(plain.importance(masks=True), Magnitude)
    learnt = {"sparsity": Sparsity(weight=0.01), "finetune": prune.__kwdefaults__["finetune_after"]}
    assert isinstance(Preparation(network="net", **learnt).importance(), Magnitude)  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused() -> None:
    named = {"data_models": "a", "prune": "b"}
    for changes, message in (
        ({"methods": ["metanetwork"]}, "needs meta_training and curve"),
        ({"methods": ["none"], "budgets": [0.0]}, "budgets"),
        ({"methods": ["none"], "tune": [0.1]}, "tune"),
        ({"methods": ["mine"]}, "or variants"),
        ({"methods": ["none"], "variants": {"a": {"data_models": {}}}}, "same data models"),
    ):
        with pytest.raises(Exception, match=message):
            ExperimentSettings(**named, **changes)
    with pytest.raises(Exception, match=r"finetune\.epochs above 0"):
        Preparation(network="net", sparsity=Sparsity(weight=0.01))
