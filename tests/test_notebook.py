"""What `import metaprune_pl` offers, on networks as they come from elsewhere."""

import itertools
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import metaprune_pl
from helpers import random_resnet
from metaprune_pl.data import Digits
from metaprune_pl.data.augmentation import Augmentation
from metaprune_pl.errors import ConfigError, NetworkError, StorageError, TraceError
from metaprune_pl.metanetworks import PNAMetanetwork, save_metanetwork
from metaprune_pl.networks import NetworkCard, NetworkSettings, save_network
from metaprune_pl.pipelines.prune import prune
from metaprune_pl.pruning import Importance, Magnitude, Taylor, UnitTaylor, count_macs
from metaprune_pl.stages.training_settings import FinetuneSettings


def test_a_torchvision_network_is_pruned_to_2x_in_three_lines() -> None:
    network = torchvision.models.resnet18()
    pruned = metaprune_pl.prune(network, speed_up=2)
    images = torch.randn(2, 3, 224, 224)
    assert pruned(images).shape == (2, 1000) and network.training and not pruned.training
    assert 2 <= count_macs(network, images[:1]) / count_macs(pruned, images[:1]) < 2.1
    layers = zip(network.modules(), pruned.modules(), strict=True)
    widths = [(a.out_channels, b.out_channels) for a, b in layers if isinstance(a, nn.Conv2d)]
    assert all(10 * left >= width for width, left in widths)  # no layer collapses


@pytest.mark.parametrize("kind", ["dict", "ndarray", "Tensor of shape"])
def test_images_that_are_none_are_refused(kind: str) -> None:
    images = torch.randn(16, 3, 8, 8)
    given: dict[str, Any] = {
        "dict": [{"images": images}],
        "ndarray": images.numpy(),
        "Tensor of shape": (images, torch.zeros(16)),
    }
    network, example = random_resnet(8, 8), torch.zeros(1, 3, 8, 8)
    with pytest.raises(ConfigError, match=f"a batch is a {kind}"):
        metaprune_pl.prune(network, 1.5, example=example, images=given[kind])


@pytest.mark.parametrize("criterion", [Taylor(), UnitTaylor()])
def test_a_criterion_of_the_loss_refuses_images_without_labels(criterion: Importance) -> None:
    network, images = random_resnet(8, 8), torch.randn(16, 3, 8, 8)
    wrong: list[tuple[Any, str]] = [
        (images, "of 16 images 0 have a label. Give pairs of images and labels"),
        ([[images]], "of 16 images 0 have a label"),
        ([(images, torch.full((16,), 99))], "99 is out of bounds. Labels are numbers of classes"),
        ([(images, torch.zeros(16))], "Labels are numbers of classes"),
    ]
    for given, said in wrong:
        with pytest.raises(ConfigError, match=said):
            metaprune_pl.prune(network, 1.5, example=images[:1], criterion=criterion, images=given)


def test_with_images_a_pruned_network_comes_closer_to_what_it_was() -> None:
    network = random_resnet(8, 8).eval()
    example = torch.zeros(1, 3, 8, 8)
    images = torch.randn(64, 3, 8, 8)
    batches = [(part, torch.zeros(len(part))) for part in images.split(16)]
    blind = metaprune_pl.prune(network, 1.5, example=example)
    seen = metaprune_pl.prune(network, 1.5, example=example, images=lambda: batches)
    parts = [part for part, _ in batches]
    for given in (images, batches, parts, iter(parts), lambda: parts, lambda: images):
        same = metaprune_pl.prune(network, 1.5, example=example, images=given)
        assert all(map(torch.equal, same.state_dict().values(), seen.state_dict().values()))
    unseen = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        errors = [float((each(unseen) - network(unseen)).norm()) for each in (blind, seen)]
    assert errors[1] < errors[0]


FLAT = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()]
OF_ITS_OWN_SIZE: dict[str, tuple[nn.Module, Tensor]] = {
    "flat": (nn.Sequential(*FLAT, nn.Linear(256, 3)), torch.randn(16, 3, 8, 8)),
    "rows": (nn.Sequential(nn.Linear(7, 40), nn.ReLU(), nn.Linear(40, 3)), torch.randn(64, 7)),
    "double": (random_resnet(8, 8).double(), torch.randn(16, 3, 8, 8).double()),
    "half": (random_resnet(8, 8).bfloat16(), torch.randn(16, 3, 8, 8).bfloat16()),
}


@pytest.mark.parametrize("kind", OF_ITS_OWN_SIZE)
def test_images_tell_shape_and_type_of_the_input(kind: str) -> None:
    network, images = OF_ITS_OWN_SIZE[kind]
    pruned = metaprune_pl.prune(network, 1.5, images=images)
    same = metaprune_pl.prune(network, 1.5, example=images[:1], images=images)
    assert all(map(torch.equal, pruned.state_dict().values(), same.state_dict().values()))
    assert count_macs(network, images) >= 1.5 * count_macs(pruned, images)


def test_images_may_have_no_end() -> None:
    network, images = random_resnet(8, 8), torch.randn(64, 3, 8, 8)
    pruned = metaprune_pl.prune(network, 1.5, images=itertools.repeat(images))
    same = metaprune_pl.prune(network, 1.5, images=[images] * 16)
    assert all(map(torch.equal, pruned.state_dict().values(), same.state_dict().values()))


