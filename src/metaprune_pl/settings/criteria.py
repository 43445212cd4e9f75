"""A criterion that is named has its own defaults, whatever another one was set to before.

jsonargparse keeps the settings of the class before where the new one has some of the same name.
"""

import json
from dataclasses import asdict
from inspect import isabstract
from typing import Any

import yaml

from metaprune_pl.pruning import importance


def complete_criteria(settings: Any) -> Any:
    """Return settings in which criteria that are named have all their settings, at any depth.

    Args:
        settings: What YAML holds.
    """
    if isinstance(settings, list):
        return [complete_criteria(entry) for entry in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: _complete(value) if _is_criterion(key) else complete_criteria(value)
        for key, value in settings.items()
    }


def complete_flag(flag: str) -> str:
    """Return a flag `--KEY=VALUE` with all settings of the criterion that it names."""
    key, equals, text = flag.partition("=")
    if not equals or not _is_criterion(key.removeprefix("--")):
        return flag
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:  # jsonargparse says so
        return flag
    complete = _complete(value)
    return flag if complete == value else f"{key}={json.dumps(complete)}"


def _is_criterion(key: Any) -> bool:
    return str(key).rpartition(".")[2] == "criterion"


def _complete(criterion: Any) -> Any:
    """Return a criterion of ours with all its settings; what names none stays as it is."""
    given = criterion if isinstance(criterion, dict) else {"class_path": criterion}
    name, own = given.get("class_path"), given.get("init_args") or {}
    known = str(name).rpartition(".")[2]
    ours = isinstance(name, str) and name in (known, f"metaprune_pl.pruning.{known}")
    if not ours or known not in importance.__all__ or not isinstance(own, dict):
        return criterion
    kind = getattr(importance, known)
    if isabstract(kind) or not hasattr(kind, "__dataclass_fields__"):
        return criterion
    return {**given, "init_args": {**asdict(kind()), **own}}
