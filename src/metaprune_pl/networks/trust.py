"""The user's own code: imported where the user has named it, never where only a file does."""

from collections.abc import Callable, Mapping
from typing import Any

from metaprune_pl.errors import StorageError

_TRUSTED: dict[str, Callable[..., Any] | None] = {}


def trust(name: str, builder: Callable[..., Any] | None = None) -> None:
    """Allow this process to import and call something by its name.

    Args:
        name: `package.module:function` or `package.module.Class`, as the user wrote it.
        builder: What the name stands for, where it need not be imported.
    """
    _TRUSTED[_plain(name)] = builder or given_builder(name)


def is_trusted(name: str) -> bool:
    """Whether the user has named this function or class in this process."""
    return _plain(name) in _TRUSTED


def given_builder(name: str) -> Callable[..., Any] | None:
    """Return the function that was given with a name, if one was."""
    return _TRUSTED.get(_plain(name))


def named_code(builder: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return the user's own code that settings of a network name, `package.module:function`."""
    names = builder, arguments.get("backbone")
    return [name for name in names if isinstance(name, str) and ":" in name]


def refuse_unknown(name: str, where: str) -> None:
    """Refuse code that a file names and nobody has named in this process; nothing is imported.

    Args:
        name: What the file names.
        where: The file.

    Raises:
        StorageError: Nobody has.
    """
    if not is_trusted(name):
        raise StorageError(
            f"{where} names code that is not metaprune's, torchvision's or timm's: '{name}'. It is "
            f"not imported. If you know it, add --trust {name} (in Python: pass builder=FUNCTION)"
        )


def _plain(name: str) -> str:
    return name.replace(":", ".")
