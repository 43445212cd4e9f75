"""Images and folders as cameras, editors and systems leave them."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fake_data import pixels
from metaprune_pl.data import ImageFolder, Mixing, Normalization, StreamedImageFolder
from metaprune_pl.data import files as data_files
from metaprune_pl.data.files import list_images, path_of, read_image
from metaprune_pl.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three images each, 8x6 pixels."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number, image in enumerate(pixels(3, label, 8)):
            Image.fromarray(image[:6]).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def names(folder: Path) -> list[str]:
    return [os.fsdecode(name) for name in list_images(folder)[0]]


def module(folder: Path, **settings: object) -> ImageFolder:
    common = {"folder": str(folder), "cache": str(folder.parent / "cache"), **settings}
    return ImageFolder(**common)  # type: ignore[arg-type]


# Grey of more bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_grey_of_16_bits_is_scaled(suffix: str, mode: str, tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    expected = Image.fromarray(grey).convert(mode)
    assert np.array_equal(np.asarray(read_image(path, mode)), np.asarray(expected))


def test_grey_of_floats_is_scaled_from_0_to_1(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.tif", "L")), grey)


@pytest.mark.parametrize("value", [2.0, -1.0, float("nan")])
def test_floats_that_are_no_shades_are_refused(value: float, tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: grey goes from 0 to 1, and this one's does not"):
        read_image(tmp_path / "a.tif")


def test_that_they_are_scaled_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_files._tell_scaled.cache_clear()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            read_image(tmp_path / "a.png")
    assert caplog.text.count("scaled to 0 to 255") == 1


# EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_cameras_noted(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels(1, 0, 8)[0][:6])
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as file:
        expected = ImageOps.exif_transpose(file)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), np.asarray(expected))
    untouched = read_image(tmp_path / "a.png", exif=False)
    assert np.array_equal(np.asarray(untouched), np.asarray(image))


def test_exif_is_a_setting_that_the_cache_knows(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in folder.rglob("*.png"):
        with Image.open(path) as file:
            file.load()
            file.save(path, exif=exif)
    shapes = [module(folder, exif=exif).input_shape for exif in (True, False, True)]
    assert shapes == [(3, 8, 6), (3, 6, 8), (3, 8, 6)]
    assert len(list((folder.parent / "cache").iterdir())) == 2


# Folders


def test_what_editors_and_systems_hide_is_ignored(folder: Path) -> None:
    expected = names(folder)
    for hidden in ("cat/.ipynb_checkpoints", ".ipynb_checkpoints", "cat/__MACOSX", "__MACOSX"):
        (folder / hidden).mkdir()
        shutil.copy(folder / "cat" / "0.png", folder / hidden / "0.png")
    (folder / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    assert names(folder) == expected


@pytest.mark.parametrize("target", ["cat", ".", "..", "dog", "cat/loop"])
def test_links_to_folders_end_and_count_no_image_twice(target: str, folder: Path) -> None:
    expected = names(folder)
    (folder / "cat" / "loop").symlink_to(folder / target)
    assert names(folder) == expected


def test_a_folder_elsewhere_that_two_links_lead_to_counts_once(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(folder / "cat" / "0.png", tmp_path / "more" / "new.png")
    for link in ("one", "two"):
        (folder / "cat" / link).symlink_to(tmp_path / "more")
    assert [name for name in names(folder) if name.endswith("new.png")] == ["cat/one/new.png"]


@pytest.mark.parametrize("make", ["link", "loop", "pipe"])
def test_what_is_no_file_is_refused(make: str, folder: Path) -> None:
    path = folder / "cat" / "x.png"
    if make == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if make == "loop" else folder / "gone.png")
    with pytest.raises(DataError, match=r"x\.png is no file"):
        list_images(folder)


def test_names_that_are_no_utf_8_and_have_brackets(folder: Path) -> None:
    odd = os.fsencode(folder) + b"/[red]\xff"
    os.rename(os.fsencode(folder / "cat"), odd)
    os.rename(odd + b"/0.png", odd + b"/\xfe[bold].png")
    images = module(folder, validation_share=0.4, test_share=0.4)
    assert images.count("train") == 2
    found = list_images(folder)[0]
    assert all(path_of(folder, name).is_file() for name in found)
    first = module(folder, validation_share=0.4, test_share=0.4)  # from the cache
    assert torch.equal(first.splits.train.images, images.splits.train.images)


# Sizes


def test_a_decompression_bomb_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # twice as many are refused
    with pytest.raises(DataError, match=r"cannot read the image .*decompression bomb"):
        read_image(folder / "cat" / "0.png")


def test_a_ribbon_takes_no_gigabytes(folder: Path) -> None:
    for part in ("train", "val"):
        shutil.copytree(folder, folder.parent / "stream" / part)
    for path in (folder.parent / "stream" / "val").rglob("*.png"):
        Image.new("RGB", (60_000, 1), (7, 8, 9)).save(path)
    data = StreamedImageFolder(
        folder=str(folder.parent / "stream"), image_size=128, workers=0, validation_share=0.4
    )
    (batch,) = data.eval_loader("test")
    assert batch.images.shape == (6, 3, 128, 128)
    assert batch.images.float().mean((0, 2, 3)).tolist() == [7, 8, 9]


# The cache


def test_a_cache_of_something_else_is_decoded_anew(folder: Path) -> None:
    whole = module(folder).splits.train
    (cached,) = (folder.parent / "cache").iterdir()
    for damage in (b"", b"\xff" * 64):
        cached.write_bytes(damage)
        assert torch.equal(module(folder).splits.train.images, whole.images)
    cached.unlink()
    cached.mkdir()
    assert torch.equal(module(folder).splits.train.images, whole.images)


def test_a_cache_that_cannot_be_written_is_done_without(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.parent / "cache").write_text("a file")
    with caplog.at_level(logging.INFO):
        assert module(folder).count("train") > 0
    assert "Decoded images are not kept" in caplog.text


# Settings


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="finite"):
        Mixing(mixup=value)
    with pytest.raises(ConfigError, match="finite"):
        Normalization(mean=(0.5,), std=(value,))
