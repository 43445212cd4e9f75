"""A block's work in C++ (folder `cpp`): compiled on first use for this machine's processor, and kept in a cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks.engine import EdgeBlock, Kernels

SOURCE = Path(__file__).parent / "cpp" / "native.cpp"
FLAGS = ("-std=c++20", "-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
DTYPES = {torch.float32: "f32", torch.float64: "f64"}
LANES = 16


class _Block(ctypes.Structure):
    """`Block` of block.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("raw", "weight", "bias", "target", "source")),
        ("factors", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_int64) for name in ("G", "O", "I", "T", "W", "N", "layers", "threads")),
    ]


@cache
def library_path() -> Path:
    """Where the compiled library of this machine is or will be kept."""
    cache_folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cpu = Path("/proc/cpuinfo")
    flags = (
        next((line for line in cpu.read_text().splitlines() if line.startswith("flags")), "") if cpu.exists() else ""
    )
    sources = (path.read_text() for path in sorted(SOURCE.parent.iterdir()))
    identity = "\n".join([*sources, *FLAGS, platform.machine(), flags])
    return Path(cache_folder) / "metaprune_pl" / f"native_{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"


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
            reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
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
        warnings.warn(f"{error}: the metanetwork runs in plain PyTorch, which is slower.", stacklevel=2)
        return False
    return True


class NativeKernels(Kernels):
    """The work in float32 and float64 on the CPU.

    Raises:
        ConfigError: There is no compiler, or it fails.
    """

    def __init__(self) -> None:
        self.library = load()

    def width(self, hidden: int) -> int:
        """W: a power of two below 16, or a multiple of 16."""
        return -(-hidden // LANES) * LANES if hidden > LANES else 1 << (hidden - 1).bit_length()

    def statistics(self, blocks: Sequence[EdgeBlock], factors: Sequence[Tensor]) -> Tensor:
        """Implements `Kernels`."""
        nodes, _, width = factors[-1].shape
        received = factors[-1].new_zeros(2, nodes, 6, width)
        received[:, :, 2:4] = -torch.inf
        for values in blocks:
            self._call("statistics", values, factors, received)
        return received

    def aggregate(self, received: Tensor, counts: Tensor, factor: Tensor) -> Tensor:
        """Implements `Kernels`."""
        inbox = factor.new_empty(len(factor), 4, factor.shape[1])
        self._nodes("aggregate", received, counts, factor.contiguous(), inbox)
        return inbox

    def aggregate_backward(
        self, received: Tensor, counts: Tensor, factor: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Implements `Kernels`."""
        make = torch.empty_like if received.shape[3] == factor.shape[1] else torch.zeros_like
        own, found = make(received), torch.empty_like(factor, memory_format=torch.contiguous_format)
        self._nodes("aggregate_backward", received, counts, factor.contiguous(), gradient, own, found)
        return own, found

    def layer_backward(
        self, blocks: Sequence[EdgeBlock], factors: Sequence[Tensor], received: Tensor, gradient: Sequence[Tensor]
    ) -> Tensor:
        """Implements `Kernels`."""
        total = torch.zeros_like(factors[-1])
        for values, own in zip(blocks, gradient, strict=True):
            self._call("layer_backward", values, factors, received, own, total)
        return total

    def decode(self, values: EdgeBlock, factors: Sequence[Tensor]) -> Tensor:
        """Implements `Kernels`."""
        new = torch.empty_like(values.raw)
        self._call("decode", values, factors, values.hidden, [v.contiguous() for v in values.decoder], new)
        return new

    def decode_backward(
        self, values: EdgeBlock, factors: Sequence[Tensor], new: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Implements `Kernels`."""
        decoder = [v.contiguous() for v in values.decoder]
        found = [torch.empty_like(v) for v in decoder]
        self._call("decode_backward", values, factors, values.hidden, decoder, new, gradient, found)
        return tuple(found)

    def encode_backward(self, values: EdgeBlock, gradient: Tensor, *, wants_raw: bool) -> tuple[Tensor | None, ...]:
        """Implements `Kernels`."""
        hidden, width = values.hidden, self.width(values.hidden)
        weight, bias = gradient.new_zeros(values.raw.shape[3], width), gradient.new_zeros(width)
        self._call("encode_backward", values, (), gradient, weight, bias)
        raw = None
        if wants_raw:
            raw = (gradient.view(-1, width)[:, :hidden] @ values.encoder[0]).view_as(values.raw)
        return raw, weight.t()[:hidden], bias[:hidden]

    def _call(
        self, name: str, values: EdgeBlock, factors: Sequence[Tensor], *arguments: Tensor | int | list[Tensor]
    ) -> None:
        """Call a function of the library on a block."""
        raw, block = values.raw, values.block
        more = self.width(values.hidden) - values.hidden
        weight, bias = F.pad(values.encoder[0].t(), (0, more)).contiguous(), F.pad(values.encoder[1], (0, more))
        nodes = factors[-1].shape[0] if factors else 0
        sizes = *raw.shape, values.hidden + more, nodes, len(factors), torch.get_num_threads()
        own = (raw, weight, bias, block.target, block.source)
        assert all(tensor.is_contiguous() for tensor in own)
        described = _Block(*(tensor.data_ptr() for tensor in own), _pointers(list(factors)), *sizes)
        self._run(name, raw.dtype, ctypes.byref(described), *arguments)

    def _nodes(self, name: str, received: Tensor, counts: Tensor, *arguments: Tensor) -> None:
        """Call a function of the library on nodes."""
        _, nodes, _, width = received.shape
        sizes = nodes, width, arguments[0].shape[1], torch.get_num_threads()
        self._run(name, received.dtype, *sizes, received, counts, *arguments)

    def _run(self, name: str, dtype: torch.dtype, *arguments: Any) -> None:
        """Call a function of the library; its arguments are tensors, numbers and lists of tensors."""
        handed: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                assert argument.is_contiguous() and argument.dtype in (dtype, torch.long), name
                handed.append(ctypes.c_void_p(argument.data_ptr()))
            elif isinstance(argument, list):
                handed.append(_pointers(argument))
            else:
                handed.append(ctypes.c_int64(argument) if isinstance(argument, int) else argument)
        getattr(self.library, f"{name}_{DTYPES[dtype]}")(*handed)


def _pointers(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(1, len(tensors)))(*(tensor.data_ptr() for tensor in tensors))
