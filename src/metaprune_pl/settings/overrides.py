"""Flags whose values jsonargparse would not put together."""

import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

from metaprune_pl.errors import ConfigError
from metaprune_pl.settings.criteria import complete_flag
from metaprune_pl.settings.old_settings import rewrite_old_flag

_OVERRIDE = re.compile(r"(--(?:chain|matrix)\.overrides\.\w+)(?:\.([\w.]+))?(?:=(.*))?", re.DOTALL)
"""A flag with the settings of a stage, or with one of them."""


def join_overrides(args: Iterable[str]) -> list[str]:
    """Join flags that override settings of one stage, of which jsonargparse takes the last alone.

    Raises:
        ConfigError: A flag's value is not what YAML has for settings.
    """
    joined: dict[str, dict[str, Any]] = {}
    result: list[str] = []
    rest = iter(args)
    for arg in rest:
        match = _OVERRIDE.fullmatch(arg)
        if match is None:
            flag = f"{arg}={next(rest, '')}" if arg == "--criterion" else arg
            result.append(complete_flag(rewrite_old_flag(flag)))
            continue
        flag, key, text = match.groups()
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
