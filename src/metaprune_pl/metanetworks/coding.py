"""Features to hidden and back, shared by all metanetworks.

Equations (12), (13) and (20) to (23) of the paper.

Kernels of different sizes are brought together in one of two ways (paper, section 4.1): `pad`
centres each in the largest one; `per_size` has an encoder and a decoder for each number of taps.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, TraceError

KernelSizes = Literal["pad", "per_size"]


class Decoder(nn.Module):
    """LayerNorm without parameters, then two layers.

    The last starts at zero, so nothing changes at first.

    Shapes: [..., H] -> [..., out].
    """

    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, out)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Decode."""
        normalised = F.layer_norm(x, x.shape[-1:])
        return self.last(F.silu(self.first(normalised)))  # type: ignore[no-any-return]


class Coding(nn.Module):
    """Encoders and decoders of nodes and edges.

    Args:
        node_features: F.
        hidden: H.
        kernels: How kernels of different sizes are brought together.
        taps: Numbers of taps: the one that all are padded to, or all that there are.
        node_ratio: Residual coefficient of nodes, alpha in equation (22).
        edge_ratio: Residual coefficient of edges, beta in equation (23).
        edge_scale: Factor on edge features before their encoder: weights are small beside the
            encoder's bias.
        encoder_layers: Of nodes and edges: 1, or 2 with SiLU between.

    Raises:
        ConfigError: The numbers of taps are no square to pad to, none are given, or encoders have
            another number of layers.
    """

    def __init__(
        self,
        *,
        node_features: int,
        hidden: int,
        kernels: KernelSizes,
        taps: list[int],
        node_ratio: float,
        edge_ratio: float,
        edge_scale: float,
        encoder_layers: int = 1,
    ) -> None:
        super().__init__()
        if encoder_layers not in (1, 2):
            raise ConfigError(f"encoder_layers is {encoder_layers}; it is 1 or 2.")
        self.side = math.isqrt(max(0, *taps, 0))
        if kernels == "pad" and (len(taps) != 1 or self.side**2 != taps[0]):
            raise ConfigError(
                f"taps {taps}: kernels 'pad' takes one square number, such as [9]. Or take "
                "'per_size'."
            )
        if not taps or min(taps) < 1:
            raise ConfigError(
                f"taps {taps}: name at least one number of kernel positions, such as [1, 9]."
            )
        self.kernels = kernels
        self.hidden = hidden
        self.ratios = node_ratio, edge_ratio
        self.edge_scale = edge_scale
        self.deep = encoder_layers == 2
        self.node_encoder: nn.Module = nn.Linear(node_features, hidden)
        self.node_decoder = Decoder(hidden, node_features)
        widths = {str(size): max(size, hidden) if self.deep else size for size in taps}
        self.edge_encoders = nn.ModuleDict(
            {size: nn.Linear(width, hidden) for size, width in widths.items()}
        )
        self.edge_lifts = nn.ModuleDict()
        if self.deep:
            self.node_encoder = nn.Sequential(
                nn.Linear(node_features, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
            )
            self.edge_lifts.update(
                {size: nn.Linear(int(size), width) for size, width in widths.items()}
            )
        self.edge_decoders = nn.ModuleDict({str(size): Decoder(hidden, size) for size in taps})

    def check_kernels(self, layers: Mapping[tuple[int, int], str]) -> None:
        """Refuse a network with kernels that there is no encoder for.

        Args:
            layers: Sizes of the network's kernels, each with the name of a layer that has it.

        Raises:
            TraceError: A kernel is larger than all are padded to, or its number of positions is not
                among `taps`.
        """
        if self.kernels == "pad":
            missing = [kernel for kernel in layers if max(kernel) > self.side]
            known = f"pads kernels to {self.side}x{self.side}"
        else:
            missing = [kernel for kernel in layers if self._size(kernel) not in self.edge_encoders]
            known = f"knows kernels of {', '.join(self.edge_encoders)} positions"
        if missing:
            layer = layers[missing[0]]
            height, width = missing[0]
            largest = max(max(kernel) for kernel in layers)
            taps = sorted({math.prod(kernel) for kernel in layers})
            raise TraceError(
                f"the metanetwork {known}, and '{layer}' has one of {height}x{width}. "
                f"For all of this network's train one with kernels 'pad' and taps [{largest**2}], "
                f"or with 'per_size' and taps {taps}."
            )

    def encode_nodes(self, nodes: Tensor) -> Tensor:
        """Equation (12): [N, F] -> [N, H]."""
        return self.node_encoder(nodes)  # type: ignore[no-any-return]

    def decode_nodes(self, hidden: Tensor, nodes: Tensor) -> Tensor:
        """Equations (20) and (22): [N, H] and the input [N, F] -> [N, F]."""
        return nodes + self.ratios[0] * self.node_decoder(hidden)  # type: ignore[no-any-return]

    def encode_edges(self, edges: Tensor, kernel: tuple[int, int]) -> Tensor:
        """Equation (13): [..., T] -> [..., H]."""
        encoder = self.edge_encoders[self._size(kernel)]
        if self.deep:
            return encoder(self.lift(edges, kernel))  # type: ignore[no-any-return]
        scaled = self._pad(edges, kernel) * self.edge_scale
        return encoder(scaled)  # type: ignore[no-any-return]

    def lift(self, edges: Tensor, kernel: tuple[int, int]) -> Tensor:
        """First layer of an edge encoder of two: [..., T] -> [..., W], W = max(T, H)."""
        scaled = self._pad(edges, kernel) * self.edge_scale
        return F.silu(self.edge_lifts[self._size(kernel)](scaled))

    def decode_edges(self, hidden: Tensor, edges: Tensor, kernel: tuple[int, int]) -> Tensor:
        """Equations (21) and (23): [..., H] and the input [..., T] -> [..., T]."""
        delta = self.edge_decoders[self._size(kernel)](hidden)
        return edges + self.ratios[1] * self._crop(delta, kernel)

    def edge_encoder(self, kernel: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The encoder of one kernel size: weight [H, T], with `edge_scale` in it, and bias [H]."""
        values = dict(self.edge_encoders[self._size(kernel)].named_parameters())
        if self.deep:
            return values["weight"], values["bias"]
        return self._crop(values["weight"], kernel) * self.edge_scale, values["bias"]

    def edge_decoder(self, kernel: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The decoder of one kernel size.

        [H, H], [H], [T, H] and [T], the last two times the residual coefficient.
        """
        values = dict(self.edge_decoders[self._size(kernel)].named_parameters())
        last = self._crop(values["last.weight"].t(), kernel).t()
        bias = self._crop(values["last.bias"], kernel)
        ratio = self.ratios[1]
        if self.deep:  # as wide as what `lift` gives, which is taken off again
            lifted = dict(self.edge_lifts[self._size(kernel)].named_parameters())
            more = len(lifted["bias"]) - len(bias)
            last, bias = F.pad(last, (0, 0, 0, more)), F.pad(bias, (0, more))
        return values["first.weight"], values["first.bias"], ratio * last, ratio * bias

    def _size(self, kernel: tuple[int, int]) -> str:
        """Key of the encoder and decoder of a kernel."""
        taps = self.side**2 if self.kernels == "pad" else math.prod(kernel)
        return str(taps)

    def _margins(self, kernel: tuple[int, int]) -> list[int]:
        """Zeros left, right, above and below that centre a kernel in the largest one."""
        height = self.side - kernel[0]
        width = self.side - kernel[1]
        left = width // 2
        above = height // 2
        return [left, width - left, above, height - above]

    def _pad(self, edges: Tensor, kernel: tuple[int, int]) -> Tensor:
        if self.kernels == "per_size" or kernel == (self.side, self.side):
            return edges
        margins = self._margins(kernel)
        return F.pad(edges.unflatten(-1, kernel), margins).flatten(-2)

    def _crop(self, edges: Tensor, kernel: tuple[int, int]) -> Tensor:
        if self.kernels == "per_size" or kernel == (self.side, self.side):
            return edges
        left, _, above, _ = self._margins(kernel)
        square: Tensor = edges.unflatten(-1, (self.side, self.side))
        rows = slice(above, above + kernel[0])
        columns = slice(left, left + kernel[1])
        return square[..., rows, columns].flatten(-2)
