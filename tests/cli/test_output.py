"""Output that goes nowhere ends in one line at most."""

import subprocess
import sys
from pathlib import Path

import pytest

from metaprune_pl.__main__ import main

INSPECT = ["inspect", "cifar_resnet", "--arguments={depth: 8, width: 4}", "--input_shape=3,8,8"]


@pytest.mark.parametrize("flag", ["--version", "--help"])
@pytest.mark.parametrize(
    ("where", "said", "code"),
    [
        ("> /dev/full", "error: cannot write the output: No space left on device.\n", 1),
        (">&-", "", 0),
        ("| true", "", 1),
    ],
)
def test_it_ends_quietly(flag: str, where: str, said: str, code: int) -> None:
    line = f"{sys.executable} -m metaprune_pl {flag} {where}"
    shell = ["bash", "-o", "pipefail", "-c", line]
    ended = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert ended.stderr == said and ended.returncode in {0, code}


def test_a_result_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stop:
            main(INSPECT)
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.startswith("error: cannot write") and said.count("\n") == 1


def test_a_folder_that_is_gone_is_one_line(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "gone").mkdir()
    monkeypatch.chdir("gone")
    (workdir / "gone").rmdir()
    with pytest.raises(SystemExit) as stop:
        main(INSPECT)
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said == (
        "error: the current folder was removed. Change to another.\n"
    )
