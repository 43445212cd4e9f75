"""The user's own code: imported where the user has named it, never where only a file does."""

import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from metaprune_pl.errors import MetapruneError, NetworkError, StorageError

CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""The name of a function: package.module:function."""

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


class OwnCode:
    """Around code of the user's, which may raise anything: one line says what, and where.

    Args:
        doing: What fails then, such as "cannot import 'x'".
        module: A module that may not be found.

    Raises:
        NetworkError: What the code has raised; not what comes of how it was called.
    """

    def __init__(self, doing: str, module: str | None = None) -> None:
        self._doing = doing
        self._module = module

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Turn an error into one of a person's."""
        if error is None or isinstance(error, KeyboardInterrupt | MetapruneError):
            return
        if trace is None or trace.tb_next is None:  # a call with other arguments, say
            return
        reason = next(iter(str(error).strip().splitlines()), "no reason given").rstrip(".")
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == self._module:
            hint = " Go to the folder where it is, or put that on PYTHONPATH."
        text = f"{self._doing}: {type(error).__name__}: {reason}.{hint or _line(error)}"
        raise NetworkError(text) from error


def _line(error: BaseException) -> str:
    """Name the line of the user's in which an error arose, or which led to it."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" At {error.filename}:{error.lineno}."
    others = ("<", f"{sys.prefix}/lib", f"{sys.base_prefix}/lib", str(Path(__file__).parents[1]))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(others)] or frames
    return f" At {own[-1].filename}:{own[-1].lineno}."


def _plain(name: str) -> str:
    return name.replace(":", ".")
