"""Errors of the command line in two lines.

What is wrong and the closest known name, and where to look.
"""

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn, get_args, get_type_hints

from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from metaprune_pl.errors import ConfigError, did_you_mean
from metaprune_pl.metanetworks import Metanetwork
from metaprune_pl.pruning import Importance

set_parsing_settings(instantiate_subclass_spec_in_any=False)  # settings of stages stay settings

_KEY = re.compile(r'Parser key "([^"]+)"')
_OWNER = re.compile(r"Problem with given class_path '([\w.]+)'")
_UNKNOWN = re.compile(
    r"(?:[Oo]ption '([\w.]+)' is not accepted|does not accept option '([\w.]+)'|[Uu]nrecognized "
    r"arguments: --([\w.-]+))"
)
_GROUP = re.compile(r"Group '([\w.]+)' does not accept")
_CLASS = re.compile(r"Expected a dot import path string: ([\w.]+)")
_TYPE = re.compile(r"Expected a <class '(?!NoneType)([\w.]+)'>")
_LITERAL = re.compile(r"Expected a typing\.Literal\[([^\]]*)\]\. Got value: (.*)")
_VALUE = re.compile(r"(?:Got|Given) value: (.*)")
_REQUIRED = re.compile(r"arguments are required: ([\w., ]*\w)")
_CHOICE = re.compile(r"argument subcommand: invalid choice: '([^']+)'.*\(choose from (.*)\)")
STARTS = {
    "fit": "meta_quickstart.yaml",
    "data_models": "data_quickstart.yaml",
    "prune": "prune_quickstart.yaml",
    "curve": "curve_quickstart.yaml",
    "select": "select_quickstart.yaml",
    "analyze": "analyze_quickstart.yaml",
    "experiment": "quickstart.yaml",
    "compare": "transfer_datasets_quickstart.yaml",
}
"""The quickstart's config of a subcommand."""


class ShortErrorParser(LightningArgumentParser):
    """LightningCLI's parser without 50 lines of usage before each error, and without abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print a short message and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [
            option.lstrip("-") for action in parser._actions for option in action.option_strings
        ]
        prog = re.sub(r" *\[options\]", "", parser.prog)
        sys.stderr.write(f"error: {shorten(message, options)}\nSee '{prog} --help'.\n")
        sys.exit(2)


def name_settings(parser: LightningArgumentParser) -> None:
    """Have a parser's groups of settings say which they are when they refuse a value."""
    for group in parser._action_groups:
        if build := getattr(group, "instantiate_class", None):
            group.instantiate_class = partial(_build_named, build)  # type: ignore[attr-defined]


def _build_named(build: Callable[[Any, Any], None], group: Any, settings: Any) -> None:
    try:
        build(group, settings)
    except ConfigError as error:
        outer, _, name = group.dest.rpartition(".")
        if str(error).startswith((outer or name).partition(".")[0]):
            raise
        raise ConfigError(f"{group.dest}: {str(error).removeprefix(f'{name}: ')}") from error


def shorten(message: str, options: list[str]) -> str:
    """Say in one line what an error of jsonargparse is about.

    Args:
        message: What jsonargparse says.
        options: Names of the parser's options, for those that stand in no class.
    """
    keys = _KEY.findall(message)
    inner = pairwise([*keys, ""])
    place = ".".join(
        key for key, then in inner if not then.startswith(f"{key}.")
    )  # some are named from the top
    if found := _CHOICE.search(message):
        known = found[2].replace("'", "").split(", ")
        return f"no command '{found[1]}'.{did_you_mean(found[1], known)} Known: {', '.join(known)}."
    if found := _UNKNOWN.search(message):
        name = next(filter(None, found.groups()))
        owner = _OWNER.findall(message)
        if group := _GROUP.search(message):
            name = f"{group[1]}.{name}"
        if not owner:
            return f"there is no setting '{name}'.{did_you_mean(name, options)}"
        settings = list(_settings(_find_class(owner[-1])))
        return f"{place}: {owner[-1].rpartition('.')[2]} has no setting '{name}'.{did_you_mean(name, settings)}"
    if found := _CLASS.search(message):
        return f"{place}: there is no class '{found[1]}'.{did_you_mean(found[1], _class_names())}"
    if found := _LITERAL.search(message):
        known = found[1].replace("'", "").split(", ")
        return (
            f"{place}: '{found[2]}' is none of {', '.join(known)}.{did_you_mean(found[2], known)}"
        )
    if (found := _TYPE.search(message)) and (value := _VALUE.search(message)):
        listed = "[2, 3]" if value[1].replace(".", "").isdigit() else f"[{value[1]}]"
        named = {
            "tuple": f"a list such as {listed}",
            "list": f"a list such as {listed}",
            "str": 'text (in quotes, as in "2:4", where YAML reads a number)',
        }
        wanted = named.get(found[1], found[1])
        return f"{place}: expected {wanted}, got '{value[1]}'."
    if missing := _REQUIRED.search(message):
        inside = f"{place}." if place else ""  # a setting of a group in a class
        flags = ", ".join(
            f"--{inside}{name.partition('.')[2] or name}" for name in missing[1].split(", ")
        )
        start = STARTS.get(missing[1].partition(".")[0])
        hint = f" For a start: --config {start}" if start else ""
        return f"{flags} must be given, on the command line or in a config (--config CONFIG).{hint}"
    return " ".join(message.split())[:300]


def _find_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _settings(kind: Any) -> Iterator[str]:
    """Names of a class's settings, those of nested dataclasses as `outer.inner`."""
    hints = get_type_hints(kind.__init__)
    for name in inspect.signature(kind.__init__).parameters:
        yield name
        for part in (hints.get(name), *get_args(hints.get(name))):
            if dataclasses.is_dataclass(part):
                yield from (f"{name}.{field.name}" for field in dataclasses.fields(part))


def _class_names() -> list[str]:
    """Names of all classes that a config can name."""
    names, todo = [], [LightningModule, LightningDataModule, Metanetwork, Importance]
    while todo:
        kind = todo.pop()
        names.append(kind.__name__)
        todo += kind.__subclasses__()
    return names
