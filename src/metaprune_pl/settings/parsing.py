"""A function as a command: its signature and docstring are its settings and their help."""

import argparse
import inspect
import re
import shutil
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    DefaultHelpFormatter,
    Namespace,
    set_loader,
    set_parsing_settings,
)
from jsonargparse.typing import Path_fr
from lightning.pytorch.cli import LightningArgumentParser

from metaprune_pl.errors import ConfigError, MetapruneError
from metaprune_pl.settings.config_text import check_values, load_settings, with_included
from metaprune_pl.settings.short_errors import shorten
from metaprune_pl.settings.short_forms import NETWORK_FIRST, short_names
from metaprune_pl.stages.trainer import StageTrainer

set_parsing_settings(instantiate_subclass_spec_in_any=False)  # settings of stages stay settings
set_loader("metaprune", load_settings, (yaml.YAMLError,))

RUNS_ITSELF = "context"
"""Parameter of a command that trains or computes something: it has a Trainer and a folder."""


class SettingsError(MetapruneError):
    """Settings that a command does not have, or of another type.

    Attributes:
        command: How the command is called.
    """

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message)
        self.command = command


class Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """jsonargparse's help in long lines, the settings of a class that several have only once."""

    def __init__(self, prog: str) -> None:
        width = max(120, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, max_help_position=44, width=width)  # type: ignore[no-untyped-call]
        self.groups: dict[str, argparse.Action] = {}
        self.shown: dict[tuple[str, str | None], str] = {}

    def add_argument(self, action: argparse.Action) -> None:
        """Add an option, unless the same of another group was added before, or it is `--X.help`."""
        group, _, name = action.dest.rpartition(".")
        if group and name == "help":
            return
        if name == "print_config":
            action.help = "Print all settings as YAML and exit; skip_default leaves out defaults."
        known = self.shown.setdefault((name, action.help), group)
        if action.metavar == "CONFIG":
            self.groups[action.dest] = action
        if group in self.groups and known != group:
            self.groups[group].help = f"YAML file, or settings as those of --{known}."
            return
        if action.option_strings and not (action.metavar or action.choices or action.nargs):
            action.metavar = "X"
        super().add_argument(action)

    def _expand_help(self, action: argparse.Action) -> str:
        """Leave out the type of a choice, which is shown in front, and where our classes are."""
        text = re.sub(r"type: Literal\[[^]]*\], ", "", super()._expand_help(action))
        return re.sub(r"metaprune_pl\.([a-z_]+\.)+(?=[A-Z])", "", text)


class ConfigFile(ActionConfigFile):
    """`--config`, which takes the name of a shipped config, too, and what that includes."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Apply a config to what was read before."""
        for path, text in with_included(values):
            with Path_fr(path).relative_path_context():
                ActionConfigFile.apply_config(parser, cfg, self.dest, text or "{}")


class CommandParser(LightningArgumentParser):
    """LightningCLI's parser with our configs and short errors, and without abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs = {"parser_mode": "metaprune", "formatter_class": Help, **kwargs}
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a short message.

        Raises:
            SettingsError: Always, unless a parser within this one is at work.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        known = [*self.get_defaults(skip_validation=True).keys()]
        message = shorten(message, [*known, *short_names(known)], self.start)
        raise SettingsError(message, self.prog) from ex

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Refuse settings of another type, numbers that are not finite, and text of no file.

        Raises:
            ConfigError: A number is NaN or infinity, or a text is too long or no UTF-8.
        """
        super().validate(namespace, *args, **kwargs)
        if self.exit_on_error:  # a parser within this one does not know a setting's whole name
            check_values(namespace.as_dict())

    @property
    def required(self) -> list[str]:
        """Names of the arguments that have no default."""
        return [action.dest for action in self._actions if action.required]

    @property
    def start(self) -> str | None:
        """Config of the example in the help, which one may start with."""
        config = re.search(r"--config (\S+)", self.epilog or "")
        return config[1] if config else None

    def name_settings(self) -> None:
        """Have groups of settings say which they are when they refuse a value."""
        groups: Mapping[str, Any] = self.groups or {}
        for group in groups.values():
            if build := getattr(group, "instantiate_class", None):
                group.instantiate_class = partial(_build_named, build)


def _build_named(build: Callable[[Any, Any], None], group: Any, settings: Any) -> None:
    try:
        build(group, settings)
    except ConfigError as error:
        outer, _, name = group.dest.rpartition(".")
        if str(error).startswith((outer or name).partition(".")[0]):
            raise
        raise ConfigError(f"{group.dest}: {str(error).removeprefix(f'{name}: ')}") from error


