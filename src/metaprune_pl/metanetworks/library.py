"""The C++ engine's library (folder `cpp`).

Compiled on first use for this machine's processor, and kept in a folder of the user's cache that
nobody else can write. Its name holds its digest, so a damaged or exchanged one is not loaded.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from metaprune_pl.errors import ConfigError, MetapruneError
from metaprune_pl.files import cache_folder, whole_file, writing

SOURCE = Path(__file__).parent / "cpp" / "native.cpp"
FLAGS = (
    "-std=c++20",
    "-O2",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
)


@cache
def _identity() -> str:
    """Return the digest of what a compiled library follows from."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    sources = (path.read_text() for path in sorted(SOURCE.parent.iterdir()))
    identity = "\n".join([*sources, *FLAGS, platform.machine(), flags])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def library_folder() -> Path:
    """Return the folder of compiled libraries, which nobody but its owner can write.

    Raises:
        ConfigError: Others may write it, or a folder above it.
        StorageError: There is none, and it cannot be made.
    """
    folder = cache_folder() / "native"
    with writing(folder):
        folder.mkdir(
            mode=0o700,
            parents=True,
            exist_ok=True,
        )
    folder = folder.resolve()
    for path in (folder, *folder.parents):
        status = path.stat()
        mine = status.st_uid in {0, os.getuid()}
        open_to_all = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not mine or (open_to_all and (path == folder or not status.st_mode & stat.S_ISVTX)):
            raise ConfigError(
                f"others may write '{path}', so that no compiled engine is loaded from there; set "
                "XDG_CACHE_HOME to a folder of your own"
            )
    return folder


def _compiled(folder: Path) -> Path | None:
    """Return the library if it is there as it was compiled."""
    for path in folder.glob(f"native_{_identity()}_*.so"):
        if path.is_file() and path.stem.rpartition("_")[2] == _digest(path):
            return path
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build() -> Path:
    """Compile the library, unless that was done before.

    Raises:
        ConfigError: There is no compiler, it fails, or others may write where the library is kept.
        StorageError: The library cannot be kept.
    """
    folder = library_folder()
    with writing(folder):
        return _compiled(folder) or _compile(folder)


def _compile(folder: Path) -> Path:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise ConfigError("there is no C++ compiler (`c++`, or what CXX names)")
    rank_zero_info("Compiling the metanetwork's C++ engine, once on this machine ...")
    with tempfile.TemporaryDirectory(dir=folder) as made:
        out = Path(made) / "native.so"
        command = [compiler, *FLAGS, "-fopenmp", str(SOURCE), "-o", str(out)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            errors = (line for line in done.stderr.splitlines() if "error" in line)
            reason = next(errors, done.stderr.strip())
            raise ConfigError(f"the C++ compiler failed ({reason})")
        path = folder / f"native_{_identity()}_{_digest(out)}.so"
        with whole_file(path) as new:
            shutil.copyfile(out, new)
    return path


@cache
def load() -> ctypes.CDLL:
    """Load the library, compiled if it must be.

    Raises:
        ConfigError: There is no compiler, it fails, or others may write where the library is kept.
        StorageError: The library cannot be kept.
    """
    path = build()
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ConfigError(f"the compiled library cannot be loaded ({error})") from error


@cache
def available() -> bool:
    """Whether the library is there or can be compiled; where not, say so once."""
    try:
        load()
    except MetapruneError as error:
        reason = str(error).rstrip(".")
        warnings.warn(
            f"{reason}: the metanetwork runs in plain PyTorch, which is slower.", stacklevel=2
        )
        return False
    return True
