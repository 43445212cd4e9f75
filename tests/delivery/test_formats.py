"""A file of each format gives what the network gives, and tells how to feed it."""

import errno
import json
import os
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
from metaprune_pl.delivery.predict import script_beside
from metaprune_pl.errors import DataError
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    load_network,
    read_card,
    save_network,
)
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


def test_only_an_earlier_export_is_replaced(workdir: Path) -> None:
    store("net")
    main(["export", "net", "--format=pt2"])
    main(["export", "net", "--format=pt2"])
    for name in ("net/weights.safetensors", "net/other.safetensors"):
        with pytest.raises(SystemExit):
            main(["export", "net", "--format=safetensors", f"--file={name}"])
    assert load_network("net") is not None
    own = {
        "mine.pt2": "a file of my own",
        "predict_fresh_pt2.py": "a program of my own",
        "notes.txt": "metaprune input_shape",
    }
    for name, text in own.items():
        Path(name).write_text(text)
    for name in ("mine.pt2", "fresh.pt2", "notes.txt", "link.pt2"):
        Path("link.pt2").unlink(missing_ok=True)
        Path("link.pt2").symlink_to("notes.txt")
        with pytest.raises(SystemExit):
            main(["export", "net", "--format=pt2", f"--file={name}"])
    assert {name: Path(name).read_text() for name in own} == own
    assert not Path("fresh.pt2").exists() and Path("link.pt2").is_symlink()


def test_a_program_for_each_file_whatever_its_name(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (image, *_) = draw(workdir / "photos", 1)
    network = store("net")
    with torch.no_grad():
        network.get_parameter("fc.bias").sub_(1000)
    save_network("one", network, read_card("net"))
    names = ['two/a".torchscript', "two/b\n'.torchscript"]
    for folder, name in zip(("net", "one"), names, strict=True):
        main(["export", folder, "--format=torchscript", f"--file={name}", "--json"])
    capsys.readouterr()
    for name in names:
        script = str(script_beside(Path(name), FORMATS["torchscript"]))
        monkeypatch.setattr(sys, "argv", [script, str(image)])
        assert runpy.run_path(script)["path"].endswith(name)
        monkeypatch.setattr(sys, "argv", [script, "none.jpg"])
        with pytest.raises(SystemExit, match=r"(?s)usage: python .* IMAGE"):
            runpy.run_path(script, run_name="__main__")
        monkeypatch.setattr(sys, "argv", [script, script])
        with pytest.raises(SystemExit, match=r"is no image that can be read: cannot identify"):
            runpy.run_path(script, run_name="__main__")


@pytest.mark.parametrize("name", ["pt2", "safetensors"])
def test_scores_that_are_no_numbers_are_no_agreement(
    name: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = store("net")
    network.get_buffer("bn1.running_var").fill_(-1)
    save_network("net", network, read_card("net"))
    with pytest.raises(SystemExit):
        main(["export", "net", f"--format={name}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "NaN or infinity" in line
    assert not Path(f"net.{name}").exists()


@pytest.mark.parametrize("name", ["pt2", "torchscript", "safetensors"])
def test_a_full_disk_is_told_of(
    name: str,
    workdir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store("net")

    def full(path: Path, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SystemExit):
        main(["export", "net", f"--format={name}"])
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("Free some space; the same command then continues.")
    )
    assert {path.name for path in workdir.iterdir()} == {"net"}


def test_what_is_stored_is_as_open_as_any_file(workdir: Path) -> None:
    before = os.umask(0o027)
    try:
        store("net")
        main(["export", "net", "--format=safetensors"])
    finally:
        os.umask(before)
    for name in ("net/weights.safetensors", "net/network.json", "net.safetensors"):
        assert Path(name).stat().st_mode & 0o777 == 0o640


def test_pipes_are_no_images(workdir: Path) -> None:
    paths = draw(workdir / "photos", 2)
    os.mkfifo("photos/x.jpg")
    facts = Facts(input_shape=(3, SIDE, SIDE), preprocessing=TOLD)
    assert len(read_images(workdir / "photos", facts, 8)) == len(paths)
    with pytest.raises(DataError, match="no images"):
        read_images(workdir / "photos/x.jpg", facts, 8)


def test_a_file_says_how_many_images_it_takes(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store("net")
    main(["export", "net", "--format=torchscript", "--batch=4"])
    with pytest.raises(SystemExit):
        main(["benchmark", "net", "net.torchscript", "--seconds=0.001"])
    assert "was exported for 4 images at once: give --batches 4" in capsys.readouterr().err
    main(["benchmark", "net", "net.torchscript", "--batches=4", "--seconds=0.001"])


@pytest.mark.parametrize("shape", [[3, 16, 15], [-3, 16, 16], [1], [2**63, 1, 1], "[" * 100_000])
def test_odd_metadata_end_in_one_line(
    shape: object, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ torch.ones(3 * SIDE * SIDE, 2)

    facts = Facts(input_shape=(3, SIDE, SIDE))
    text = shape if isinstance(shape, str) else json.dumps({"input_shape": shape})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Facts, "text", text)
        FORMATS["onnx"].write(Fixed(), facts, Path("odd.onnx"), None)
    with pytest.raises(SystemExit):
        main(["benchmark", "odd.onnx", "--seconds=0.001"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "odd.onnx" in line
