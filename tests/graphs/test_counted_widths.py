"""Forward passes that count on widths in ways that no operation names: trials find them out."""

import pytest
import torch
import torch.nn.functional as F
from test_any_network import assert_exact
from torch import Tensor, nn

from metaprune_pl.networks.examples import Example
from metaprune_pl.pruning import PruningGroups


def widths(groups: PruningGroups) -> dict[str, int]:
    """Units that may go of each group that has some."""
    sizes = groups.sizes().tolist()
    return {name: size for name, size in zip(groups.names, sizes, strict=True) if size}


class CrossAttention(nn.Module):
    """Attention of one token on all, written out with the width of its input (CrossViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.project = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, tokens, width = x.shape
        query = self.query(x[:, :1]).reshape(batch, 1, 4, width // 4).permute(0, 2, 1, 3)
        key = self.key(x).reshape(batch, tokens, 4, width // 4).permute(0, 2, 1, 3)
        value = self.value(x).reshape(batch, tokens, 4, width // 4).permute(0, 2, 1, 3)
        shares = (query @ key.transpose(-2, -1)).softmax(-1)
        return self.project((shares @ value).transpose(1, 2).reshape(batch, 1, width))[:, 0]


class Reduction(nn.Module):
    """A convolution whose output is reshaped by the width of its input (SegFormer)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 1)
        self.reduce = nn.Conv2d(12, 12, 2, stride=2)
        self.classifier = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        tokens = self.reduce(x).reshape(len(x), x.shape[1], -1)
        return self.classifier(tokens.relu().mean(2))


class Checked(nn.Module):
    """Checks how wide its input is (diffusers)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return self.conv(x)


class Masked(nn.Module):
    """Reads ids up to the first 0 by masks that are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.classifier = nn.Embedding(9, 12), nn.Linear(12, 5)
        self.places = nn.Embedding(6, 12)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        there = (ids >= 0) & (mask > 0)
        places = self.places(torch.arange(ids.shape[1], device=ids.device))
        hidden = (self.embed(ids) + places) * there[:, :, None]
        last = mask.argmax(1)
        return self.classifier(hidden[torch.arange(len(ids)), last] + hidden.sum(1))


class TokensAndImage(nn.Module):
    """An image [B, C, H, W] and tokens [B, T, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 12, 1), nn.Linear(6, 12)
        self.classifier = nn.Linear(12, 5)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        pixels = self.convolution(image).relu().mean((2, 3))
        return self.classifier(pixels * self.linear(tokens).relu().mean(1))


class Places(nn.Module):
    """A table of places that is resized to the image (transformers at another resolution)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.classifier = nn.Conv2d(3, 12, 1), nn.Linear(12, 5)
        self.places = nn.Parameter(torch.randn(1, 10, 12))  # the first is for all together

    def forward(self, x: Tensor) -> Tensor:
        table = self.places[:, 1:].reshape(1, 3, 3, -1).permute(0, 3, 1, 2)
        resized = F.interpolate(table, size=x.shape[2:], mode="bicubic").flatten(2)
        places = torch.cat([self.places[:, :1], resized.transpose(1, 2)], 1)
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        hidden = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + places
        return self.classifier(hidden.relu().mean(1))


class Transposed(nn.Module):
    """A linear layer whose matrix is [inputs, outputs] (GPT-2)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(12, 36)), nn.Parameter(torch.randn(36))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(0, 1), self.weight).view(*x.shape[:2], -1)


class OneMatrix(nn.Module):
    """Attention whose queries, keys and values are of one such matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.joint, self.classifier = nn.Linear(6, 12), Transposed(), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.joint(self.embed(x)).chunk(3, 2)
        heads = [part.view(*x.shape[:2], 3, -1).transpose(1, 2) for part in parts]
        attended = F.scaled_dot_product_attention(*heads, scale=0.5)
        return self.classifier(attended.transpose(1, 2).flatten(2).mean(1))


IDS = (torch.tensor([[1, 2, 3, 0]]), torch.tensor([[0, 0, 1, 0]]))
IMAGE = torch.zeros(1, 3, 4, 4)
CASES: dict[str, tuple[nn.Module, Example, set[str]]] = {
    "cross attention": (CrossAttention(), torch.zeros(1, 7, 6), {"embed"}),
    "reshape": (Reduction(), IMAGE, {"embed"}),
    "assertion": (
        nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), Checked(16), nn.Flatten(), nn.Linear(192, 5)),
        IMAGE,
        {"0", "2.conv"},
    ),
    "transposed": (OneMatrix(), torch.zeros(1, 7, 6), {"embed", "joint"}),
    "resized table": (Places(), IMAGE, {"embed"}),
    "masks": (Masked(), IDS, {"embed"}),
    "two layouts": (TokensAndImage(), (IMAGE, torch.zeros(1, 7, 6)), {"convolution"}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_pruned_all_the_same(case: str) -> None:
    network, example, expected = CASES[case]
    groups, _ = assert_exact(network, example)
    assert set(widths(groups)) == expected and groups.graph.unfollowed == ()
