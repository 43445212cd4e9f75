"""Random networks: residuals, splits, gates, attention, shared layers, two heads."""

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS: tuple[Callable[[int], nn.Module], ...] = (
    nn.BatchNorm2d,
    lambda width: nn.GroupNorm(2, width),
    lambda width: nn.GroupNorm(2, width, affine=False),
    lambda width: nn.GroupNorm(1, width),
    nn.InstanceNorm2d,
    lambda width: nn.Identity(),
)
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (nn.ReLU, nn.GELU, nn.Tanh, nn.Hardswish)


class Block(nn.Module):
    """A part of a network from maps [B, C, H, W] to maps."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__()
        self.norm = draw.choice(NORMS)(width)
        self.act = draw.choice(ACTIVATIONS)()


class Plain(Block):
    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__(width, draw)
        groups = draw.choice([1, 1, 2, width])
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=draw.random() < 0.5)
        if draw.random() < 0.3:
            nn.utils.parametrizations.weight_norm(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Shared(Plain):
    """The same layer twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Concat(Block):
    """Two branches side by side; one is the input."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__(width, draw)
        inner = draw.choice([4, 6, width])
        self.branch, self.merge = nn.Conv2d(width, inner, 1), nn.Conv2d(width + inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.merge(torch.cat([x, self.branch(x)], 1))))


class Split(Block):
    """One part is convolved, and its width is an attribute."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__(width, draw)
        self.part = draw.choice([2, width // 2])
        self.rest = width - self.part
        self.conv = nn.Conv2d(self.part, self.part, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = torch.split(x, [self.part, self.rest], 1)
        return torch.cat([self.act(self.conv(one)), other], 1)


class Padded(Plain):
    """A shortcut is narrower, with zeros on both sides, as many as an attribute or code says."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__(width, draw)
        pad = draw.choice([1, 2])
        self.narrow = nn.Conv2d(width, width - 2 * pad, 1)
        self.pad = pad if draw.random() < 0.5 else [[pad]]

    def forward(self, x: Tensor) -> Tensor:
        pad = self.pad if isinstance(self.pad, int) else self.pad[0][0]
        return super().forward(x) + F.pad(self.narrow(x), (0, 0, 0, 0, pad, pad))


class Radix(Block):
    """Conv groups are weighted and added up."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__(width, draw)
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1, groups=draw.choice([2, 4]))
        self.score = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.act(self.conv(x)).unflatten(1, (2, -1))
        gate = self.score(parts.sum(1).mean((2, 3), keepdim=True)).unflatten(1, (2, -1)).softmax(1)
        return self.norm((parts * gate).sum(1))


class Gate(Block):
    """Squeeze and excite, a gate over places, or a gated linear unit."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__(width, draw)
        self.kind = draw.choice(["squeeze", "places", "halves", "maximum"])
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        self.both, self.one = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "squeeze":
            return x * torch.sigmoid(self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))))
        if self.kind == "places":
            return x * torch.sigmoid(self.one(x))
        if self.kind == "halves":
            return F.glu(self.both(x), 1)
        return torch.maximum(*self.both(x).chunk(2, 1))


class Attention(Block):
    """Attention of two heads over places, fused or written out, of any inner width."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__(width, draw)
        self.heads, self.head_dim = 2, draw.choice([4, 6])
        inner = self.heads * self.head_dim
        self.fused, self.named = draw.random() < 0.5, draw.random() < 0.5
        self.layer_norm = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, _ = x.shape
        tokens = self.layer_norm(x.flatten(2).transpose(1, 2))
        size = self.head_dim if self.named else -1
        qkv = self.qkv(tokens).reshape(batch, tokens.shape[1], 3, self.heads, size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1) @ v
        out = self.proj(mixed.transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).unflatten(2, (height, -1))


class Odd(Block):
    """An attribute that equals the width by chance, one that counts it, and an unknown operator."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__(width, draw)
        self.steps = self.channels = width
        self.conv = nn.Conv2d(width, width, 1)
        self.kind = draw.choice(["temperature", "count", "unknown", "every second"])

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "temperature":
            return torch.tanh(x / self.steps)
        if self.kind == "count":
            return x.reshape(len(x), self.channels, *x.shape[2:]) / self.steps
        if self.kind == "unknown":
            return torch.renorm(x, 2, 1, 3.0)
        return torch.cat([x[:, ::2], x[:, 1::2]], 1)


BLOCKS: tuple[type[Block], ...] = (
    Plain,
    Residual,
    Shared,
    Concat,
    Split,
    Padded,
    Radix,
    Gate,
    Attention,
    Odd,
)


class RandomNetwork(nn.Module):
    """Some blocks of changing width, and one or two heads.

    Args:
        index: Everything is drawn with it as a seed, weights included.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        draw = random.Random(index)
        torch.manual_seed(index)
        widths = [draw.choice([8, 12, 16]) for _ in range(draw.randint(2, 4))]
        self.two_heads, self.flat = draw.random() < 0.4, draw.random() < 0.3
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), draw.choice(ACTIVATIONS)()]
            layers += [draw.choice(BLOCKS)(width, draw) for _ in range(draw.randint(1, 2))]
            before = width
        layers.append(draw.choice([nn.AvgPool2d, nn.MaxPool2d])(2))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before * 9 if self.flat else before, 5)
        self.other = nn.Conv2d(before, 3, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        scores = self.head(x.flatten(1) if self.flat else x.mean((2, 3)))
        return {"scores": scores, "map": self.other(x)} if self.two_heads else scores
