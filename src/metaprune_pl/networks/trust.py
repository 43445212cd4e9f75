"""The user's own code: imported where the user has named it, never where only a file does."""

import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from metaprune_pl.errors import MetapruneError, NetworkError, StorageError
from metaprune_pl.files import at_home

CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""The name of a function: package.module:function."""

_FILE = re.compile(r"(?P<path>[^:=]+)\.py:(?P<function>[^\W\d]\w*)")
"""The same of a file: FOLDER/FILE.py:FUNCTION."""

_OTHERS = (
    "<",
    f"{sys.prefix}/lib",
    f"{sys.base_prefix}/lib",
    str(Path(torch.__file__).parent),
    str(Path(__file__).parents[1]),
)
"""What the names of files begin with that are not the user's."""


class _Named(NamedTuple):
    spelling: str
    builder: Callable[..., Any] | None


_TRUSTED: dict[str, _Named] = {}


def trust(name: str, builder: Callable[..., Any] | None = None) -> None:
    """Allow this process to import and call something by its name.

    Args:
        name: `package.module:function`, `package.module.Class` or `FILE.py:function`, as the user
            wrote it.
        builder: What the name stands for, where it need not be imported.
    """
    known = _TRUSTED.get(_plain(name), _Named(name, None))
    _TRUSTED[_plain(name)] = known._replace(builder=builder or known.builder)


def trusted() -> list[str]:
    """Return all that the user has named in this process, as other commands take it."""
    return [*dict.fromkeys(named.spelling for named in _TRUSTED.values())]


def of_module(name: str) -> str:
    """Return a function of a file, which the user has named, as one of a module.

    What the file imports is looked up in its folder first from now on.

    Args:
        name: `FOLDER/FILE.py:FUNCTION`; anything else is returned as it is.
    """
    match = _FILE.fullmatch(name)
    path = at_home(match["path"]) if match else Path()
    if match is None or not path.with_name(f"{path.name}.py").is_file():
        return name
    sys.path.insert(0, str(path.parent.resolve()))
    short = f"{path.name}:{match['function']}"
    if path.parent.resolve() != Path.cwd():  # another process looks there if it is told
        trust(name)
        _TRUSTED[_plain(short)] = _Named(name, given_builder(short))
    return short


def file_of(name: str) -> Path | None:
    """Return the file of a function: the one that the user has named, or one of this folder.

    Args:
        name: `FILE:FUNCTION`, as `of_module` returns it.
    """
    named = _TRUSTED.get(_plain(name))
    spelling = _FILE.fullmatch(named.spelling) if named else None
    path = at_home(spelling["path"] if spelling else name.rpartition(":")[0])
    file = Path(f"{path.resolve()}.py")
    return file if file.is_file() else None


def is_trusted(name: str) -> bool:
    """Whether the user has named this function or class in this process."""
    return _plain(name) in _TRUSTED


def given_builder(name: str) -> Callable[..., Any] | None:
    """Return the function that was given with a name, if one was."""
    named = _TRUSTED.get(_plain(name))
    return named.builder if named else None


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


def source_of(name: str) -> Path | None:
    """Return the file of the user's own code that a name stands for; None of any other name.

    Nothing is imported. Installed packages are nobody's own.

    Args:
        name: `package.module:function`, `package.module.Class`, or `FILE.py:function`.
    """
    if match := _FILE.fullmatch(name):
        return at_home(f"{match['path']}.py")
    if ":" in name and (named := file_of(name)) is not None:
        return named
    module = name.rpartition(":" if ":" in name else ".")[0].replace(".", "/")
    folders = [Path(entry) for entry in ("", *sys.path)] if module else []
    files = (folder / f"{module}{end}" for folder in folders for end in (".py", "/__init__.py"))
    file = next((file for file in files if file.is_file()), None)
    return None if file is None or str(file.absolute()).startswith(_OTHERS) else file


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
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" At {line_of(error) or f'{last.filename}:{last.lineno}'}."


def line_of(error: BaseException) -> str:
    """Return FILE:LINE of the last line of the user's that an error went through, if any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OTHERS)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _plain(name: str) -> str:
    """Return a name as all its spellings have it; a file of another folder keeps that."""
    if file := _FILE.fullmatch(name):
        name = f"{at_home(file['path'])}:{file['function']}"
    return name.replace(":", ".")
