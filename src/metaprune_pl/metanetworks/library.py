"""The C++ engine's library (folder `cpp`).

Compiled on first use for this machine's processor, and kept in a cache.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from metaprune_pl.errors import ConfigError

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
def library_path() -> Path:
    """Where the compiled library of this machine is or will be kept."""
    cache_folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cpu = Path("/proc/cpuinfo")
    flags = (
        next((line for line in cpu.read_text().splitlines() if line.startswith("flags")), "")
        if cpu.exists()
        else ""
    )
    sources = (path.read_text() for path in sorted(SOURCE.parent.iterdir()))
    identity = "\n".join([*sources, *FLAGS, platform.machine(), flags])
    return (
        Path(cache_folder)
        / "metaprune_pl"
        / f"native_{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    )


def build() -> Path:
    """Compile the library, unless that was done before.

    Raises:
        ConfigError: There is no compiler, or it fails.
    """
    path = library_path()
    if path.is_file():
        return path
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise ConfigError("there is no C++ compiler (`c++`, or what CXX names)")
    rank_zero_info("Compiling the metanetwork's C++ engine, once on this machine ...")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        out = Path(folder) / "native.so"
        command = [compiler, *FLAGS, "-fopenmp", str(SOURCE), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next(
                (line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()
            )
            raise ConfigError(f"the C++ compiler failed ({reason})")
        out.replace(path)
    return path


@cache
def load() -> ctypes.CDLL:
    """Load the library, compiled if it must be.

    Raises:
        ConfigError: There is no compiler, or it fails.
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
    except ConfigError as error:
        warnings.warn(
            f"{error}: the metanetwork runs in plain PyTorch, which is slower.", stacklevel=2
        )
        return False
    return True
