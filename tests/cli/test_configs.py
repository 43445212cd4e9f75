from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import TINY, tiny
from metaprune_pl.__main__ import main
from metaprune_pl.errors import ConfigError, StorageError
from metaprune_pl.pipelines.prune import prune
from metaprune_pl.pruning import Elimination, Energy
from metaprune_pl.runs.run_folder import RunFolder
from metaprune_pl.settings.config_text import load_settings, with_included
from metaprune_pl.settings.overrides import join_overrides
from metaprune_pl.settings.parsing import parse_config, parser_of
from metaprune_pl.settings.shipped import find_config, shipped_configs

COMMANDS = {
    "data": "data_models",
    "select": "select",
    "meta": "fit",
    "fit": "fit",
    "zoo": "data_models",
    "curve": "curve",
    "analyze": "analyze",
    "detection": "detect",
    "prune": "prune",
    "predictor": "fit",
    "guided": "fit",
    "transfer": "compare",
    "initial": "compare",
}


def command_of(name: str) -> str:
    return COMMANDS.get(name.partition("_")[0], "experiment")


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command_of(name), "--config", name, "--print_config"])
    assert stop.value.code == 0
    written, parsed = (
        yaml.safe_load(find_config(name).read_text()),
        yaml.safe_load(capsys.readouterr().out),
    )
    assert parsed["trainer"]["default_root_dir"] == written["trainer"]["default_root_dir"]


class Started(Exception):
    """What a run would have written its settings for."""


