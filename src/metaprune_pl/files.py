"""Files and folders that appear whole or not at all, bounded reading, and claims on shared work.

What is being written lies in a folder `.unfinished-...` beside its place, at a depth and under a
name that no glob of this program finds. Its writer holds that folder locked, so a later start knows
what a killed process has left, and removes it.
"""

import ctypes
import errno
import fcntl
import json
import math
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from metaprune_pl.errors import StorageError

UNFINISHED = ".unfinished-"
"""How the names of folders begin that hold what is being written."""
_BOX = re.compile(re.escape(UNFINISHED) + r"[a-z0-9_]{8}")
"""What `tempfile` makes of that."""
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
LARGEST_JSON = 64 * 2**20
"""Bytes of JSON that are read at most."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
_WAYS_OUT = {
    errno.ENOSPC: "Free some space; the same command then continues.",
    errno.EDQUOT: "Free some space; the same command then continues.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.ENOENT: "Was the folder removed or unmounted?",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that a path cannot be written, and what helps.

    Raises:
        StorageError: The system refuses.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write '{path}': {reason}. {way_out(error)}".strip()) from error


def way_out(error: OSError) -> str:
    """Return what a person can do about an error of the system, if that is known."""
    return _WAYS_OUT.get(error.errno or 0, "")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a name to write to; its file takes the place of `path` when all went well."""
    with writing(path), _unfinished(path.parent) as box:
        new = box / f"new{path.suffix}"
        yield new
        _sync(new)
        os.replace(new, path)
        _sync(path.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to write to; it takes the place of `folder` when all went well.

    Raises:
        StorageError: `folder` is there and holds something else than what would take its place.
    """
    place = Path(os.path.realpath(folder))  # a symbolic link stays; what it leads to is replaced
    with writing(folder), _unfinished(place.parent) as box:
        new = box / "new"
        new.mkdir()
        yield new
        for path in (*paths_below(new), new):
            _sync(path)
        _check_replaceable(folder, {path.name for path in new.iterdir()})
        if not os.path.lexists(place):
            os.replace(new, place)
        elif not _exchange(new, place):
            (box / "old").mkdir()
            place.rename(box / "old" / place.name)
            os.replace(new, place)
        _sync(place.parent)


def cache_folder() -> Path:
    """Return this program's folder in the user's cache; it need not be there.

    Raises:
        StorageError: There is no home folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not base.is_absolute():
        raise StorageError("there is no home folder for the cache. Set XDG_CACHE_HOME to a folder.")
    return base / "metaprune_pl"


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    with whole_file(path) as new:
        new.write_text(text)


def write_json(path: Path, data: Any) -> None:
    """Write JSON that appears whole or not at all; NaN and infinity are no JSON."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write safetensors to a file within `whole_file` or `whole_folder`.

    Unlike by `save_file`, others may read them as the umask says, and a full disk is an OSError.
    """
    path.write_bytes(save(tensors, metadata))


def check_file(path: Path, largest: float = math.inf) -> None:
    """Refuse to read what is no ordinary file (a pipe never ends), or one that is too large.

    Raises:
        StorageError: It is missing, something else, or larger than `largest` bytes.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"cannot read {path}: {reason}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"cannot read {path}: it is no ordinary file.")
    if not os.access(path, os.R_OK):
        raise StorageError(f"cannot read {path}: you may not.")
    if found.st_size > largest:
        raise StorageError(
            f"cannot read {path}: it has {found.st_size} bytes, and {largest:.0f} at most are "
            "expected."
        )


def check_new(path: Path) -> None:
    """Refuse to write over what is there already.

    Raises:
        StorageError: There is something of that name.
    """
    if os.path.lexists(path):
        raise StorageError(
            f"'{path}' is there already, and is left as it is. Choose another name, or remove it."
        )


def at_home(path: str | Path) -> Path:
    """Return a path in which `~` is the home folder; `~` of nobody stays."""
    return Path(os.path.expanduser(path))


def read_json(path: Path) -> Any:
    """Read JSON, in which all numbers are finite.

    Raises:
        StorageError: The file is missing, too large, or damaged.
    """
    check_file(path, LARGEST_JSON)
    try:
        return json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"cannot read {path}: {error}.") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def paths_below(folder: Path) -> list[Path]:
    """Return all files and folders below a folder; what other processes remove is left out."""
    return sorted(
        Path(parent, name)
        for parent, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )


def by_number(path: Path) -> list[tuple[int, str]]:
    """Return what paths are ordered by: their names, with numbers by their size."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left below a folder, and bring back what they replaced."""
    for box in paths_below(folder):
        if is_unfinished(box):
            with suppress(FileNotFoundError):  # it lay in another one, or its writer has finished
                _remove_left(box)


def is_unfinished(path: Path) -> bool:
    """Whether a path is a folder that we write unfinished things to, and holds nothing else."""
    if path.is_symlink() or not path.is_dir() or not _BOX.fullmatch(path.name):
        return False
    try:
        return all(inner.name == "old" or inner.stem == "new" for inner in path.iterdir())
    except FileNotFoundError:  # its writer has finished meanwhile
        return True


def is_lock(path: Path) -> bool:
    """Whether a path is a lock of ours, not a file or link of the user's."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) in {b"", b"process "}


def _remove_left(box: Path) -> None:
    handle = os.open(box, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for old in (box / "old").glob("*"):
            if not (box.parent / old.name).exists():
                old.rename(box.parent / old.name)
        shutil.rmtree(box, ignore_errors=True)
    except OSError as error:  # somebody writes there, or nobody can know
        if error.errno not in _NO_LOCKS | {errno.EWOULDBLOCK}:
            raise
    finally:
        os.close(handle)


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Claim a piece of work for as long as the block lasts, and give whether that succeeded.

    The claim is a lock that the kernel (on a network file system, its server) holds for the open
    file, so `kill -9` and a crash of the machine end it as well. Without locks on the file system
    (Lustre mounted without `flock`), the claim always succeeds: one process then has to do all the
    work. The package filelock promises neither: it does not keep the holder's name, and without
    `flock` it leaves a marker that outlives a killed holder.

    Args:
        path: Lock file; it stays, and says who held it last.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not is_lock(path):
            raise StorageError(
                f"'{path}' is no lock of ours, and is left as it is. Choose another folder."
            )
        file = os.fdopen(os.open(path, _LOCK_FLAGS, 0o644), "r+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield True


@contextmanager
def _unfinished(parent: Path) -> Iterator[Path]:
    """Give a new folder that is locked while the block lasts, and removed after it."""
    parent.mkdir(parents=True, exist_ok=True)
    box, handle = _locked_folder(parent)
    try:
        yield box
    finally:
        shutil.rmtree(box, ignore_errors=True)
        os.close(handle)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    while True:
        box = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
        try:
            handle = os.open(box, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except FileNotFoundError:  # a start beside this one took it for left
            continue
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if box.exists():
            return box, handle
        os.close(handle)


def _check_replaceable(folder: Path, names: set[str]) -> None:
    """Refuse to replace what holds anything else than files of these names."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StorageError(f"cannot write the folder '{folder}': a file has that name.")
    if others := sorted({path.name for path in folder.iterdir()} - names):
        raise StorageError(
            f"'{folder}' is not replaced: it holds '{others[0]}', which is not part of what would "
            "be stored. Choose a new folder, or empty this one."
        )


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, and return whether the system can (Linux)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    paths = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(here, paths[0], here, paths[1], exchange) == 0


def _sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # no fsync of folders on this file system
            raise
    finally:
        os.close(handle)
