"""The work on the blocks in C++ (folder `cpp`)."""

import ctypes
import math
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
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("decoder", ctypes.c_void_p * 4),
        ("inverter", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("source", ctypes.c_void_p),
        ("G", ctypes.c_int64),
        ("O", ctypes.c_int64),
        ("I", ctypes.c_int64),
        ("T", ctypes.c_int64),
        ("W", ctypes.c_int64),
        ("H", ctypes.c_int64),
        ("N", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("layers", ctypes.c_int64),
        ("factors", ctypes.c_void_p),
    ]


class _Nodes(ctypes.Structure):
    """`Nodes` of send.h."""

    _fields_ = [
        ("N", ctypes.c_int64),
        ("H", ctypes.c_int64),
        ("W", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    ]


class NativeKernels(Kernels):
    """The work in float32 and float64 on the CPU.

    Raises:
        ConfigError: There is no compiler, or it fails.
    """

    name = "native"

    def __init__(self, blocks: Sequence[EdgeBlock], num_nodes: int, inverter: Tensor) -> None:
        super().__init__(blocks, num_nodes, inverter)
        self.hidden = len(inverter)
        width = self.width(self.hidden)
        threads = torch.get_num_threads()
        self._padding = (0, width - self.hidden)
        self._library = load()
        self._suffix = DTYPES[inverter.dtype]
        padded = F.pad(inverter, self._padding)
        self._held: list[Any] = [padded]  # what the pointers lead to
        described = [self._describe(values, padded, num_nodes, threads) for values in blocks]
        self._blocks = (_Block * len(blocks))(*described)
        self._nodes = _Nodes(
            num_nodes,
            self.hidden,
            width,
            threads,
        )

    def _describe(
        self, values: EdgeBlock, inverter: Tensor, num_nodes: int, threads: int
    ) -> _Block:
        """Describe a block to the library, and hold the tensors that it points to."""
        weight = F.pad(values.encoder[0].t(), self._padding).contiguous()
        bias = F.pad(values.encoder[1], self._padding)
        decoder = [value.contiguous() for value in values.decoder]
        raw = _each_g(values.raw)
        self._held += [weight, bias, decoder, raw]
        groups, outputs = values.block.target.shape
        return _Block(
            raw=raw,
            weight=weight.data_ptr(),
            bias=bias.data_ptr(),
            decoder=_pointers(decoder),
            inverter=inverter.data_ptr(),
            target=values.block.target.data_ptr(),
            source=values.block.source.data_ptr(),
            G=groups,
            O=outputs,
            I=values.block.source.shape[1],
            T=values.raw[0].shape[3],
            W=self.width(self.hidden),
            H=self.hidden,
            N=num_nodes,
            threads=threads,
        )

    def width(self, hidden: int) -> int:
        """W: a power of two below 16, or a multiple of 16."""
        if hidden > LANES:
            return math.ceil(hidden / LANES) * LANES
        return 1 << (hidden - 1).bit_length()

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
        gradients = _like(nodes, weight, bias)
        self._call(
            "send_backward",
            self._nodes,
            nodes,
            weight,
            bias,
            gradient,
            *gradients,
        )
        return gradients

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
        gradients = _like(received, factors, weight, bias)
        inputs = (received, self.counts, factors, weight, bias)
        self._call(
            "collect_backward",
            self._nodes,
            *inputs,
            gradient,
            *gradients,
        )
        return gradients

    def layer_backward(
        self, factors: Sequence[Tensor], received: Tensor, gradient: Tensor, g_factors: Tensor
    ) -> None:
        """Implements `Kernels`."""
        self._call(
            "layer_backward",
            *self._layers(factors),
            received,
            gradient,
            g_factors,
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
        gradients = [_like(*values.decoder) for values in self.blocks]
        pointers = _pointers([value for decoder in gradients for value in decoder])
        self._call(
            "decode_backward",
            *self._layers(factors),
            _each_g(new),
            gradient,
            pointers,
        )
        return gradients

    def encode_backward(self, gradient: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Implements `Kernels`."""
        width = self.width(self.hidden)
        gradients = []
        for block in self._blocks:
            gradients.append((gradient.new_zeros(block.T, width), gradient.new_zeros(width)))
        self._call(
            "encode_backward",
            self._blocks,
            len(gradients),
            gradient,
            _pointers([value for pair in gradients for value in pair]),
        )
        return [(weight.t()[: self.hidden], bias[: self.hidden]) for weight, bias in gradients]

    def raw_backward(self, gradient: Tensor) -> list[Tensor]:
        """Implements `Kernels`."""
        width = self.width(self.hidden)
        lanes = min(LANES, width)
        gradients: list[Tensor] = []
        for values, own in zip(self.blocks, gradient.split(self.sizes), strict=True):
            groups, outputs = values.block.target.shape
            pairs = outputs * values.block.source.shape[1]
            slices = own.view(groups, -1, pairs, lanes)
            hidden = slices.transpose(1, 2).reshape(-1, width)[:, : self.hidden]
            taps = hidden @ values.encoder[0]
            parts = taps.split([part.shape[:3].numel() for part in values.raw])
            gradients += [part.view_as(raw) for part, raw in zip(parts, values.raw, strict=True)]
        return gradients

    def _layers(self, factors: Sequence[Tensor]) -> tuple[Any, ...]:
        """The blocks after so many layers."""
        return self._blocks, len(self._blocks), _pointers(factors), len(factors)

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library."""
        types = (self.inverter.dtype, torch.long)
        converted: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                assert argument.is_contiguous(), name
                assert argument.dtype in types, name
                converted.append(ctypes.c_void_p(argument.data_ptr()))
            elif isinstance(argument, _Nodes):
                converted.append(ctypes.byref(argument))
            elif isinstance(argument, int):
                converted.append(ctypes.c_int64(argument))
            else:
                converted.append(argument)
        function = getattr(self._library, f"{name}_{self._suffix}")
        function(*converted)


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Contiguous room for tensors of the same shapes."""
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _each_g(members: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Where members, [G, O, I, T] each, have what belongs to each of their G."""
    assert all(member.is_contiguous() for member in members)
    starts: list[int] = []
    for member in members:
        first = member.data_ptr()
        starts += range(first, first + member.nbytes, member[0].nbytes)
    return (ctypes.c_void_p * len(starts))(*starts)
