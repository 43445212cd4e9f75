import subprocess
import sys

import pytest

from metaprune_pl import __version__
from metaprune_pl.__main__ import COMMANDS, main
from metaprune_pl.cli.app import App
from metaprune_pl.cli.trainer import MetapruneTrainer


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
    assert list(COMMANDS) == list(App.subcommands())
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert "quickstart.yaml" in printed


@pytest.mark.parametrize("command", ["prune", "curve", "inspect", "experiment"])
def test_help_says_what_the_command_says_of_itself(command: str) -> None:
    docstring = getattr(MetapruneTrainer, command).__doc__
    assert docstring.splitlines()[0] == COMMANDS[command]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"metaprune {__version__}\n"


@pytest.mark.parametrize(
    "command", ["fit", "prune", "curve", "select", "data_models", "experiment"]
)
def test_the_settings_of_a_command_come_before_those_of_lightning(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: metaprune {command} --config CONFIG [--KEY VALUE ...]\n")
    own = {"fit": "--model", "data_models": "--initial", "experiment": "--chain.speed_ups"}.get(
        command, "--finetune.epochs"
    )
    assert printed.index(own) < printed.index("--trainer.accelerator")
