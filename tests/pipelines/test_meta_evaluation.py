import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.reports import Curve


def with_evaluation(networks: list[Path] | None, folder: Path, **options: object) -> list[str]:
    named = None if networks is None else [str(path) for path in networks]
    settings = {"networks": named, "finetune": {"epochs": 1}, **options}
    settings |= {"grid": {"points": 4, "max_speed_up": 3.0}, "pruning": {"step": 0.05}}
    callback = {"class_path": "MetaEvaluation", "init_args": settings}
    (folder / "evaluated.yaml").write_text(json.dumps({"trainer": {"callbacks": [callback]}}))
    return ["--config=evaluated.yaml"]


def test_each_epoch_tells_how_far_unseen_networks_can_be_pruned(line: Path, workdir: Path) -> None:
    networks = line / "runs" / "quickstart" / "data_models" / "networks"
    args = tiny("fit meta", f"--data.init_args.data_models={networks}")
    unseen = [networks / "seed_0003", networks / "seed_0004"]
    main(
        [
            *args,
            *with_evaluation(unseen, workdir, threshold=0.3, every=2),
            "--trainer.default_root_dir=evaluated",
        ]
    )
    main([*args, "--trainer.default_root_dir=plain"])
    assert [path.name for path in Path("evaluated/meta_evaluation").iterdir()] == ["epoch_002"]
    result = json.loads(Path("evaluated/meta_evaluation/epoch_002/result.json").read_text())
    curves = [
        Curve.from_json(path) for path in Path("evaluated/meta_evaluation").rglob("curve.json")
    ]
    assert sorted(curve.network for curve in curves) == ["seed_0003", "seed_0004"]
    assert {curve.split for curve in curves} == {"validation"}
    assert result["speed_up"] == pytest.approx(sum(curve.reach_above(0.3) for curve in curves) / 2)
    assert result["flat_region"] == pytest.approx(sum(c.flat_region(0.02) for c in curves) / 2)
    events = EventAccumulator("evaluated")
    events.Reload()
    (logged,) = events.Scalars("meta_eval/speed_up")
    assert logged.value == pytest.approx(result["speed_up"])
    (figure,) = events.Images("curves by epoch of meta-training")
    assert figure.step == 2
    assert not [name for name in events.Tags()["scalars"] if "seed_0003" in name]
    with_it, without = (
        load_metanetwork(f"{run}/metanetworks/epoch_002") for run in ("evaluated", "plain")
    )
    for name, value in with_it.state_dict().items():  # the training is the same as without
        assert value.equal(without.state_dict()[name]), name


def test_impossible_settings(line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(tiny("fit meta", *with_evaluation([], workdir, threshold=0.3)))
    assert "MetaEvaluation: name networks, a threshold such as 0.925" in capsys.readouterr().err
    networks = line / "runs" / "quickstart" / "data_models" / "networks"
    none = [f"--data.init_args.data_models={networks}", "--data.init_args.validation=0"]
    with pytest.raises(SystemExit):
        main([*tiny("fit meta", *none), *with_evaluation(None, workdir, threshold=0.3)])
    assert "has no networks: name some, or set data.init_args.validation" in capsys.readouterr().err
