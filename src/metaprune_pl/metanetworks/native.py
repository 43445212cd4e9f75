"""The work on the blocks in C++ (folder `cpp`)."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metaprune_pl.metanetworks.kernels import EdgeBlock, Kernels
from metaprune_pl.metanetworks.library import load

DTYPES = {torch.float32: "f32", torch.float64: "f64"}
LANES = 16


class _Block(ctypes.Structure):
    """`Block` of block.h."""

    _fields_ = [
        ("raw", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        ("decoder", ctypes.c_void_p * 4),
        *((name, ctypes.c_void_p) for name in ("inverter", "target", "source")),
        *(
            (name, ctypes.c_int64)
            for name in ("G", "O", "I", "T", "W", "H", "N", "threads", "layers")
        ),
        ("factors", ctypes.c_void_p),
    ]


class _Nodes(ctypes.Structure):
    """`Nodes` of send.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("N", "H", "W", "threads")]


class NativeKernels(Kernels):
    """The work in float32 and float64 on the CPU.

    Raises:
        ConfigError: There is no compiler, or it fails.
    """

    def __init__(self, blocks: Sequence[EdgeBlock], num_nodes: int, inverter: Tensor) -> None:
        super().__init__(blocks, num_nodes, inverter)
        self.hidden = len(inverter)
        more = self.width(self.hidden) - self.hidden
        self._library = load()
        self._suffix = DTYPES[inverter.dtype]
        self._held: list[Any] = [
            inverter := F.pad(inverter, (0, more))
        ]  # what the pointers lead to
        described = []
        for values in blocks:
            taps = values.raw[0].shape[3]
            encoder = (
                F.pad(values.encoder[0].t(), (0, more)).contiguous(),
                F.pad(values.encoder[1], (0, more)),
            )
            decoder = [value.contiguous() for value in values.decoder]
            raw = _each_g(values.raw)
            self._held += [encoder, decoder, raw]
            described.append(
                _Block(
                    raw,
                    *(value.data_ptr() for value in encoder),
                    _pointers(decoder),
                    inverter.data_ptr(),
                    values.block.target.data_ptr(),
                    values.block.source.data_ptr(),
                    *values.block.target.shape,
                    values.block.source.shape[1],
                    taps,
                    self.hidden + more,
                    self.hidden,
                    num_nodes,
                    torch.get_num_threads(),
                )
            )
        self._blocks = (_Block * len(blocks))(*described)
        self._nodes = _Nodes(
            num_nodes,
            self.hidden,
            self.hidden + more,
            torch.get_num_threads(),
        )

    def width(self, hidden: int) -> int:
        """W: a power of two below 16, or a multiple of 16."""
        return -(-hidden // LANES) * LANES if hidden > LANES else 1 << (hidden - 1).bit_length()

    def send(self, nodes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Implements `Kernels`."""
        factors = nodes.new_empty(len(nodes), 4, self.width(self.hidden))
        self._call(
            "send",
            self._nodes,
            nodes,
            weight,
            bias,
            factors,
        )
        return factors

    def send_backward(
        self, nodes: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Implements `Kernels`."""
        found = tuple(value.new_empty(value.shape) for value in (nodes, weight, bias))
        self._call(
            "send_backward",
            self._nodes,
            nodes,
            weight,
            bias,
            gradient,
            *found,
        )
        return found

    def statistics(self, factors: Sequence[Tensor]) -> Tensor:
        """Implements `Kernels`."""
        nodes, _, width = factors[-1].shape
        received = factors[-1].new_empty(2, nodes, 6, width)
        self._call("statistics", *self._layers(factors), received)
        return received

    def collect(self, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Implements `Kernels`."""
        new = factors.new_empty(len(factors), self.hidden)
        self._call(
            "collect",
            self._nodes,
            received,
            self.counts,
            factors,
            weight,
            bias,
            new,
        )
        return new

    def collect_backward(
        self, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Implements `Kernels`."""
        found = tuple(value.new_empty(value.shape) for value in (received, factors, weight, bias))
        own = (received, self.counts, factors, weight, bias, gradient)
        self._call("collect_backward", self._nodes, *own, *found)
        return found

    def layer_backward(
        self, factors: Sequence[Tensor], received: Tensor, gradient: Tensor, found: Tensor
    ) -> None:
        """Implements `Kernels`."""
        self._call(
            "layer_backward",
            *self._layers(factors),
            received,
            gradient,
            found,
        )

    def decode(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """Implements `Kernels`."""
        new = [torch.empty_like(part) for values in self.blocks for part in values.raw]
        self._call("decode", *self._layers(factors), _each_g(new))
        return new

    def decode_backward(
        self, factors: Sequence[Tensor], new: Sequence[Tensor], gradient: Tensor
    ) -> list[tuple[Tensor, ...]]:
        """Implements `Kernels`."""
        found = [tuple(v.new_empty(v.shape) for v in values.decoder) for values in self.blocks]
        own = _pointers([value for decoder in found for value in decoder])
        self._call(
            "decode_backward",
            *self._layers(factors),
            _each_g(new),
            gradient,
            own,
        )
        return found

    def encode_backward(self, gradient: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Implements `Kernels`."""
        width = self.width(self.hidden)
        hidden = self.hidden
        found = [
            (gradient.new_zeros(block.T, width), gradient.new_zeros(width))
            for block in self._blocks
        ]
        self._call(
            "encode_backward",
            self._blocks,
            len(found),
            gradient,
            _pointers([value for own in found for value in own]),
        )
        return [(weight.t()[:hidden], bias[:hidden]) for weight, bias in found]

    def raw_backward(self, gradient: Tensor) -> list[Tensor]:
        """Implements `Kernels`."""
        found: list[Tensor] = []
        for values, own in zip(self.blocks, gradient.split(self.sizes), strict=True):
            groups, outputs, width = *values.block.target.shape, self.width(self.hidden)
            slices = own.view(groups, -1, outputs * values.block.source.shape[1], min(LANES, width))
            taps = slices.transpose(1, 2).reshape(-1, width)[:, : self.hidden] @ values.encoder[0]
            parts = taps.split([part.shape[:3].numel() for part in values.raw])
            found += [part.view_as(raw) for part, raw in zip(parts, values.raw, strict=True)]
        return found

    def _layers(self, factors: Sequence[Tensor]) -> tuple[Any, ...]:
        """The blocks after so many layers."""
        return self._blocks, len(self._blocks), _pointers(factors), len(factors)

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library."""
        handed: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                assert argument.is_contiguous() and argument.dtype in (
                    self.inverter.dtype,
                    torch.long,
                ), name
                handed.append(ctypes.c_void_p(argument.data_ptr()))
            elif isinstance(argument, _Nodes):
                handed.append(ctypes.byref(argument))
            else:
                handed.append(ctypes.c_int64(argument) if isinstance(argument, int) else argument)
        getattr(self._library, f"{name}_{self._suffix}")(*handed)


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _each_g(members: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Where members, [G, O, I, T] each, have what belongs to each of their G."""
    assert all(member.is_contiguous() for member in members)
    starts = [
        start
        for member in members
        for start in range(member.data_ptr(), member.data_ptr() + member.nbytes, member[0].nbytes)
    ]
    return (ctypes.c_void_p * len(starts))(*starts)
