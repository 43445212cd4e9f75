"""Configs as text: what they include, within bounds, with no code that nobody has trusted."""

import math
import os
import re
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from metaprune_pl.errors import ConfigError, StorageError
from metaprune_pl.settings.criteria import complete_criteria
from metaprune_pl.settings.foreign_code import check_builders, check_trusted
from metaprune_pl.settings.old_settings import rewrite_old
from metaprune_pl.settings.shipped import find_config
from metaprune_pl.settings.short_forms import as_typed

LARGEST_TEXT = 1_000_000
"""Characters."""
LARGEST_DEPTH = 50
MOST_PARTS = 100
LARGEST_SIZE = 100_000
"""Values, after all aliases stand for what they name."""
_INCLUDE = "include"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""One for all that is read: they differ in which characters are YAML."""
_LONGEST_NAME = 255
"""Bytes of a file's name."""


def with_included(config: str | Path, outer: tuple[Path, ...] = ()) -> list[tuple[Path, str]]:
    """Return the texts of a config: of those that it includes, in order, then its own.

    A config builds on others with a setting `include: NAME.yaml` or `include: [A.yaml, B.yaml]`;
    they are looked for beside it, then like any config. What comes later wins, as with several
    `--config`.

    Args:
        config: Path or name.
        outer: Configs that include this one.

    Returns:
        Path and text of each; paths within a text are relative to its own.

    Raises:
        StorageError: There is no such config, one includes itself, or one is no YAML of settings.
    """
    path = find_config(str(config))
    if path.resolve() in outer:
        raise StorageError(f"the config {path} includes itself.")
    text, settings = _read(path)
    if _INCLUDE not in settings:
        return [(path, text)]
    parts = [(path, _without_include(text))]
    for name in reversed(_names(settings[_INCLUDE], path)):
        beside = path.parent / name
        inner = with_included(beside if os.path.isfile(beside) else name, (*outer, path.resolve()))
        parts = [*inner, *parts]
        if len(parts) > MOST_PARTS:
            raise StorageError(f"the config {path} includes more than {MOST_PARTS} others.")
    return parts


def _without_include(text: str) -> str:
    """Return a config's text without what it includes, all other values as they are written."""
    settings = yaml.compose(text, _LOADER)
    assert isinstance(settings, yaml.MappingNode)
    settings.value = [pair for pair in settings.value if pair[0].value != _INCLUDE]
    return yaml.serialize(settings, Dumper=yaml.SafeDumper) if settings.value else ""


