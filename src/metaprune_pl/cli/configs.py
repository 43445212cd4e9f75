"""Configs that come with the program, and configs that build on others. Imports nothing heavy, for `--help`."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from metaprune_pl.cli.old_settings import rewrite_old, rewrite_old_flag
from metaprune_pl.errors import ConfigError, StorageError, did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")  # installed; in a checkout

_INCLUDE = re.compile(r"^include:.*\n?(?:[ \t-].*\n?)*", re.MULTILINE)
"""The line `include: ...`, and those of a list below it."""


_OVERRIDE = re.compile(r"(--(?:chain|matrix)\.overrides\.\w+)(?:\.([\w.]+))?(?:=(.*))?", re.DOTALL)
"""A flag with the settings of a stage, or with one of them."""


class _Loader(yaml.SafeLoader):
    """YAML as jsonargparse reads it: 1e-3 is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"),
    list("-+0123456789"),
)


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.name: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_config(name: str) -> Path:
    """Return the path of a config: a file, or else a shipped config of that name.

    Raises:
        StorageError: There is neither.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    if name not in shipped:
        hint = f"{did_you_mean(name, shipped)} `metaprune --help` lists those that are shipped."
        raise StorageError(f"no config '{name}': no such file.{hint}")
    return shipped[name]


def with_included(config: str | Path, chain: tuple[Path, ...] = ()) -> list[str]:
    """Return what `--config` takes for a config: what it includes, in order, then its own text.

    A config builds on others with a line `include: NAME.yaml` or `include: [A.yaml, B.yaml]`; they
    are looked for beside it, then like any config. What comes later wins, as with several
    `--config`.

    Args:
        config: Path or name.
        chain: Configs that include this one.

    Raises:
        StorageError: There is no such config, one includes itself, or one is no YAML of settings.
    """
    path = find_config(str(config))
    if path.resolve() in chain:
        raise StorageError(f"the config {path} includes itself.")
    text = _read(path)
    found = _INCLUDE.search(text)
    if found is None:
        today = _of_today(text)
        return [str(path) if today == text else today]
    named = yaml.safe_load(found[0])["include"]
    parts = []
    for name in [named] if isinstance(named, str) else named:
        beside = path.parent / name
        parts += with_included(beside if beside.is_file() else name, (*chain, path.resolve()))
    return [*parts, _of_today(text.replace(found[0], ""))]


def _of_today(text: str) -> str:
    """Return a config with the settings of earlier versions rewritten."""
    settings = yaml.load(text, _Loader)
    today = rewrite_old(settings)
    return text if today == settings else yaml.safe_dump(today, sort_keys=False)


def _read(path: Path) -> str:
    try:
        text = path.read_text()
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it is no text"
        raise StorageError(f"the config {path}{where} is no YAML: {what}.") from error
    if not isinstance(settings, dict | None):
        raise StorageError(f"the config {path} holds no settings, KEY: VALUE.")
    return text


def resolve_configs(args: list[str]) -> list[str]:
    """Replace names of configs after `--config` and `-c` by what they hold."""
    result: list[str] = []
    rest = iter(args)
    for arg in rest:
        name = arg.removeprefix("--config=") if arg.startswith("--config=") else None
        if arg in {"--config", "-c"}:
            name = next(rest, None)
        if name is None:
            result.append(rewrite_old_flag(arg))
        else:
            result += [f"--config={part}" for part in with_included(name)]
    return result


def join_overrides(args: Iterable[str]) -> list[str]:
    """Join flags that override settings of the same stage, of which jsonargparse would take the last one alone.

    Raises:
        ConfigError: A flag's value is not what YAML has for settings.
    """
    joined: dict[str, dict[str, Any]] = {}
    result: list[str] = []
    rest = iter(args)
    for arg in rest:
        found = _OVERRIDE.fullmatch(arg)
        if found is None:
            result.append(arg)
            continue
        flag, key, text = found.groups()
        text = next(rest, "") if text is None else text
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = None
        settings = {key: value} if key else value
        if not isinstance(settings, dict):
            raise ConfigError(
                f"{flag}: expected settings such as '{{trainer.max_epochs: 9}}', got '{text}'."
            )
        joined.setdefault(flag, {}).update(settings)
    return [*result, *(f"{flag}={json.dumps(settings)}" for flag, settings in joined.items())]
