"""Wrong targets, formats, files and flags of what a person starts with: one clear line each."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import random_resnet
from metaprune_pl.__main__ import main
from metaprune_pl.networks import NetworkCard, NetworkSettings, save_network
from metaprune_pl.networks.preprocessing import Preprocessing

PRUNE = ["prune", "net", "--data", "photos", "--finetune_after.epochs=0", "--out=run"]
TRAIN = ["train", "small_cnn", "--data", "photos"]
BENCH = ["benchmark", "net"]

WRONG = [
    ([*PRUNE, "--speed_up", "0"], "speed-ups [0]: give one or more numbers of at least 1"),
    ([*PRUNE, "--speed_up", "many"], "speed_ups: expected a list such as [2, 3], got 'many'."),
    ([*PRUNE, "--speed_ups", "2,2"], "speed-ups [2, 2]: give one or more numbers"),
    ([*PRUNE, "--speed_up", "1000"], "speed-up 1000x is out of reach: at most"),
    ([*PRUNE, "--latency", "2"], "goal.latency is '2': write it as in latency: 0.5 or 12ms."),
    ([*PRUNE, "--latency", "half"], "goal.latency is 'half': write it as in"),
    ([*PRUNE, "--latency", "0"], "goal.latency is '0': give more than 0."),
    ([*PRUNE, "--max_drop", "0%"], "goal.max_drop is '0%': give more than 0."),
    ([*PRUNE, "--masks={}", "--goal.size=1MB"], "give one of them"),
    ([*PRUNE, f"--out={'x' * 256}"], "out: 'xxx"),
    ([*PRUNE, "--out=photos/run"], "'photos/run' would be a class folder of the images in"),
    (["train", "net", "--data", "photos", "--state="], "it takes no arguments and no state"),
    ([*PRUNE, "--latency", "12s"], "goal.latency is '12s': write it as in"),
    ([*PRUNE, "--latency", "99999ms"], "ms already: give less."),
    ([*PRUNE, "--latency", "0.5", "--latency_batch", "0"], "goal: batch and trials are at least 1"),
    ([*PRUNE, "--latency", "0.5", "--runtime", "tensorrt"], "goal.runtime: 'tensorrt' is none of"),
    ([*PRUNE, "--latency", "0.5", "--size", "1MB"], "goal: give a latency, a size or a max_drop"),
    ([*PRUNE, "--size", "2"], "goal.size is '2': write it as in size: 2MB."),
    ([*PRUNE, "--size", "5GB"], " kB already: give less."),
    ([*PRUNE, "--size", "10B"], "is out of reach: at most"),
    ([*PRUNE, "--max_drop", "a little"], "goal.max_drop is 'a little': write it as in max_drop"),
    ([*PRUNE, "--goal.trials=0", "--max_drop=1%"], "goal: batch and trials are at least 1"),
    ([*PRUNE, "--speedup", "2"], "there is no setting 'speedup'. Did you mean 'speed_up'?"),
    ([*PRUNE, "--data", "./nowhere"], "nowhere"),
    ([*PRUNE, "--data", "photos", "--speed_up", "-2"], "speed-up"),
    ([*PRUNE, "--data", "nowhere"], "no folder 'nowhere'. An image folder has"),
    ([*PRUNE, "--data", "empty"], "'empty' has 0 class folders; at least two are needed"),
    (["prune", "no.py:build", "--data", "photos"], "there is no file 'no.py'"),
    (
        ["prune", "deliverer.py:other", "--data", "photos"],
        "module 'deliverer' has no function 'other'",
    ),
    (
        ["prune", "deliverer.py", "--data", "photos"],
        "'deliverer.py' is a file; name the function in it",
    ),
    (["prune", "deliverer.py:nothing", "--data", "photos"], "deliverer:nothing"),
    (
        ["prune", "mine.py:standardized", *PRUNE[2:], "--masks={sparsities: [0.5]}"],
        "masks: a weight is computed from '0.weight' in each pass, and zeros there are not zeros",
    ),
    (
        ["prune", "mine.py:weight_normed", *PRUNE[2:], "--masks={sparsities: [0.5]}"],
        "Make it permanent first (torch.nn.utils.parametrize.remove_parametrizations)",
    ),
    (["prune", "mine.py:old", *PRUNE[2:]], "permanent first (torch.nn.utils.remove_weight_norm)"),
    (["prune", "net", "net", "--data", "photos"], "nrecognized arguments"),
    (
        ["prune", "net", "--data", "photos", "--state", "x.pth"],
        "it takes no arguments and no state",
    ),
    (["prune", "timm/resnet18", "--data", "photos", "--state", "no.pth"], "no.pth"),
    (["train", "resnet", "--data", "photos"], "no network 'resnet'"),
    ([*TRAIN, "--training.epochs", "-1"], "epochs -1 and steps None are at least 0"),
    ([*TRAIN, "--data.image_size", "big"], "data.image_size"),
    ([*TRAIN, "--data.image_size", "0"], "data.image_size is 0: give 1 to 8192 pixels"),
    ([*TRAIN, "--data.image_size", "-5"], "data.image_size is -5: give 1 to 8192 pixels"),
    (["train", "small_cnn", "--data", "~nosuch/x"], "no folder '~nosuch/x'"),
    (["train", "small_cnn"], "--data must be given"),
    (["train", "net", "--data", "other"], "the network tells 2 classes apart and the data have 3"),
    (["export", "net", "--out", "x"], "there is no setting 'out'."),
    (["export", "nowhere"], "no stored network in 'nowhere'"),
    (["export", "net", "--format", "tflite"], "format: 'tflite' is none of onnx, pt2"),
    (["export", "net", "--batch", "0"], "batch is 0: give a number of images of at least 1"),
    (["export", "net", "--format=pt2", "--images", "nowhere"], "no images in 'nowhere'"),
    (["export", "net", "--format=pt2", "--images", "broken.jpg"], "cannot read the image broken"),
    (["export", "grey", "--format=pt2", "--images", "photos"], "does not tell its preprocessing"),
    (["export", "net", "--format=pt2", "--file", "photos"], "file 'photos': the name of such a"),
    (["export", "net", "--file="], "the name of such a file ends in .onnx"),
    (["export", "net", "--file=.."], "the name of such a file ends in .onnx"),
    (["export", "net", "--file=net/network.json"], "the name of such a file ends in .onnx"),
    (["export", "net", "--file=broken.onnx"], "'broken.onnx' is there already"),
    (["export", "net", "--file=net/a.onnx"], "'net' is a stored network. Choose another"),
    (["inspect", "net", "--figure=photos/cat/0.png"], "'photos/cat/0.png' is there already"),
    (["benchmark"], "networks"),
    (["benchmark", "nowhere"], "'nowhere' is no folder of a network, and no file of .onnx, .pt2"),
    (["benchmark", "nowhere.pt2"], "cannot read nowhere.pt2"),
    (["benchmark", "broken.onnx"], "cannot read broken.onnx"),
    (["benchmark", "broken.pt2"], "cannot read broken.pt2"),
    (["benchmark", "broken.torchscript"], "cannot read broken.torchscript"),
    ([*BENCH, "--batches", "0"], "batches and threads are one or more whole numbers"),
    ([*BENCH, "--threads", "1,0"], "batches and threads are one or more whole numbers"),
    ([*BENCH, "--threads", "2147483648"], "give 1024 threads and 65536 images at most"),
    ([*BENCH, "--batches", str(2**63)], "give 1024 threads and 65536 images at most"),
    ([*BENCH, "--seconds", "0"], "seconds is 0: give more than 0"),
    ([*BENCH, "grey"], "net and grey take images of 3x16x16 and 1x8x8"),
]


MINE = """
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm

