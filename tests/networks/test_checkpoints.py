"""Public layouts of CIFAR ResNet checkpoints load, are pruned to 2x and equal their masks."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import masked_logits, randomize
from metaprune_pl.errors import StorageError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import NetworkSource, create_network
from metaprune_pl.pruning import Magnitude, PruningSettings, count_macs, find_groups, plan, remove

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A block as public programs write it, with their names of shortcut and classifier."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.outputs, self.option = outputs, shortcut
        self.path = nn.Identity()
        if inputs != outputs and shortcut != "pad":
            layers = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
            del self.path
            self.add_module(shortcut, layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.option == "pad":
            if x.shape[1] != self.outputs:
                x = F.pad(
                    x[:, :, ::2, ::2],
                    (0, 0, 0, 0, self.outputs // 4, self.outputs // 4),
                    "constant",
                    0,
                )
        else:
            x = getattr(self, self.option, nn.Identity())(x)
        return F.relu(y + x)


class Public(nn.Module):
    def __init__(self, depth: int, shortcut: str, classifier: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for number, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
            blocks = [Block(inputs, outputs, outputs // inputs, shortcut)]
            blocks += [Block(outputs, outputs, 1, shortcut) for _ in range((depth - 8) // 6)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.classifier = classifier
        self.add_module(classifier, nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.get_submodule("layer3")(
            self.get_submodule("layer2")(self.get_submodule("layer1")(x))
        )
        return self.get_submodule(self.classifier)(F.avg_pool2d(x, x.shape[3]).flatten(1))


LAYOUTS = {
    "akamaster, option A": ("pad", "linear", "module."),
    "akamaster, option B": ("shortcut", "linear", "module."),
    "chenyaofo": ("downsample", "fc", ""),
    "weiaicunzai": ("residual", "linear", ""),
}
"""Layout to its shortcut, its classifier and the prefix of its names."""


def checkpoint(layout: str, depth: int = 20) -> nn.Module:
    """Write `state.th` in a layout, without batch counters in an old one; return its network."""
    shortcut, classifier, prefix = LAYOUTS[layout]
    network = randomize(Public(depth, shortcut, classifier), 3)
    state = {
        f"{prefix}{name}": v
        for name, v in network.state_dict().items()
        if "num_batches" not in name or not prefix
    }
    torch.save({"state_dict": state, "best_prec1": 91.25} if prefix else state, "state.th")
    return network


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_public_checkpoint_loads_is_pruned_and_equals_its_masked_self(
    layout: str, workdir: Path
) -> None:
    expected = checkpoint(layout)
    arguments = {"depth": 20, "shortcut": "pad" if LAYOUTS[layout][0] == "pad" else "conv"}
    network, card = NetworkSource(
        network="cifar_resnet", arguments=arguments, state="state.th"
    ).open()
    assert card.input_shape == (3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGES), expected(IMAGES), rtol=1e-4, atol=1e-5)
    image = IMAGES[:1]
    graph, macs = trace(network, image), count_macs(network, image)
    settings = PruningSettings(step=0.05)
    (kept,) = plan(find_groups(graph), network.state_dict(), Magnitude(), settings, [macs / 2])
    small = remove(network, graph, kept)
    assert 2.0 <= macs / count_macs(small, image) < 2.1
    torch.testing.assert_close(
        small(IMAGES), masked_logits(network, graph, kept, IMAGES), rtol=1e-3, atol=1e-4
    )


def test_a_checkpoint_of_other_names_throughout_loads_by_its_order(workdir: Path) -> None:
    expected = create_network("cifar_resnet", seed=2, depth=20, num_classes=100)
    paths = {name.rpartition(".")[0]: None for name in expected.state_dict()}
    renamed = {
        path: f"features.unit{number}.{'conv' if number % 2 else 'bn'}"
        for number, path in enumerate(paths)
    }
    state = {
        f"{renamed[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": v
        for n, v in expected.state_dict().items()
    }
    torch.save(state, "state.pth")
    source = NetworkSource(
        network="cifar_resnet", arguments={"depth": 20, "num_classes": 100}, state="state.pth"
    )
    found = source.open()[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())
    shuffled = dict(sorted(state.items(), key=lambda item: len(item[0])))
    torch.save({name: value for name, value in shuffled.items()}, "state.pth")
    with pytest.raises(StorageError, match="the state does not fit the network"):
        source.open()


@pytest.mark.parametrize("depth", [32, 44, 56])
def test_other_depths_load(depth: int, workdir: Path) -> None:
    expected = checkpoint("akamaster, option A", depth)
    source = NetworkSource(
        network="cifar_resnet", arguments={"depth": depth, "shortcut": "pad"}, state="state.th"
    )
    with torch.no_grad():
        torch.testing.assert_close(
            source.open()[0](IMAGES[:1]), expected(IMAGES[:1]), rtol=1e-4, atol=1e-5
        )
