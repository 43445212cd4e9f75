"""The command line: one command, its settings, its result."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NoReturn

from rich.console import Console

from metaprune_pl import data, metanetworks, pruning, stages  # noqa: F401  (short names in configs)
from metaprune_pl.cli.commands import COMMANDS, load
from metaprune_pl.cli.lightning_cli import TrainingCLI
from metaprune_pl.cli.refusals import REFUSALS, refusal
from metaprune_pl.errors import ConfigError, DataError, StorageError, did_you_mean
from metaprune_pl.networks.trust import file_of, trust
from metaprune_pl.pipelines import meta_evaluation  # noqa: F401  (a short name in configs)
from metaprune_pl.reports.printing import print_result
from metaprune_pl.runs.command import build, run_command
from metaprune_pl.settings.overrides import join_overrides
from metaprune_pl.settings.parsing import (
    CommandParser,
    SettingsError,
    add_trainer,
    has_trainer,
    new_parser,
)
from metaprune_pl.settings.short_forms import short_help, write_out
from metaprune_pl.stages.quiet import quiet

LIGHTNING = ("fit", "validate", "test")
"""Commands that LightningCLI runs."""

_TRAINER = """
A setting of a class has help of its own, as in `--data.help ImageFolder`.

Lightning's Trainer, as for every command (all of it: metaprune {command} --trainer.help):
  --seed_everything SEED   seed of all generators (default: 0)
  --trainer.accelerator, .devices, .strategy, .precision, .fast_dev_run, .callbacks, ...
"""


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with status 1 or 2 on a person's mistake."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with quiet():
            run(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The same command continues where it was.\n")
        sys.exit(130)
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\nSee '{error.command} --help'.\n")
        sys.exit(2)
    except REFUSALS as error:
        message = refusal(error)
        if message is None:
            raise
        sys.stderr.write(f"error: {message}\n")
        sys.exit(1)


def run(args: list[str]) -> None:
    """Run a command.

    Args:
        args: Its name, and its flags.

    Raises:
        MetapruneError: It cannot be run so.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise StorageError("the current folder was removed. Change to another.") from error
    command, flags = args[0], write_out(args[0], args[1:])
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        message = f"no command '{command}'.{hint} Known: {', '.join(COMMANDS)}."
        raise SettingsError(message, "metaprune")
    function = load(command)
    asked, flags = _ahead(function).parse_known_args(flags)
    if asked.trust and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own modules lie in the current folder
    for name in asked.trust:
        dotted = name.replace(":", ".").split(".")
        if not all(part.isidentifier() for part in dotted) and file_of(name) is None:
            raise ConfigError(
                f"trust: '{name}' is neither package.module:function nor in a file that is here; "
                "for one elsewhere give FOLDER/FILE.py:FUNCTION."
            )
        trust(name)
    if asked.help or asked.trainer_help:
        _print_help(function, trainer=asked.trainer_help)
    elif asked.print_config is not None:
        _print_config(function, flags, asked.print_config)
    elif command in LIGHTNING:
        TrainingCLI(function, flags).execute()
    elif has_trainer(function):
        run_command(function, new_parser(function).parse_args(join_overrides(flags)))
    else:
        _answer(function, flags, as_json=asked.json)


class _Ahead(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message.removeprefix("argument ") + ".", self.prog)


def _ahead(function: Callable[..., Any]) -> argparse.ArgumentParser:
    """Return the parser of flags that count before any setting is read."""
    parser = _Ahead(f"metaprune {function.__name__}", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--trainer.help", dest="trainer_help", action="store_true")
    parser.add_argument("--trust", action="append", default=[])
    parser.add_argument("--print_config", nargs="?", const="")
    if not has_trainer(function):
        parser.add_argument("--json", action="store_true")
    return parser


def _print_help(function: Callable[..., Any], *, trainer: bool) -> None:
    """Print a command's own settings, or those of its Trainer."""
    if trainer:
        parser = CommandParser(prog=f"metaprune {function.__name__}")
        add_trainer(parser)
        parser.print_help()
        return
    parser = new_parser(function, trainer=False)
    parser.print_help()
    outer = ["trainer"] if has_trainer(function) else []
    sys.stdout.write(short_help([*parser.get_defaults(skip_validation=True).keys(), *outer]))
    if has_trainer(function):
        sys.stdout.write(_TRAINER.format(command=function.__name__))


def _print_config(function: Callable[..., Any], flags: list[str], kind: str) -> None:
    """Print all settings of a command, once they make sense."""
    parser, flags = new_parser(function), join_overrides(flags)
    settings = parser.parse_args(flags)
    if has_trainer(function):
        with suppress(DataError, StorageError):  # what is not there yet is made before
            build(function, settings)
    parser.parse_args([*flags, f"--print_config={kind}" if kind else "--print_config"])


def _answer(function: Callable[..., Any], flags: list[str], *, as_json: bool) -> None:
    """Call a function that trains nothing, and print what it returns."""
    parser = new_parser(function)
    arguments = parser.instantiate(parser.parse_args(flags))
    del arguments["config"]
    result = function(**arguments)
    if as_json:
        Console().print_json(json.dumps(asdict(result)))
    else:
        print_result(result)