class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)

def network(layer):
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

def standardized():
    return network(Standardized(3, 8, 3))

def weight_normed():
    return network(parametrizations.weight_norm(nn.Conv2d(3, 8, 3)))

def old():
    return network(weight_norm(nn.Conv2d(3, 8, 3)))
"""


def store(folder: Path, channels: int, side: int) -> None:
    arguments = {"depth": 8, "width": 4, "num_classes": 2, "in_channels": channels}
    settings = NetworkSettings(builder="cifar_resnet", arguments=arguments)
    told = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)) if channels == 3 else None
    shape = (channels, side, side)
    card = NetworkCard(settings=settings, input_shape=shape, preprocessing=told)
    save_network(folder, random_resnet(**arguments), card)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, three folders of images, code of one's own, and broken files."""
    folder = tmp_path_factory.mktemp("wrong")
    store(folder / "net", 3, 16)
    store(folder / "grey", 1, 8)
    (folder / "empty").mkdir()
    (folder / "runs").mkdir()
    for name in ("photos/cat", "photos/dog", "other/cat", "other/dog", "other/eel"):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    (folder / "deliverer.py").write_text("def nothing():\n    return None\n")
    (folder / "mine.py").write_text(MINE)
    for name in ("broken.jpg", "broken.onnx", "broken.pt2", "broken.torchscript"):
        (folder / name).write_text("nothing of the kind")
    return folder


@pytest.mark.parametrize(("args", "said"), WRONG, ids=lambda value: str(value)[:60])
def test_one_clear_line(
    args: list[str],
    said: str,
    scene: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(scene)
    monkeypatch.setenv("XDG_CACHE_HOME", str(scene / "cache"))
    before = {path for path in scene.rglob("*") if "cache" not in path.parts}
    with pytest.raises(SystemExit) as stop:
        main(args)
    message = capsys.readouterr().err
    lines = [line for line in message.splitlines() if line and not line.startswith("See '")]
    assert stop.value.code in {1, 2} and lines[-1].startswith("error: ") and said in lines[-1], (
        message
    )
    assert {path for path in scene.rglob("*") if "cache" not in path.parts} == before