def test_a_guessed_input_is_told_and_none_is_refused() -> None:
    network, _ = OF_ITS_OWN_SIZE["flat"]
    with pytest.raises(TraceError, match="guessed: give example=INPUT"):
        metaprune_pl.prune(network)
    with pytest.raises(ConfigError, match="images: there are none"):
        metaprune_pl.prune(network, images=[])


class _Log(nn.Linear):
    """A layer that holds what is no tensor."""

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.lines = (line for line in "ab")


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("net.py:build", "is a str: give an instance"),
        (nn.Linear, "is a class: give an instance"),
        (nn.Linear(3, 4, device="meta"), "is on the meta device"),
        (nn.Sequential(nn.LazyConv2d(8, 3)), "is not initialised"),
        (_Log(), "cannot be copied"),
    ],
)
def test_what_is_no_network_is_told_in_a_line(network: Any, said: str) -> None:
    calls = (metaprune_pl.trace, metaprune_pl.prune, partial(metaprune_pl.rewrite, metanetwork="."))
    for call in calls:
        with pytest.raises(NetworkError, match=rf"^the network {said}[^\n]*$"):
            call(network)


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("prune", {}, "'prune' is no function"),
        (prune, {"data": Digits(), "network": "net", "speed_up": 2}, "no argument 'speed_up'. Did"),
        (prune, {"data": Digits()}, "prune needs the argument 'network'"),
        (prune, {"network": "net"}, "prune needs the argument 'data'"),
        (
            prune,
            {"network": "net", "data": "photos"},
            "data is a str, not of class ImageDataModule",
        ),
    ],
)
def test_arguments_that_a_command_has_not_are_told(
    command: Any, arguments: dict[str, Any], said: str, workdir: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        metaprune_pl.run(command, "out", **arguments)
    assert not any(workdir.iterdir())
    with pytest.raises(ConfigError, match="builder is 'net:build': give the function itself"):
        metaprune_pl.load_network("out", builder="net:build")  # type: ignore[arg-type]


def test_a_speed_up_that_makes_no_sense_is_refused() -> None:
    for value in (0.5, "2", None):
        with pytest.raises(ConfigError, match="at least 1"):
            metaprune_pl.prune(random_resnet(), speed_up=value, example=torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]


def test_an_untrained_metanetwork_leaves_a_network_as_it_is(tmp_path: Path) -> None:
    network = random_resnet(8, 4)
    metanetwork = PNAMetanetwork(schema="resnet", hidden=8, layers=1)
    save_metanetwork(tmp_path / "metanetwork", metanetwork, {})
    example = torch.zeros(1, 3, 8, 8)
    for given in (metanetwork, tmp_path / "metanetwork"):
        rewritten = metaprune_pl.rewrite(network, given, example)
        assert rewritten is not network
        for name, value in network.state_dict().items():
            torch.testing.assert_close(rewritten.state_dict()[name], value)
    assert metaprune_pl.trace(network, example).num_nodes > 3


CALL: dict[str, Any] = {
    "network": "net",
    "speed_ups": (1.5,),
    "latency_batches": (1,),
    "finetune": FinetuneSettings(epochs=0),
    "finetune_after": FinetuneSettings(epochs=1),
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 2}, "holds another run (rounds: 1 -> 2)"),
        ({"data": Digits(seed=1)}, "(data.init_args.seed: 0 -> 1)"),
        ({"data": Digits(augmentation=Augmentation())}, "shift: 1 -> 0"),
        ({"finetune_after": FinetuneSettings(epochs=0)}, "finetune_after.init_args.epochs: 1 -> 0"),
        ({"criterion": Magnitude(p=1.0)}, "criterion"),
    ],
)
def test_a_command_called_again_is_the_same_run_or_refused(
    change: dict[str, Any], said: str, workdir: Path
) -> None:
    settings = NetworkSettings(arguments={"depth": 8, "width": 4, "in_channels": 1})
    network = random_resnet(in_channels=1)
    save_network("net", network, NetworkCard(settings=settings, input_shape=(1, 8, 8)))
    call = {"data": Digits(), **CALL}
    (first,) = metaprune_pl.run(prune, "out", **call)
    before = {path: path.read_bytes() for path in Path("out/speed_up_1.5").rglob("*.*")}
    for again in (call, {**call, "data": Digits()}):
        (second,) = metaprune_pl.run(prune, "out", **again)
        assert second.accuracy_finetuned == first.accuracy_finetuned
    with pytest.raises(StorageError, match=re.escape(said)):
        metaprune_pl.run(prune, "out", **{**call, **change})
    more = metaprune_pl.run(prune, "out", **{**call, "speed_ups": (1.5, 1.6)})
    assert [result.target for result in more] == [1.5, 1.6]
    assert more[0].accuracy_finetuned == first.accuracy_finetuned
    assert {path: path.read_bytes() for path in before} == before


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, metaprune_pl; print('torch' in sys.modules, hasattr(metaprune_pl, 'magic'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_module_in_place_of_its_folder_is_told(workdir: Path) -> None:
    with pytest.raises(ConfigError, match="network is a CifarResNet: give its name, or its folder"):
        metaprune_pl.run(prune, "out", network=random_resnet(), data=Digits())
