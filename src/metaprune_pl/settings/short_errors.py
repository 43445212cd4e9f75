"""What jsonargparse says of a mistake, in one line that names the setting and the way out."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import yaml
from lightning.pytorch import LightningDataModule, LightningModule

from metaprune_pl.errors import did_you_mean
from metaprune_pl.metanetworks import Metanetwork
from metaprune_pl.pruning import Importance
from metaprune_pl.settings.short_forms import LISTS, as_typed

_KEY = re.compile(r'Parser key "([^"]+)"')
_OWNER = re.compile(r"Problem with given class_path '([\w.]+)'")
_GROUP = re.compile(r"Group '([\w.]+)' does not accept")
_VALUE = re.compile(r"(?:Got|Given) value: (.*)")
_BRACKETS = re.compile(
    r"(?:Got value:|Given value:|Expected a path but) ([\[{].*?)(?: either|$)", re.M
)


@dataclass(frozen=True, kw_only=True)
class _Mistake:
    """What a message of jsonargparse is about.

    Attributes:
        message: The message.
        key: Dotted name of the setting, as far as the message tells.
        options: Names of the parser's options, for those that stand in no class.
        start: Config that one may start with.
    """

    message: str
    key: str
    options: Iterable[str]
    start: str | None


def shorten(message: str, options: Iterable[str], start: str | None = None) -> str:
    """Say in one line what an error of jsonargparse is about.

    Args:
        message: What jsonargparse says.
        options: Names of the parser's options, for those that stand in no class.
        start: Config that one may start with.
    """
    keys = pairwise([*_KEY.findall(message), ""])
    key = ".".join(key for key, inner in keys if not inner.startswith(f"{key}."))
    if (value := _BRACKETS.search(message)) and not _is_yaml(value[1]):
        return f"{key}: '{value[1]}' is no YAML: is a bracket, brace or quote missing?"
    mistake = _Mistake(message=message, key=key, options=options, start=start)
    for pattern, say in _KINDS.items():
        if match := re.search(pattern, message):
            return say(mistake, *(group for group in match.groups() if group is not None))
    return " ".join(message.split())[:300]


def _is_yaml(text: str) -> bool:
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return True


def _unknown(mistake: _Mistake, name: str) -> str:
    if group := _GROUP.search(mistake.message):
        name = f"{group[1]}.{name}"
    owner = _OWNER.findall(mistake.message)
    if not owner:
        return f"there is no setting '{as_typed(name)}'.{did_you_mean(name, mistake.options)}"
    hint = did_you_mean(name, _settings(_find_class(owner[-1])))
    return f"{mistake.key}: {owner[-1].rpartition('.')[2]} has no setting '{name}'.{hint}"


def _no_class(mistake: _Mistake, name: str) -> str:
    known = list(_class_names())
    if name in known:
        return f"{mistake.key}: {name} is none of the classes that go here; the help lists them."
    return f"{mistake.key}: there is no class '{name}'.{did_you_mean(name, known)}"


def _none_of(mistake: _Mistake, names: str, value: str) -> str:
    known = names.replace("'", "").split(", ")
    hint = did_you_mean(value, known)
    return f"{mistake.key}: '{value}' is none of {', '.join(known)}.{hint}"


def _wrong_type(mistake: _Mistake, wanted: str) -> str:
    value = _VALUE.search(mistake.message)
    shown = value[1] if value else "another"
    are_numbers = mistake.key in LISTS or shown.replace(".", "").isdigit()
    listed = "[2, 3]" if are_numbers else f"[{shown}]"
    texts = {
        "tuple": f"a list such as {listed}",
        "list": f"a list such as {listed}",
        "str": 'text (in quotes, as in "2:4", where YAML reads a number)',
    }
    return f"{mistake.key}: expected {texts.get(wanted, wanted)}, got '{shown}'."


def _none_of_several(mistake: _Mistake, subtypes: str) -> str:
    value = _VALUE.search(mistake.message)
    names = ", ".join(re.findall(r"typing\.Literal\[([^\]]*)\]", subtypes))
    said = _none_of(mistake, names, value[1] if value else "another")
    return f"{said} Or give settings, KEY: VALUE." if "<class" in subtypes else said


def _not_here(mistake: _Mistake) -> str:
    value = _VALUE.search(mistake.message)
    shown = value[1][:80] if value else "another"
    return f"{mistake.key}: {shown} does not go here; the command's help says what does."


def _missing(mistake: _Mistake, names: str) -> str:
    inside = f"{mistake.key}." if mistake.key else ""  # a setting of a group in a class
    flags = ", ".join(f"--{inside}{name}" for name in names.split(", "))
    hint = f" For a start: --config {mistake.start}" if mistake.start else ""
    return f"{flags} must be given, on the command line or in a config (--config CONFIG).{hint}"


_KINDS: dict[str, Callable[..., str]] = {
    r"[Oo]ption '([\w.]+)' is not accepted|does not accept option '([\w.]+)'"
    r"|[Uu]nrecognized arguments: --([\w.-]+)": _unknown,
    r"Subtypes: (\[<class 'metaprune_pl.*typing\.Literal.*)\s+Errors:"
    r"\s+- Expected a dot import": _none_of_several,
    r"Expected a dot import path string: ([\w.]+)": _no_class,
    r"Expected a typing\.Literal\[([^\]]*)\]\. Got value: (.*)": _none_of,
    r"Expected a <class '(?!NoneType)([\w.]+)'>": _wrong_type,
    r"arguments are required: ([\w., ]*\w)": _missing,
    r"Subtypes: (\[typing\.Literal.*)": _none_of_several,
    r"Does not validate against any of the Union": _not_here,
}
"""Part of a message to what it is about; the first that fits counts."""


def _find_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _settings(kind: Any) -> Iterator[str]:
    """Give the names of a class's settings, those of nested dataclasses as `outer.inner`."""
    hints = get_type_hints(kind.__init__)
    for name in inspect.signature(kind.__init__).parameters:
        yield name
        for part in (hints.get(name), *get_args(hints.get(name))):
            if dataclasses.is_dataclass(part):
                yield from (f"{name}.{field.name}" for field in dataclasses.fields(part))


def _class_names() -> Iterator[str]:
    """Give the names of all classes that a config can name."""
    todo: list[type] = [LightningModule, LightningDataModule, Metanetwork, Importance]
    while todo:
        kind = todo.pop()
        yield kind.__name__
        todo += kind.__subclasses__()
