"""A config is bounded before anything is built of it, and runs no code that nobody has trusted."""

import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from metaprune_pl.__main__ import main
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import trust
from metaprune_pl.settings.config_text import check_size, load_settings

LEVELS = "abcdefghi"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{inner}'] * 10)}]\n" for inner, name in pairwise(LEVELS)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "its aliases make more than 100,000 values of it"),
        ("a: " + "[" * 20_000 + "]" * 20_000, "nest"),
        ("a: " + "[" * 60 + "]" * 60, "it nests more than 50 levels deep"),
        ("a: " + "{b: " * 20_000 + "}" * 20_000, "it nests more than 50 levels deep"),
        ("a: &a [*a]", r"the alias *a stands within what it names"),
        ("a: " + "x" * 1_000_001, "it has 1,000,004 characters"),
        (
            "a: !!timestamp 2001-99-99",
            "is no YAML: a value cannot be read (month must be in 1..12)",
        ),
        ("a: !!bool maybe", "is no YAML: a value cannot be read ('maybe')"),
    ],
)
def test_a_bomb_is_refused_at_once(
    text: str, said: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bomb.yaml").write_text(text)
    with pytest.raises((ConfigError, yaml.YAMLError)):
        load_settings(text)
    start = time.process_time()
    with pytest.raises(SystemExit) as stop:
        main(["prune", "--config=bomb.yaml"])
    assert stop.value.code == 1 and time.process_time() - start < 5
    err = capsys.readouterr().err
    assert err.startswith("error: the config bomb.yaml") and said in err and err.count("\n") == 1
    assert list(workdir.iterdir()) == [workdir / "bomb.yaml"]


def test_aliases_of_a_person_are_no_bomb() -> None:
    text = "one: &o {lr: 0.1}\ntwo: {<<: *o, p: 1}\nthree: [*o, *o]\n"
    check_size(text)
    assert load_settings(text)["two"] == {"lr": 0.1, "p": 1}


CANARY = """
from pathlib import Path

from lightning.pytorch.callbacks import Callback

Path("canary.txt").touch()

class Spy(Callback):
    pass
"""


@pytest.mark.parametrize(
    "setting",
    [
        "trainer: {callbacks: {class_path: canary_module.Spy}}",
        "trainer: {callbacks: [canary_module.Spy]}",
        "data: canary_module.Spy",
        "data: {class_path: canary_module.Spy}",
        "criterion: {class_path: canary_module.Spy}",
        "include: inner.yaml",
        "data: inner.yaml",
    ],
)
def test_a_config_imports_nothing_that_nobody_has_trusted(
    setting: str, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("canary_module.py").write_text(CANARY)
    monkeypatch.syspath_prepend(workdir)
    Path("inner.yaml").write_text("class_path: canary_module.Spy\n")
    Path("outer.yaml").write_text(f"{setting}\n")
    with pytest.raises(SystemExit):
        main(["prune", "--config=outer.yaml"])
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "add --trust canary_module" in said
    assert not Path("canary.txt").exists() and "canary_module" not in sys.modules


def test_what_is_trusted_runs(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trust, "_TRUSTED", {})
    Path("canary_module.py").write_text(CANARY)
    monkeypatch.syspath_prepend(workdir)
    Path("own.yaml").write_text("trainer: {callbacks: {class_path: canary_module.Spy}}\n")
    config = ["prune", "--config=prune_quickstart.yaml", "--config=own.yaml"]
    with pytest.raises(SystemExit) as stop:
        main([*config, "--trust", "canary_module", "--print_config"])
    assert stop.value.code == 0
    assert "class_path: canary_module.Spy" in capsys.readouterr().out
    assert Path("canary.txt").exists()
    del sys.modules["canary_module"]


def test_the_home_folder_in_a_config(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(workdir))
    text = "network: ~/net\nfile: [~/a.onnx, b~/c]\nstate: ~\n"
    expected = {"network": f"{workdir}/net", "file": [f"{workdir}/a.onnx", "b~/c"], "state": None}
    assert load_settings(text) == expected
    Path("own.yaml").write_text("data: Digits\nnetwork: ~/my/net\n")
    with pytest.raises(SystemExit):
        main(["prune", "--config=own.yaml"])
    assert f"no stored network in '{workdir}/my/net'" in capsys.readouterr().err
