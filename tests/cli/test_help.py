import inspect
import subprocess
import sys

import pytest

from metaprune_pl import __version__
from metaprune_pl.__main__ import main
from metaprune_pl.cli.commands import COMMANDS, load, summary


@pytest.mark.parametrize("args", ["['--help']", "[]", "['--version']"])
def test_help_and_version_do_not_import_torch(args: str) -> None:
    code = (
        f"import sys; from metaprune_pl.__main__ import main; main({args}); "
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "metaprune" in result.stdout


def test_help_lists_the_commands_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert "quickstart.yaml" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_function_of_that_name_that_says_what_it_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    function = load(command)
    assert function.__name__ == command
    assert (inspect.getdoc(function) or "").splitlines()[0] == summary(command)
    main([command, "--help"])
    printed = capsys.readouterr().out
    assert summary(command) in printed and f"Example: metaprune {command} " in printed
    assert len(printed.splitlines()) < 150 and "--trainer.max_time" not in printed


def test_the_short_forms_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["prune", "--help"])
    short = capsys.readouterr().out.partition("Short forms:\n")[2]
    flags = "data speed_up latency latency_batch runtime size max_drop out trust"
    assert all(f"  --{name} " in short for name in flags.split())
    main(["train", "--help"])
    short = capsys.readouterr().out.partition("Short forms:\n")[2]
    assert "  --out " in short and "  --data " in short and "  --speed_up " not in short


def test_lightnings_flags_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["prune", "--trainer.help"])
    printed = capsys.readouterr().out
    assert "--trainer.max_time" in printed and "--finetune.epochs" not in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"metaprune {__version__}\n"