def has_trainer(function: Callable[..., Any]) -> bool:
    """Whether a command trains or computes something, in a folder; else it answers a question."""
    return RUNS_ITSELF in inspect.signature(function).parameters


def new_parser(function: Callable[..., Any], *, trainer: bool = True) -> CommandParser:
    """Return a new parser for a command.

    Args:
        function: The command; its parameter `context` is what `trainer` and `seed_everything` set.
        trainer: Whether the Trainer's settings are among them, which help leaves out.
    """
    name = function.__name__
    runs = has_trainer(function)
    values = "--config CONFIG [--KEY VALUE ...]" if runs else "NAME [--KEY VALUE ...]"
    values = f"[NETWORK] {values}" if name in NETWORK_FIRST else values
    parser = CommandParser(prog=f"metaprune {name}", usage=f"metaprune {name} {values}")
    text = inspect.getdoc(function) or ""
    parser.description = text.partition("\n\nArgs:")[0]
    parser.epilog = example(function)
    parser.add_argument(
        "-c", "--config", action=ConfigFile, help="YAML file, or name of a shipped config."
    )
    if runs and trainer:
        add_trainer(parser)
    parser.add_function_arguments(
        function, skip={RUNS_ITSELF} if runs else None, as_positional=not runs, sub_configs=True
    )
    parser.name_settings()
    return parser


def example(function: Callable[..., Any]) -> str | None:
    """Return the examples in a command's docstring."""
    text = re.search(r"^Example:\n((?: .*\n?)+)", inspect.getdoc(function) or "", re.MULTILINE)
    return f"Example: {inspect.cleandoc(text[1])}".replace("\n", f"\n{9 * ' '}") if text else None


def add_trainer(parser: LightningArgumentParser) -> None:
    """Ask for a seed and for a Trainer's settings."""
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0, help="Seed; true draws one, false is none."
    )
    parser.add_lightning_class_args(StageTrainer, "trainer")
    parser.set_defaults({"trainer.default_root_dir": "runs/unnamed"})


parser_of = cache(new_parser)
"""Parser of a command; made once, as that takes a while."""


def parse_config(
    function: Callable[..., Any], config: str, *changes: Mapping[str, Any]
) -> Namespace:
    """Return the settings of a command by a config, with changes over them.

    Args:
        function: The command.
        config: Path or name of a config.
        changes: Settings over the config's, by dotted names; later ones win.

    Raises:
        ConfigError: A setting makes no sense.
        SettingsError: There is no such setting, or its value is of another type.
        StorageError: There is no such config.
    """
    parser = parser_of(function)
    texts = tuple((path.absolute(), text) for path, text in with_included(config))
    settings = _of_texts(function, texts).clone()
    result: Namespace = parser.parse_object(_changed(parser, settings, *changes))
    return result


@lru_cache(maxsize=64)
def _of_texts(function: Callable[..., Any], texts: tuple[tuple[Path, str], ...]) -> Namespace:
    """Return the settings of a config, not checked yet; kept, since many stages share one."""
    parser = parser_of(function)
    settings = parser.get_defaults()
    for path, text in texts:
        with Path_fr(path).relative_path_context():
            settings = _changed(parser, settings, load_settings(text) or {})
    return settings


def _changed(parser: CommandParser, settings: Namespace, *changes: Mapping[str, Any]) -> Namespace:
    """Return settings with changes over them, in turn; what is required may still be missing."""
    apply: Callable[..., Namespace] = partial(
        parser.parse_object, defaults=False, _skip_validation=True
    )
    together: dict[str, Any] = {}
    for key, value in chain.from_iterable(change.items() for change in changes):
        if not isinstance(key, str):
            raise ConfigError(f"there is no setting '{key}'.")
        name, whole = _within_dicts(settings, key, value)
        if any(_meet(name, other) for other in together):
            settings, together = apply(together, settings), {}
            name, whole = _within_dicts(settings, key, value)
        together[name] = whole
    return apply(together, settings) if together else settings


def _meet(name: str, other: str) -> bool:
    """Whether two settings are the same, or one is within the other."""
    return f"{name}.".startswith(f"{other}.") or other.startswith(f"{name}.")


def _within_dicts(settings: Namespace, key: str, value: Any) -> tuple[str, Any]:
    """Return a dotted setting within a plain dict as the whole of that dict."""
    names = key.split(".")
    for count in range(len(names) - 1, 0, -1):
        outer = ".".join(names[:count])
        if isinstance(whole := settings.get(outer), dict):
            inner = ".".join(names[count:])
            return outer, {**whole, inner: value}
    return key, value
