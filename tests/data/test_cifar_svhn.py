"""CIFAR-10, CIFAR-100 and SVHN from files of their formats."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fake_data import fake_cifar, fake_svhn, pixels
from metaprune_pl.data import CIFAR10, CIFAR100, SVHN, Augmentation, Batch, Normalization
from metaprune_pl.data.cifar_svhn import PublicImages
from metaprune_pl.errors import ConfigError, DataError

SETS: dict[type[PublicImages], Any] = {
    CIFAR10: fake_cifar,
    CIFAR100: lambda root: fake_cifar(root, classes=100),
    SVHN: fake_svhn,
}


@pytest.fixture(params=SETS, ids=lambda kind: kind.__name__)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> PublicImages:
    SETS[request.param](tmp_path)
    made: PublicImages = request.param(root=str(tmp_path), batch_size=8, validation_share=0.2)
    return made


def test_every_training_image_is_in_one_part_and_each_part_has_all_classes(
    data: PublicImages,
) -> None:
    train, validation, test = data.splits
    files = 5 if type(data) is CIFAR10 else 1
    assert len(train.labels) + len(validation.labels) == files * 6 * data.num_classes
    every = torch.cat([train.images, validation.images]).flatten(1)
    assert len(torch.unique(every, dim=0)) == len(every)
    for part in data.splits:
        assert (
            torch.bincount(part.labels).tolist()
            == [len(part.labels) // data.num_classes] * data.num_classes
        )
    assert (data.num_classes, data.input_shape) == (
        100 if type(data) is CIFAR100 else 10,
        (3, 32, 32),
    )
    assert len(test.labels) == 6 * data.num_classes


def test_pixels_and_labels_are_those_of_the_file(data: PublicImages) -> None:
    seed = 5 if type(data) is CIFAR10 else 1
    test = data.splits.test
    assert torch.equal(
        test.images, torch.from_numpy(pixels(len(test.labels), seed).transpose(0, 3, 1, 2).copy())
    )
    first = [1, 2, 3] if type(data) is SVHN else [0, 1, 2]  # SVHN's 10 is the digit 0
    assert test.labels[:3].tolist() == first
    assert int(test.labels.max()) == data.num_classes - 1


def test_training_images_are_shifted_and_mirrored_but_digits_are_not_mirrored(
    data: PublicImages,
) -> None:
    assert data.augmentation == Augmentation(shift=4, flip=type(data) is not SVHN)
    batch = next(iter(data.train_loader()))
    images, labels = data.finish(batch, train=True)
    assert torch.equal(images, data.normalize(data.augmentation(batch.images, batch.draws)))
    assert torch.equal(labels, batch.labels)


def test_missing_files_are_named_with_the_place_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        CIFAR10(root=str(tmp_path / "here")).prepare_data()
    assert str(caught.value) == (
        f"no CIFAR10 in '{tmp_path}/here': there is no cifar-10-batches-py/data_batch_1. Set "
        "data.init_args.download "
        "to true to fetch it, or data.init_args.root to the folder that has it."
    )
    fake_cifar(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"there is no cifar-10-batches-py/data_batch_4\. Set"):
        CIFAR10(root=str(tmp_path)).prepare_data()


@pytest.mark.parametrize("kind", SETS)
def test_a_download_that_fails_is_one_message(
    kind: type[PublicImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", offline)
    with pytest.raises(
        DataError,
        match=rf"cannot download {kind.__name__} to '{tmp_path}': no route to host\. Put its",
    ):
        kind(root=str(tmp_path), download=True).prepare_data()


def test_what_is_there_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_svhn(tmp_path)
    fetched: list[SVHN] = []
    monkeypatch.setattr(SVHN, "fetch", fetched.append)
    SVHN(root=str(tmp_path), download=True).prepare_data()
    assert not fetched


@pytest.mark.parametrize(
    ("kind", "file"), [(CIFAR100, "cifar-100-python/train"), (SVHN, "train_32x32.mat")]
)
@pytest.mark.parametrize("length", [0, 100])
def test_a_truncated_file_is_named(
    kind: type[PublicImages], file: str, length: int, tmp_path: Path
) -> None:
    SETS[kind](tmp_path)
    os.truncate(tmp_path / file, length)
    with pytest.raises(
        DataError, match=f"cannot read {tmp_path / file}: .*Remove it and fetch it again"
    ):
        kind(root=str(tmp_path)).prepare_data()


def test_a_file_that_asks_for_more_than_arrays_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    fake_cifar(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(DataError, match=r"data_batch_2: it asks for posix\.mkdir"):
        CIFAR10(root=str(tmp_path)).prepare_data()
    assert not (tmp_path / "run").exists()


def test_a_fraction_is_balanced_and_the_same_for_every_seed(tmp_path: Path) -> None:
    fake_cifar(tmp_path, per_class=20)

    def used(fraction: float, seed: int = 0) -> PublicImages:
        return CIFAR10(root=str(tmp_path), fraction=fraction, seed=seed, batch_size=8)

    tenth, whole = used(0.1), used(1.0)
    assert (
        torch.bincount(tenth.splits.train.labels).tolist() == [9] * 10
    )  # 5 files of 20, less 10, of which 0.1
    assert torch.equal(tenth.splits.validation.images, whole.splits.validation.images)
    assert torch.equal(tenth.splits.train.images, used(0.1).splits.train.images)
    other = used(0.1, seed=1)
    assert torch.equal(tenth.splits.train.images, other.splits.train.images)
    one, two = (next(iter(data.train_dataloader())).labels for data in (tenth, other))
    assert not torch.equal(one, two)  # in another order
    rows = {tuple(image.tolist()) for image in whole.splits.train.images.flatten(1)[:, :50]}
    assert {tuple(image.tolist()) for image in tenth.splits.train.images.flatten(1)[:, :50]} <= rows


@pytest.mark.parametrize(
    "setting", [{"validation_share": 1.0}, {"fraction": 0.0}, {"fraction": 1.5}]
)
def test_shares_that_are_none_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"data\.\w+ is .*; it lies between 0 and 1"):
        CIFAR10(**setting)  # type: ignore[arg-type]


def test_enlarged_images_are_cut_at_random_in_training_and_from_the_middle_otherwise(
    tmp_path: Path,
) -> None:
    fake_cifar(tmp_path)
    data = CIFAR10(root=str(tmp_path), image_size=56, augmentation=Augmentation())
    assert data.input_shape == (3, 56, 56)
    images = data.splits.test.images[:2]
    large = F.interpolate(images.float(), 64, mode="bilinear")
    draws = torch.tensor([[0.0, 0.999, 0.9], [0.5, 0.0, 0.1]])
    batch = Batch(images, torch.zeros(2), draws)
    assert torch.equal(data.transform(batch, train=False), large[:, :, 4:60, 4:60])
    found = data.transform(batch, train=True)
    assert torch.equal(found[0], large[0, :, 0:56, 8:64])
    assert torch.equal(found[1], large[1, :, 4:60, 0:56])


def test_grey_is_what_pillow_makes_of_the_colours(data: PublicImages) -> None:
    shades = type(data)(root=str(data.root), batch_size=8, validation_share=0.2, grayscale=True)
    assert shades.input_shape == (1, 32, 32)
    for colours, grey in zip(data.splits, shades.splits, strict=True):
        image = colours.images[0].permute(1, 2, 0).numpy()
        expected = torch.from_numpy(np.array(Image.fromarray(image).convert("L")))
        assert torch.equal(grey.images[0, 0], expected)
        assert torch.equal(colours.labels, grey.labels)


def test_a_given_normalization_is_that_of_the_images(data: PublicImages) -> None:
    given = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    same = type(data)(root=str(data.root), normalization=given, validation_share=0.2)
    mean, std = same.normalization
    assert mean.flatten().tolist() == pytest.approx([127.5, 102, 76.5])
    assert std.flatten().tolist() == pytest.approx([51, 76.5, 102])
    grey = type(data)(root=str(data.root), normalization=given, grayscale=True)
    with pytest.raises(ConfigError, match="channels are 1, those of mean and std 3"):
        _ = grey.normalization


def test_a_fraction_of_the_images_is_normalized_like_all(data: PublicImages) -> None:
    part = type(data)(root=str(data.root), validation_share=0.2, fraction=0.5)
    assert part.count("train") < data.count("train")
    for some, every in zip(part.normalization, data.normalization, strict=True):
        assert torch.equal(some, every)
