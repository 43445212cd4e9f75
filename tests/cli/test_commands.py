"""A command is a function in a file of its own and one line in the table."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from metaprune_pl.__main__ import main
from metaprune_pl.cli.commands import COMMANDS

TOY = '''
"""A toy."""

from dataclasses import dataclass

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.runs.context import Context


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How it is counted.

    Attributes:
        step: Distance of two images.
    """

    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ConfigError(f"step is {self.step}; it is at least 1.")


@dataclass(frozen=True, kw_only=True)
class Count:
    images: int

    def tables(self) -> list[str]:
        return [f"{self.images} images were counted"]


def toy(context: Context, data: ImageDataModule, *, counting: Settings = Settings()) -> Count:
    """Count images.

    Args:
        context: Where to run.
        data: The images.
        counting: How it is counted.

    Example:
        metaprune toy --config toy.yaml
    """
    (context.folder / "count.txt").write_text("counted")
    return Count(images=len(range(0, data.count("test"), counting.step)))
'''


@pytest.fixture
def toy(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the command's file, and register it."""
    Path("toy_command.py").write_text(TOY)
    monkeypatch.syspath_prepend(workdir)
    monkeypatch.setitem(COMMANDS, "toy", "toy_command:toy")
    return workdir


def test_a_command_is_a_file_and_a_line(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "toy          Count images." in capsys.readouterr().out
    main(["toy", "--help"])
    help_text = capsys.readouterr().out
    assert "--counting.step" in help_text and "Distance of two images." in help_text
    Path("toy.yaml").write_text(
        "trainer: {default_root_dir: run, accelerator: cpu}\ndata: Digits\n"
    )
    main(["toy", "--config=toy.yaml", "--counting.step=2"])
    out, err = capsys.readouterr()
    assert "images were counted" in out and "Results are in run." in err
    assert yaml.safe_load((toy / "run/config.yaml").read_text())["counting"] == {"step": 2}
    main(["toy", "--config=toy.yaml", "--counting.step=2"])
    out, err = capsys.readouterr()
    assert out == "" and "run is finished; it is not run again" in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--counting.step=0", "error: counting: step is 0; it is at least 1."),
        ("--counting.step=x", "error: counting.step: expected int, got 'x'."),
        ("--counting.stepp=1", "there is no setting 'counting.stepp'. Did you mean"),
        ("--counting.step=3", "'run' holds another run (counting.step: 1 -> 3)."),
    ],
)
def test_its_settings_are_checked(
    flag: str, said: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["toy", "--data=Digits", "--trainer.default_root_dir=run", "--trainer.accelerator=cpu"]
    main(args)
    before = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        main([*args, flag])
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()} == before


def test_help_takes_no_time() -> None:
    """A third of a second of the processor, of which Python itself takes a part."""
    code = (
        "import sys, time; from metaprune_pl.__main__ import main; main(['--help']); "
        "assert time.process_time() < 0.3, time.process_time()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
