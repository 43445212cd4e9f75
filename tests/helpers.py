"""Networks and comparisons that several test files share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks import create_network
from metaprune_pl.pruning import PruningGroups


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draw what initialisation leaves at 0 or 1, so that no test is trivial."""
    generator = torch.Generator().manual_seed(seed)

    def between(value: Tensor, low: float, high: float) -> None:
        value.copy_(
            low + (high - low) * torch.rand(value.shape, generator=generator, dtype=value.dtype)
        )

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                if module.weight is not None:
                    between(module.weight, 0.5, 1.5)
                between(module.running_var, 0.5, 1.5)
                between(module.running_mean, -0.5, 0.5)
            if (
                isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.Conv2d | nn.Linear)
                and module.bias is not None
            ):
                between(module.bias, -0.5, 0.5)
        for parameter in network.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                high = 1.5 if bool(parameter.any()) else 0.5 / parameter[0].numel() ** 0.5
                between(parameter, 0.5 if high == 1.5 else -high, high)
    return network.eval()


def random_resnet(depth: int = 8, width: int = 4, *, seed: int = 0, **arguments: Any) -> nn.Module:
    """Return a `cifar_resnet` of random weights, norms and statistics, in evaluation mode."""
    return randomize(
        create_network("cifar_resnet", seed=seed, depth=depth, width=width, **arguments), seed
    )


class PlainNet(nn.Module):
    """Biased, grouped, depthwise convolutions, a 12 x 2 x 2 map and a classifier of 20 -> 7.

    Shapes: [B, 3, 8, 8] -> [B, 7].
    """

    def __init__(self) -> None:
        super().__init__()
        self.biased = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.hidden = nn.Linear(12 * 2 * 2, 20)
        self.classifier = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = F.max_pool2d(torch.relu(self.biased(x)), 2)
        x = torch.relu(self.depthwise(torch.relu(self.norm(self.grouped(x)))))
        x = F.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.classifier(torch.relu(self.hidden(x)))


class ConcatNet(nn.Module):
    """Two branches side by side, a norm over both, and a third branch that skips it.

    Shapes: [B, 3, 8, 8] -> [B, 4].
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 6, 3, padding=1)
        self.right = nn.Conv2d(3, 5, 1, bias=False)
        self.right_norm = nn.BatchNorm2d(5)
        self.norm = nn.BatchNorm2d(11)
        self.merge = nn.Conv2d(16, 8, 3, padding=1)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        left, right = torch.relu(self.left(x)), torch.relu(self.right_norm(self.right(x)))
        both = torch.relu(self.norm(torch.cat([left, right], 1)))
        return self.classifier(torch.relu(self.merge(torch.cat([both, right], 1))).mean((2, 3)))


class CountingNet(nn.Module):
    """Its forward pass names the width of its first convolution.

    Shapes: [B, 3, 8, 8] -> [B, 5].
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.fc(self.second(self.first(x).view(-1, 4, 8, 8)).mean((2, 3)))


def random_kept(groups: PruningGroups, seed: int = 0, share: float = 0.5) -> Tensor:
    """Choose which nodes stay, bool [N]: whole units, and at least one in each group."""
    chosen = torch.rand(len(groups.prunable), generator=torch.Generator().manual_seed(seed)) < share
    for number in range(len(groups.names)):
        chosen[int((groups.group == number).nonzero()[0])] = True
    return (chosen | ~groups.prunable)[groups.unit]


def masked_logits(network: nn.Module, graph: WeightGraph, kept: Tensor, images: Tensor) -> Tensor:
    """Run a network whose removed channels are set to zero wherever a layer gives them out."""
    masks: dict[str, Tensor] = {}
    for connection in graph.connections:
        if connection.parameter is not None:
            masks[connection.parameter.rpartition(".")[0]] = kept[connection.target.flatten()]
    for group in graph.groups:
        for slot, name in group.slots.items():
            if slot.endswith("norm.weight"):
                masks[name.rpartition(".")[0]] = kept[group.start : group.stop]
    hooks = []
    for path, mask in masks.items():

        def zero(module: nn.Module, inputs: Any, output: Tensor, mask: Tensor = mask) -> Tensor:
            return output * mask.to(output).reshape(1, -1, *[1] * (output.dim() - 2))

        hooks.append(network.get_submodule(path).register_forward_hook(zero))
    with torch.no_grad():
        logits = network(images)
    for hook in hooks:
        hook.remove()
    return logits


def relative_error(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of `b`."""
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-30))
