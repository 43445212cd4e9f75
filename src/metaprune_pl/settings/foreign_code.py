"""Code that a config names: classes of Lightning and our own, and else what a person trusts."""

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from metaprune_pl.errors import ConfigError
from metaprune_pl.networks.trust import is_trusted, refuse_unknown

FAMILIES = (
    "metaprune_pl.",
    "torch.optim.",
    *(
        f"lightning.pytorch.{family}."
        for family in (
            "accelerators",
            "callbacks",
            "demos",
            "loggers",
            "plugins",
            "profilers",
            "strategies",
        )
    ),
)
"""Where classes lie that any config may name. What else these packages import is none of them."""
_PATHS = {"default_root_dir", "folder", "root", "state", "network", "networks", "data_models"}
"""Settings that name files and folders, never a class."""
_NETWORKS = {"network", "networks", "others", "builder", "backbone"}
"""Settings that name networks: see `check_builders`."""


def check_trusted(settings: Any, key: str = "") -> None:
    """Refuse settings that name code of other packages; nothing of theirs is imported.

    Args:
        settings: What YAML holds.
        key: Setting that it is the value of.

    Raises:
        ConfigError: Nobody has trusted it.
    """
    if isinstance(settings, dict):
        for name, value in settings.items():
            check_trusted(value, str(name))
    elif isinstance(settings, list):
        for value in settings:
            check_trusted(value, key)
    elif isinstance(settings, str) and _is_code(settings, key) and not _is_known(settings):
        module = settings.rpartition(".")[0]
        raise ConfigError(
            f"the config would run code of '{module}', as {key}: {settings}. If you know it, add "
            f"--trust {module}"
        )


def check_builders(settings: Any, path: Path, key: str = "") -> None:
    """Refuse networks that a config builds with functions which nobody has named otherwise.

    Raises:
        StorageError: Nobody has trusted one.
    """
    if isinstance(settings, dict):
        for name, value in settings.items():
            check_builders(value, path, str(name))
    elif isinstance(settings, list):
        for value in settings:
            check_builders(value, path, key)
    elif isinstance(settings, str) and ":" in settings and _names_function(settings, key):
        refuse_unknown(settings, f"the config {path}")


def _names_function(value: str, key: str) -> bool:
    """Whether a value with a colon is `package.module:function` or `FILE.py:function`."""
    module, _, function = value.partition(":")
    if module.endswith(".py"):
        return True
    if "/" in module:
        return False
    if key.rpartition(".")[2] in _NETWORKS:
        return True
    return function.strip().isidentifier() and _is_module(module.strip().partition(".")[0])


def _is_code(value: str, key: str) -> bool:
    """Whether a value may be imported: one that stands for a class, or has a module's name."""
    setting = key.rpartition(".")[2]
    if setting == "class_path":
        return "." in value
    if setting in _PATHS | _NETWORKS or "." not in value or "/" in value:
        return False
    return _is_module(value.partition(".")[0])


def _is_module(name: str) -> bool:
    """Whether there is a module or package; nothing is imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # no name, or the program that runs
        return bool(name)


def _is_known(name: str) -> bool:
    """Whether a class is one of `FAMILIES`, or it or a module that it is in is trusted."""
    parts = name.split(".")
    outer = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    if any(is_trusted(part) for part in outer):
        return True
    if not name.startswith(FAMILIES):
        return False
    found = _look_up(parts)
    return found is None or (inspect.isclass(found) and found.__module__.startswith(FAMILIES))


def _look_up(parts: list[str]) -> Any:
    """Return what a name in one of `FAMILIES` stands for, None if there is no such thing."""
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found
    return None
