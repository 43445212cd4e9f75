"""A file of each format gives what the network gives, and tells how to feed it."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from helpers import random_resnet
from metaprune_pl.__main__ import main
from metaprune_pl.delivery import FORMATS, Facts
from metaprune_pl.delivery.images import read_images
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.networks.preprocessing import Preprocessing
from metaprune_pl.notebook import prune

SIDE = 16
TOLD = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), classes=["cat", "dog", "eel"])


def store(
    folder: str, preprocessing: Preprocessing = TOLD, images: Tensor | None = None
) -> nn.Module:
    """Store a pruned network of three classes, which differ on images, and return it."""
    arguments = {"depth": 8, "width": 8, "num_classes": 3, "in_channels": 3}
    network = prune(random_resnet(**arguments), 2.0, example=torch.zeros(1, 3, SIDE, SIDE))
    if images is not None:
        with torch.no_grad():
            network.get_parameter("fc.bias").sub_(network(images).mean(0))
    settings = NetworkSettings(builder="cifar_resnet", arguments=arguments)
    card = NetworkCard(settings=settings, input_shape=(3, SIDE, SIDE), preprocessing=preprocessing)
    save_network(folder, network, card)
    return network


def draw(folder: Path, count: int = 5) -> list[Path]:
    """Write JPEGs of several sizes, one turned by its EXIF note."""
    folder.mkdir()
    paths = []
    for index in range(count):
        generator = np.random.default_rng(index)
        coarse = generator.integers(0, 256, (3, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize((30 + 5 * index, 24), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6 if index == 1 else 1
        paths.append(folder / f"{index}.jpg")
        image.save(paths[-1], quality=95, exif=exif)
    return paths


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_gives_what_the_network_gives(
    name: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = store("net")
    draw(workdir / "photos")
    main(["export", "net", "--format", name, "--images", "photos", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["difference"] <= 1e-5 and result["images"] == 5
    kind, path = FORMATS[name], workdir / result["file"]
    for size in (1, 4):
        images = torch.randn(size, 3, SIDE, SIDE)
        with torch.no_grad():
            assert torch.allclose(kind.scores(path, network, images), network(images), atol=1e-5)


@pytest.mark.parametrize("crop", [None, 0.8])
@pytest.mark.parametrize("name", ["onnx", "pt2", "torchscript"])
def test_a_jpeg_in_the_same_class_out(
    name: str,
    crop: float | None,
    workdir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Preprocessing(mean=TOLD.mean, std=TOLD.std, classes=TOLD.classes, crop=crop)
    paths = draw(workdir / "photos")
    facts = Facts(input_shape=(3, SIDE, SIDE), preprocessing=told)
    network = store("net", told, read_images(workdir / "photos", facts, 5))
    main(["export", "net", f"--format={name}", "--json"])
    script = json.loads(capsys.readouterr().out)["script"]
    with torch.no_grad():
        shares = network(read_images(workdir / "photos", facts, 5)).softmax(1)
    assert len(set(shares.argmax(1).tolist())) > 1  # else any class would do
    for path, own in zip(paths, shares, strict=True):
        monkeypatch.setattr(sys, "argv", [script, str(path)])
        runpy.run_path(script, run_name="__main__")
        best = int(own.argmax())
        assert capsys.readouterr().out == f"{TOLD.classes[best]} ({100 * own[best]:.1f} %)\n"


def test_preprocessing_travels_with_the_network(workdir: Path) -> None:
    store("net")
    stored = json.loads(Path("net/network.json").read_text())["preprocessing"]
    assert stored["classes"] == TOLD.classes and stored["mean"] == list(TOLD.mean)
    assert load_network("net") is not None


def test_a_network_for_one_size_of_batch(workdir: Path) -> None:
    network = store("net")
    main(["export", "net", "--format=pt2", "--batch=2"])
    images = torch.randn(2, 3, SIDE, SIDE)
    given = FORMATS["pt2"].scores(Path("net.pt2"), network, images)
    assert torch.allclose(given, network(images), atol=1e-5)


def test_networks_and_files_are_timed_in_turn(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store("timed")
    main(["export", "timed", "--format=onnx"])
    Path("timed.py").write_text("raise SystemExit\n")  # a module of that name is not looked at
    capsys.readouterr()
    flags = ["--batches", "1,3", "--threads", "1", "--seconds=0.001", "--json"]
    main(["benchmark", "timed", "timed.onnx", *flags])
    result = json.loads(capsys.readouterr().out)
    assert [s["program"] for s in result["subjects"]] == ["PyTorch", "ONNX Runtime"]
    assert [(s["batch"], s["threads"]) for s in result["setups"]] == [(1, 1), (3, 1)]
    for setup in result["setups"]:
        for time in setup["times"].values():
            assert 0 < time["low"] <= time["median"] <= time["high"]
