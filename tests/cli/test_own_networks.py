"""Networks of one's own that cannot be taken.

One clear message each, of `inspect` and of `prune`.
"""

from pathlib import Path

import pytest
from test_errors import fails

from metaprune_pl.__main__ import main

OWN = """
import torch
from torch import nn

class Sorted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 10)
    def forward(self, x):
        return self.fc(torch.sort(self.conv(x).mean((2, 3)), 1).values)

class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
    def forward(self, x, y):
        return self.fc((x + y).flatten(1))

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def quantised():
    return torch.ao.quantization.quantize_dynamic(linear())

def branching():
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else super().forward(-x)
    return Branching(*linear())
"""


@pytest.fixture
def module(workdir: Path, request: pytest.FixtureRequest) -> str:
    name = f"mine_{abs(hash(request.node.nodeid))}"
    (workdir / f"{name}.py").write_text(OWN)
    return name


CASES = {
    "TwoInputs": "argument: 'y'",
    "quantised": "the network is quantised (layer '1' is a Linear). Prune it before quantisation.",
    "branching": "the network's forward pass decides by the values of its input (",
}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("command", ["inspect", "prune"])
def test_one_message(
    name: str, command: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "inspect":
        args = ["inspect", f"{module}:{name}", "--input_shape=1,8,8"]
    else:
        args = [
            "prune",
            "--config=prune_quickstart.yaml",
            f"--network={module}:{name}",
            "--metanetwork=null",
        ]
    status, message = fails(args, capsys)
    assert status == 1
    assert CASES[name] in message


SORTED = "operator 'aten.sort.default' along the channels is not supported: module 'the network'"


def test_inspect_names_an_operation_that_is_not_followed(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    main(["inspect", f"{module}:Sorted", "--input_shape=1,8,8"])
    assert SORTED in capsys.readouterr().out


def test_prune_names_it_where_nothing_else_can_be_pruned(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [
        "prune",
        "--config=prune_quickstart.yaml",
        f"--network={module}:Sorted",
        "--metanetwork=null",
    ]
    status, message = fails(args, capsys)
    assert status == 1 and SORTED in message


def test_nothing_to_prune(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = [
        "prune",
        "--config=prune_quickstart.yaml",
        f"--network={module}:linear",
        "--metanetwork=null",
    ]
    status, message = fails(args, capsys)
    assert status == 1
    assert (
        "nothing can be pruned in this network: all its channels are the image's or the classes', "
        "or tied to them" in message
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["cifar_resnet", "--input_shape=3;8"],
            "input_shape '3;8': give channels, height and width, as in 3,224,224; or a word for",
        ),
        (["cifar_resnet", "--figure=graph.doc"], "the name of a picture ends in .png, .pdf, .svg."),
        (["cifar_resnet", "--arguments={depth: 9}"], "depth 9 is not 6n + 2"),
        (["cifar_resnet", "--input_shape=1,8,8"], "cannot be exported with an input of 1x8x8"),
        (
            ["mixer_b16_224", "--input_shape=3,100,100"],
            "cannot be exported with an input of 3x100x100",
        ),
        (["net.py:build"], "there is no file 'net.py' for the network 'net.py:build'."),
        (["./my/net.py"], "there is no file './my/net.py' for the network './my/net.py'."),
        (
            ["/my/net.py:build"],
            "there is no file '/my/net.py' for the network '/my/net.py:build'.",
        ),
        (["nowhere:build"], "cannot import 'nowhere' for the network 'nowhere:build'"),
        (["cifar_resnet", "--state=none.pt"], "no file 'none.pt'"),
    ],
)
def test_inspect(
    args: list[str], said: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = fails(["inspect", *args], capsys)
    assert status == 1
    assert said in message
    assert list(workdir.iterdir()) == []