@pytest.mark.parametrize(
    "name", [name for name in shipped_configs() if command_of(name) in {"experiment", "compare"}]
)
def test_every_stage_of_every_experiment_parses(
    name: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is read before anything is run."""

    def running(folder: RunFolder, config: str, *, keep: bool) -> None:
        raise Started

    monkeypatch.setattr(RunFolder, "running", running)
    with pytest.raises(Started):
        main([command_of(name), "--config", name])


def test_a_file_comes_before_a_shipped_config(workdir: Path) -> None:
    (workdir / "quickstart.yaml").write_text("{}")
    assert find_config("quickstart.yaml") == Path("quickstart.yaml")
    assert find_config("meta_quickstart.yaml").is_absolute()


@pytest.mark.parametrize(
    "flags",
    [
        ["--criterion", "Elimination"],
        ["--criterion=metaprune_pl.pruning.Elimination"],
        ["--criterion={class_path: Elimination, init_args: {images: 512}}"],
        ["--config", "other.yaml"],
    ],
)
def test_a_criterion_that_is_named_has_its_own_defaults(flags: list[str], workdir: Path) -> None:
    paper = "criterion: {class_path: Magnitude, init_args: {normalize: max, p: 1.0}}"
    Path("paper.yaml").write_text(f"network: made before\ndata: Digits\n{paper}")
    Path("other.yaml").write_text("include: paper.yaml\ncriterion: Elimination")
    settings = parser_of(prune).parse_args(join_overrides(["--config", "paper.yaml", *flags]))
    assert settings.criterion.init_args.as_dict() == asdict(Elimination())
    change = load_settings("criterion: Energy")
    settings = parse_config(prune, "paper.yaml", change, {"criterion.readers": 0.0})
    assert settings.criterion.init_args.as_dict() == asdict(Energy(readers=0.0))


def test_an_unknown_config_names_the_closest() -> None:
    with pytest.raises(
        StorageError,
        match=r"no config 'meta_quikstart.yaml': no such file. Did you mean 'meta_quick",
    ):
        find_config("meta_quikstart.yaml")


def test_a_config_printed_can_be_fed_back(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["prune", "--config", "prune_quickstart.yaml", "--print_config"])
    printed = capsys.readouterr().out
    (workdir / "again.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        main(["prune", "--config", "again.yaml", "--print_config"])
    assert capsys.readouterr().out == printed


def printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the program takes a command line for."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*args, "--print_config"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    parsed: dict[str, Any] = yaml.safe_load(out)
    return parsed


@pytest.mark.parametrize(
    "line",
    ["include: base.yaml", "include: [other.yaml, base.yaml]  # both", "include:\n- base.yaml"],
)
def test_a_config_builds_on_others(
    line: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "parts").mkdir()
    (workdir / "parts" / "other.yaml").write_text("seed_everything: 5\nspeed_ups: [9.0]\n")
    (workdir / "parts" / "base.yaml").write_text(
        "# first\ninclude: prune_quickstart.yaml\ndata:\n  init_args:\n    batch_size: "
        "9\nspeed_ups: [5.0]\n"
    )
    (workdir / "parts" / "own.yaml").write_text(
        f"# a comment\n{line}\nfinetune:\n  optimizer: {{lr: 0.5}}\n"
    )
    found = printed(["prune", "--config", "parts/own.yaml"], capsys)
    assert found["finetune"]["optimizer"]["lr"] == 0.5  # its own
    assert found["finetune"]["optimizer"]["weight_decay"] == 0.01  # of what base.yaml includes
    assert (found["data"]["init_args"]["batch_size"], found["speed_ups"]) == (
        9,
        [5.0],
    )  # of base.yaml
    assert "include" not in found
    flags = [
        "--speed_ups=[7]",
        "--config=parts/own.yaml",
        "--finetune.optimizer.lr=0.25",
    ]  # what comes later wins
    found = printed(["prune", *flags], capsys)
    assert (found["speed_ups"], found["finetune"]["optimizer"]["lr"]) == ([5.0], 0.25)


def test_a_config_that_includes_itself_or_nothing_is_one_message(workdir: Path) -> None:
    (workdir / "a.yaml").write_text("include: b.yaml\n")
    (workdir / "b.yaml").write_text("include: [a.yaml]\n")
    with pytest.raises(StorageError, match=r"the config .*a\.yaml includes itself\."):
        with_included("a.yaml")
    (workdir / "a.yaml").write_text("include: meta_quikstart.yaml\n")
    with pytest.raises(
        StorageError, match=r"no config 'meta_quikstart.yaml'.* Did you mean 'meta_quickstart.yaml'"
    ):
        with_included("a.yaml")


@pytest.mark.parametrize("stage", TINY)
def test_a_fast_dev_run_runs_and_keeps_nothing(
    stage: str, line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quickstart = line / "runs" / "quickstart"
    networks, metanetworks = (
        quickstart / "data_models" / "networks",
        quickstart / "meta_training" / "metanetworks",
    )
    flags = [f"--network={networks}/seed_0002", f"--metanetwork={metanetworks}"]
    given = {"data_models data": [], "fit meta": [f"--data.init_args.data_models={networks}"]}.get(
        stage, flags
    )
    main([*tiny(stage, *given), "--trainer.fast_dev_run=2"])
    assert [path for path in workdir.rglob("*") if path.is_file()] == []
    assert stage == "fit meta" or "%" in capsys.readouterr().out  # a table of accuracies


def test_an_experiment_has_no_fast_dev_run(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "--config=quickstart.yaml", "--trainer.fast_dev_run=true"])
    assert stop.value.code == 1
    assert "trainer.fast_dev_run has no effect on experiment" in capsys.readouterr().err


def test_overrides_of_a_stage_add_up() -> None:
    flags = [
        "--chain.overrides.curve",
        "{a.b: 1, c: [2]}",
        "--trainer.devices",
        "2",
        "--chain.overrides.curve.c=3",
    ]
    more = ["--chain.overrides.prune.d", "x: 1", "--chain.overrides.curve.e", "{f: 4}"]
    *others, curve, prune = join_overrides(["experiment", *flags, *more])
    assert others == ["experiment", "--trainer.devices", "2"]
    assert curve == '--chain.overrides.curve={"a.b": 1, "c": 3, "e": {"f": 4}}'
    assert prune == '--chain.overrides.prune={"d": {"x": 1}}'
    for value in ("3", "{a", ""):
        with pytest.raises(
            ConfigError,
            match=f"expected settings such as '{{trainer.max_epochs: 9}}', got '{value}'",
        ):
            join_overrides(["--matrix.overrides.curve", value])


def test_changes_at_once_come_to_what_changes_in_turn_do(workdir: Path) -> None:
    Path("own.yaml").write_text(
        "data: Digits\nnetwork: small_cnn\narguments: {depth: 20, width: 1}\n"
    )
    first = {"arguments.depth": 8, "finetune.epochs": 3, "pruning": {"step": 0.5}}
    second = {"arguments.width": 4, "pruning.max_ratio": 0.5, "finetune": {"keep": "best"}}
    settings = parse_config(prune, "own.yaml", first, second)
    assert settings.arguments == {"depth": 8, "width": 4}
    assert (settings.pruning.step, settings.pruning.max_ratio) == (0.5, 0.5)
    assert (settings.finetune.epochs, settings.finetune.keep) == (3, "best")
    one = parse_config(prune, "own.yaml", {"arguments.depth": 8, "arguments.width": 4})
    assert one.arguments == settings.arguments
    assert parse_config(prune, "own.yaml").arguments == {"depth": 20, "width": 1}
