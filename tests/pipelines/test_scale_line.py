"""The scale-equivariant operator in the whole line: meta-training, curve, pruning, masks."""

import json
from pathlib import Path

import pytest

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.metanetworks import ScaleMetanetwork, load_metanetwork

OPERATOR = (
    "--model.init_args.metanetwork={class_path: ScaleMetanetwork, init_args: {layers: 1, "
    "hidden: 6, "
    "schema: resnet, direction: both, positions: [16, 1, 10]}}"
)


@pytest.mark.parametrize("form", ["decay", "l1"])
def test_the_operator_is_trained_and_prunes_as_the_others_do(
    line: Path, workdir: Path, form: str
) -> None:
    models = line / "runs/quickstart/data_models/networks"
    arguments = [part for part in tiny("fit meta") if ".metanetwork.init_args." not in part]
    main(
        [
            *arguments,
            OPERATOR,
            f"--data.init_args.data_models={models}",
            f"--model.init_args.sparsity.form={form}",
        ]
    )
    trained = Path("runs/quickstart/meta_training/metanetworks")
    operator = load_metanetwork(trained)
    assert isinstance(operator, ScaleMetanetwork)
    assert operator.bias_head.plain[3].weight.any()  # it has left the identity
    network = sorted(models.iterdir())[-1]
    given = [
        f"--network={network}",
        f"--metanetwork={trained}",
        "--trainer.default_root_dir=pruned",
    ]
    main([*tiny("prune prune"), *given])
    report = json.loads(Path("pruned/report.json").read_text())
    assert report