def _names(include: Any, path: Path) -> list[str]:
    names = include if isinstance(include, list) else [include]
    if not all(isinstance(name, str) for name in names):
        raise StorageError(f"the config {path}: write include: NAME.yaml, or a list of names.")
    return [name.strip() for name in names]


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of a config, after it was found to be one, and its settings.

    Raises:
        StorageError: It is no YAML of settings, or names code that nobody has trusted.
    """
    try:
        text = path.read_text()
        settings = load_settings(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it is no text"
        raise StorageError(f"the config {path}{where} is no YAML: {what}.") from error
    except ConfigError as error:
        raise StorageError(f"the config {path}: {error}") from error
    check_builders(settings, path)
    if not isinstance(settings, dict | None) and text.strip():
        raise StorageError(f"the config {path} holds no settings, KEY: VALUE.")
    if settings and "config" in settings:
        raise StorageError(
            f"the config {path} has a setting 'config'. Write {_INCLUDE}: NAME.yaml."
        )
    return text, settings or {}


def load_settings(text: str) -> Any:
    """Return what a YAML text holds, with today's settings for old ones, and whole criteria.

    `~/` at the start of a text is the home folder.

    Raises:
        ConfigError: It is too large, or names code that nobody has trusted.
        MarkedYAMLError: It is no YAML.
    """
    check_size(text)
    try:
        settings = get_loader("yaml")(text)
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # what the loader makes of `2001-99-99`, `!!bool maybe` or 5000 digits
        raise yaml.MarkedYAMLError(problem=f"a value cannot be read ({error})") from error
    if isinstance(settings, dict | list):
        check_trusted(settings)
    return complete_criteria(rewrite_old(_from_home(settings)))


def _from_home(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {key: _from_home(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_from_home(value) for value in settings]
    is_path = isinstance(settings, str) and settings.startswith("~/")
    return os.path.expanduser(settings) if is_path else settings


def check_size(text: str) -> None:
    """Refuse a text that would take long to read or to write, before anything of it is built.

    Raises:
        ConfigError: It is too long, nests too deep, or grows too large by its aliases.
    """
    if len(text) > LARGEST_TEXT:
        raise ConfigError(f"it has {len(text):,} characters; a config has {LARGEST_TEXT:,} at most")
    sizes: dict[str | None, int] = {}
    open_parts: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, _LOADER):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            open_parts.append((anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_parts.pop()
            _add(open_parts, sizes, anchor, size)
        elif isinstance(event, yaml.AliasEvent):
            if anchor in [name for name, _ in open_parts]:
                raise ConfigError(f"the alias *{anchor} stands within what it names")
            _add(open_parts, sizes, None, sizes.get(anchor, 1))
        elif isinstance(event, yaml.ScalarEvent):
            _add(open_parts, sizes, anchor, 1 + len(event.value) // 100)
        if len(open_parts) > LARGEST_DEPTH:
            raise ConfigError(f"it nests more than {LARGEST_DEPTH} levels deep")


def _add(
    open_parts: list[tuple[str | None, int]],
    sizes: dict[str | None, int],
    anchor: str | None,
    size: int,
) -> None:
    """Count what a part holds, and to the part that it stands in."""
    if anchor is not None:
        sizes[anchor] = size
    outer, total = open_parts[-1]
    if total + size > LARGEST_SIZE:
        raise ConfigError(f"its aliases make more than {LARGEST_SIZE:,} values of it")
    open_parts[-1] = (outer, total + size)


def check_values(settings: Any, key: str = "") -> None:
    """Refuse NaN and infinity, which no setting takes, and text that no file can be named.

    Args:
        settings: Values of plain types.
        key: Dotted name of the setting that they are the value of.

    Raises:
        ConfigError: A number is not finite, or a text is too long or no UTF-8.
    """
    if isinstance(settings, dict):
        for name, value in settings.items():
            if name == "dict_kwargs" and value:
                raise ConfigError(f"{key}.dict_kwargs: a class's settings stand in init_args.")
            check_values(value, f"{key}.{name}" if key else str(name))
    elif isinstance(settings, list | tuple):
        for value in settings:
            check_values(value, key)
    elif isinstance(settings, float) and not math.isfinite(settings):
        raise ConfigError(f"{key} is {settings}: it must be a finite number.")
    elif isinstance(settings, str):
        _check_text(settings, key)


def check_folder_name(name: Any, setting: str) -> None:
    """Refuse what names a part of a run and can be no folder in it.

    Raises:
        ConfigError: It is no text, or has other characters than letters, digits and `_-+.`.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]{0,99}", name):
        raise ConfigError(f"{setting}: '{name}' is no name of a folder: letters, digits and _ - .")


def _check_text(text: str, key: str) -> None:
    written = text.encode(errors="surrogateescape")
    if text.encode(errors="replace") != written or "\0" in text:
        shown = written.decode(errors="backslashreplace").replace("\0", "\\0")
        raise ConfigError(f"{as_typed(key)}: '{shown}' is no UTF-8 text. Rename what it names.")
    if any(len(part) > _LONGEST_NAME for part in written.split(b"/")):
        raise ConfigError(
            f"{as_typed(key)}: '{text[:40]}...' has more than {_LONGEST_NAME} bytes. Choose a "
            "shorter name."
        )
