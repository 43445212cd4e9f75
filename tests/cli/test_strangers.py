"""What lies in a folder or stands in a file is not ours: it is neither touched nor run."""

from pathlib import Path

import pytest

from metaprune_pl.__main__ import main

PRUNE = [
    "prune",
    "--network=cifar_resnet",
    "--arguments={depth: 8, width: 4, in_channels: 1}",
    "--data=Digits",
    "--finetune.epochs=0",
    "--finetune_after.epochs=0",
    "--speed_ups=[1.5]",
    "--trainer.accelerator=cpu",
]


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one message of a command that is refused."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    message = capsys.readouterr().err.strip()
    assert stop.value.code in {1, 2} and "Traceback" not in message
    return message


@pytest.mark.parametrize("name", [".unfinished-thesis", ".unfinished-chapter1", ".lock"])
def test_what_looks_like_ours_is_not_touched(
    name: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "mine").mkdir()
    work = workdir / "mine" / name
    if name != ".lock":
        work.mkdir()
        work = work / "thesis.txt"
    work.write_text("my work")
    assert "holds no run" in refused([*PRUNE, "--trainer.default_root_dir=mine"], capsys)
    assert work.read_text() == "my work"


def test_the_root_is_no_run_folder(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'/' is not empty, and holds no run" in refused([*PRUNE, "--out=/"], capsys)


@pytest.mark.parametrize("name", [".lock", ".unfinished-abcdefgh"])
def test_links_in_a_run_folder_lead_nowhere(
    name: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = workdir / "home"
    (home / "old" / "photos").mkdir(parents=True)
    (home / "notes").write_text("my notes")
    (workdir / "mine").mkdir()
    (workdir / "mine" / name).symlink_to(home / "notes" if name == ".lock" else home)
    assert "holds no run" in refused([*PRUNE, "--trainer.default_root_dir=mine"], capsys)
    assert (home / "notes").read_text() == "my notes" and (home / "old" / "photos").is_dir()


CANARY = "from pathlib import Path\nPath('sung').touch()\nclass Canary: ...\ndef build(): ...\n"


@pytest.mark.parametrize(
    "text",
    [
        "network: 'os:system'\narguments: {command: touch sung}",
        "network: 'evilmod:build'",
        "trainer: {callbacks: [{class_path: evilmod.Canary}]}",
        "trainer: {callbacks: [{class_path: évil.Canary}]}",
        "criterion: {class_path: evilmod.Canary}",
        "criterion: evilmod.Canary",
        "criterion: ' évil.Canary'",
        "criterion: evil-mod.Canary",
        "network: 'evilmod:build '",
        "network: 'evilmod: build'",
        "network: 'evil-mod:build'",
        "sparsity: {weight: 'evilmod:build'}",
        "finetune_after: {others: ['evilmod:build']}",
        "metanetwork: evilmod.Canary",
        *(
            f"trainer: {{callbacks: [{{class_path: {callback}, init_args: {{setup: {code}}}}}]}}"
            for callback in ("lightning.pytorch.callbacks.LambdaCallback",)
            for code in (
                "torch.os.getcwd",
                "lightning.pytorch.callbacks.model_checkpoint.os.getcwd",
                "metaprune_pl.files.os.getcwd",
                "{class_path: metaprune_pl.networks.create.torch.fx.Graph}",
                "{class_path: torch.fx.graph_module.reduce_graph_module}",
                "{class_path: torchvision.models._utils.IntermediateLayerGetter}",
            )
        ),
    ],
)
def test_a_config_alone_runs_no_code(
    text: str,
    workdir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(workdir))
    for module in ("evilmod", "évil", " évil", "evil-mod"):
        (workdir / f"{module}.py").write_text(CANARY)
        (workdir / f"{module}.Canary").touch()  # a file of that name makes no difference
    (workdir / "c.yaml").write_text(f"data: {{class_path: Digits}}\n{text}\n")
    assert "--trust" in refused(["prune", "--config", "c.yaml"], capsys)
    assert not (workdir / "sung").exists() and not (workdir / "runs").exists()


def test_a_folder_with_a_colon_is_no_code(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "c.yaml").write_text("data: {class_path: Digits}\nnetwork: 'runs/10:30/network'\n")
    message = refused(["prune", "--config", "c.yaml"], capsys)
    assert "--trust" not in message and "runs/10:30/network" in message


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--latency_batches=[0]", "at least 1"),
        ("--trainer.threads=0", "trainer.threads"),
        ("--trainer.threads=100000", "trainer.threads"),
        ("--seed_everything=-1", "seed_everything"),
        ("--seed_everything=99999999999999999999", "seed_everything"),
    ],
)
def test_senseless_numbers_are_one_message(
    flag: str, says: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused([*PRUNE, flag], capsys)
    assert not (workdir / "runs").exists() or not any((workdir / "runs").rglob("*.json"))
