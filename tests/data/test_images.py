import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from metaprune_pl.data import Augmentation, Batch, Digits, ImageFolder, Mixing, Normalization
from metaprune_pl.errors import ConfigError, DataError
from metaprune_pl.networks import NetworkCard, NetworkSettings
from metaprune_pl.networks.preprocessing import Preprocessing
from metaprune_pl.stages.opening import named_as

# Augmentation


def one_by_one(images: Tensor, draws: Tensor, shift: int, flip: bool) -> Tensor:
    """The same image by image: mirror, put into a frame of zeros, cut out."""
    result = []
    for image, draw in zip(images, draws, strict=True):
        channels, height, width = image.shape
        new = torch.zeros_like(image)
        down, right = (int(value * (2 * shift + 1)) - shift for value in draw[:2].tolist())
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    if 0 <= y + down < height and 0 <= x + right < width:
                        new[c, y, x] = image[c, y + down, x + right]
        result.append(new.flip(2) if flip and draw[2] >= 0.5 else new)
    return torch.stack(result)


def batch_of(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        1, 256, (count, 2, 5, 4), generator=generator, dtype=torch.uint8
    )  # higher than wide
    return images, torch.rand(count, 3, generator=generator)


@pytest.mark.parametrize(
    ("shift", "flip"), [(0, False), (0, True), (1, False), (2, True), (3, True)]
)
def test_augmenting_a_batch_is_augmenting_its_images_one_by_one(shift: int, flip: bool) -> None:
    images, draws = batch_of()
    before = images.clone()
    found = Augmentation(shift=shift, flip=flip)(images, draws)
    expected = one_by_one(images, draws, shift, flip)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    assert torch.equal(found, expected)
    assert torch.equal(images, before)
    assert torch.equal(found, images) == (shift == 0 and not flip)


def test_shifts_go_as_far_as_they_may_in_each_direction() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 2] = 1
    ends = {0.0: 3, 0.5: 2, 0.999999: 1}  # where the point in the middle comes to rest
    for draw_y, y in ends.items():
        for draw_x, x in ends.items():
            found = Augmentation(shift=1)(image, torch.tensor([[draw_y, draw_x, 0.0]]))
            assert found[0, 0].nonzero().tolist() == [[y, x]]


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augmentation\.shift is -1"):
        Augmentation(shift=-1)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_mixed_images_and_labels_are_shares_of_two(mixup: float, cutmix: float) -> None:
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)  # image n is all n
    labels, seen = torch.arange(4), set()
    for value in torch.linspace(0, 0.99, 20):
        draws = value.expand(4, 3)
        mixed, shares = Mixing(mixup=mixup, cutmix=cutmix)(images, labels, draws, 5)
        again, _ = Mixing(mixup=mixup, cutmix=cutmix)(images, labels, draws, 5)
        assert torch.equal(mixed, again)  # all follows from the draws
        assert shares.shape == (4, 5) and torch.allclose(shares.sum(1), torch.ones(4))
        expected = shares @ torch.arange(5.0)  # mean of an image = its mean label
        assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
        seen.add(len(mixed[1].unique()) > 1)
    assert len(seen) == (2 if mixup and cutmix else 1) or not mixup


def test_without_mixing_nothing_is_changed() -> None:
    images, draws = batch_of()
    labels = torch.arange(12)
    assert Mixing()(images, labels, draws, 12) == (images, labels)
    with pytest.raises(ConfigError, match="at least 0"):
        Mixing(mixup=-0.1)


# Digits


def test_digits_are_split_into_1000_397_and_400_images_that_are_all_of_them() -> None:
    splits = Digits().splits
    assert [len(part.labels) for part in splits] == [1000, 397, 400]
    pixels, digits = load_digits(return_X_y=True)
    expected = np.concatenate([np.rint(pixels * 255 / 16), digits[:, None]], 1).astype(np.int64)
    found = torch.cat(
        [torch.cat([p.images.flatten(1).long(), p.labels[:, None]], 1) for p in splits]
    ).numpy()
    assert len(found) == 1797

    def in_order(rows: np.ndarray) -> np.ndarray:
        return rows[np.lexsort(rows.T)]

    assert np.array_equal(in_order(found), in_order(expected))  # so no image is in two parts


def test_the_split_of_digits_is_the_same_for_every_seed_and_for_ever() -> None:
    first, second = Digits(seed=0).splits, Digits(seed=7).splits
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert [
        part.labels[:10].tolist() for part in first
    ] == [  # as it was when the program was written
        [6, 5, 5, 7, 9, 9, 8, 4, 6, 8],
        [9, 9, 9, 1, 0, 7, 5, 1, 0, 3],
        [5, 5, 6, 0, 6, 0, 3, 4, 0, 6],
    ]


def test_digits_are_normalised_by_the_training_images() -> None:
    data = Digits()
    assert (data.num_classes, data.input_shape) == (10, (1, 8, 8))
    images = data.normalize(data.splits.train.images)
    assert abs(float(images.mean())) < 1e-4
    assert abs(float(images.std()) - 1) < 1e-3
    test = data.splits.test
    batch = Batch(test.images, test.labels, torch.rand(400, 3))
    finished, labels = data.finish(batch, train=False)
    assert torch.equal(finished, data.normalize(test.images)) and torch.equal(labels, test.labels)
    augmented, _ = data.finish(batch, train=True)
    assert torch.equal(augmented, data.normalize(data.augmentation(test.images, batch.draws)))


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"eval_batch_size": 0}])
def test_batch_sizes_below_1_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        Digits(**setting)


# ImageFolder


def draw(path: Path, value: int, *, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> None:
    """Write an image of one colour; sizes are (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value, 2 * value % 256, 7) if mode == "RGB" else value).save(path)


def draw_classes(folder: Path, counts: dict[str, int], start: int = 0, **options: Any) -> None:
    value = start
    for name, count in counts.items():
        for number in range(count):
            draw(folder / name / f"{number:02d}.png", value, **options)
            value += 1


def values(images: Tensor) -> list[int]:
    """The first pixel's red of each image: the number that it was drawn with."""
    return images[:, 0, 0, 0].tolist()


def module(folder: Path, cache: Path, **options: Any) -> ImageFolder:
    return ImageFolder(folder=str(folder), cache=str(cache), **options)


def test_train_and_test_folders_are_kept_apart_and_validation_is_a_share_of_train(
    tmp_path: Path,
) -> None:
    draw_classes(tmp_path / "set" / "train", {"zebra": 10, "ant": 10})  # 0-9 and 10-19
    draw_classes(
        tmp_path / "set" / "test", {"zebra": 2, "ant": 3}, start=100
    )  # 100, 101 and 102-104
    data = module(tmp_path / "set", tmp_path / "cache", validation_share=0.2)
    train, validation, test = data.splits
    assert (data.num_classes, data.input_shape) == (2, (3, 5, 6))
    assert (len(train.labels), len(validation.labels)) == (16, 4)
    assert sorted(values(train.images) + values(validation.images)) == list(range(20))
    for part in (
        train,
        validation,
    ):  # classes are numbered in the order of the alphabet: ant, zebra
        assert [int(value < 10) for value in values(part.images)] == part.labels.tolist()
    assert torch.bincount(validation.labels).tolist() == [2, 2]
    assert values(test.images) == [102, 103, 104, 100, 101]
    assert test.labels.tolist() == [0, 0, 0, 1, 1]


def test_images_are_normalised_as_the_network_was_trained(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set", {"a": 6, "b": 6})
    scale = Normalization(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.1))
    data = module(tmp_path / "set", tmp_path / "cache", normalization=scale)
    found = data.normalize(torch.tensor([255.0, 0.0, 51.0])[None, :, None, None])
    assert found.flatten().tolist() == pytest.approx([1.0, -0.5, 2.0])
    gray = module(tmp_path / "set", tmp_path / "cache", normalization=scale, grayscale=True)
    with pytest.raises(ConfigError, match="the images' channels are 1, those of mean and std 3"):
        gray.normalize(torch.zeros(1, 1, 5, 6))
    with pytest.raises(ConfigError, match="std above 0"):
        Normalization(mean=(0.5,), std=(0.0,))


def test_class_folders_alone_are_split_class_by_class_and_always_the_same_way(
    tmp_path: Path,
) -> None:
    draw_classes(tmp_path / "set", {"a": 20, "b": 10})
    splits = module(
        tmp_path / "set", tmp_path / "cache", validation_share=0.25, test_share=0.2
    ).splits
    # test: 4 of 20 and 2 of 10; validation: 4 of 16 and 2 of 8
    assert [torch.bincount(part.labels).tolist() for part in splits] == [[12, 6], [4, 2], [4, 2]]
    assert sorted(value for part in splits for value in values(part.images)) == list(range(30))
    for part in splits:
        assert [int(value >= 20) for value in values(part.images)] == part.labels.tolist()
    again = module(
        tmp_path / "set", tmp_path / "other cache", validation_share=0.25, test_share=0.2, seed=9
    ).splits
    for a, b in zip(splits, again, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_every_class_is_in_every_part_however_small_the_share(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set", {"a": 6, "b": 6})
    splits = module(
        tmp_path / "set", tmp_path / "cache", validation_share=0.01, test_share=0.01
    ).splits
    assert [torch.bincount(part.labels).tolist() for part in splits] == [[4, 4], [1, 1], [1, 1]]


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = {}
    for name in ("a", "b"):
        for number in range(4):
            pixels[name, number] = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            (tmp_path / "set" / "train" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[name, number]).save(
                tmp_path / "set" / "train" / name / f"{number}.png"
            )
    (tmp_path / "set" / "test").symlink_to(tmp_path / "set" / "train")
    test = module(tmp_path / "set", tmp_path / "cache").splits.test
    expected = np.stack([pixels[key] for key in sorted(pixels)]).transpose(0, 3, 1, 2)
    assert torch.equal(test.images, torch.from_numpy(expected.copy()))


def test_images_are_resized_and_made_gray_where_asked(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set", {"a": 4, "b": 4})
    draw(tmp_path / "set" / "a" / "00.png", 30, size=(9, 12))
    train = module(tmp_path / "set", tmp_path / "cache", image_size=8, grayscale=True).splits.train
    assert train.images.shape[1:] == (1, 8, 8)
    assert train.images.dtype == torch.uint8


def test_the_cache_is_used_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_classes(tmp_path / "set", {"a": 5, "b": 5})
    first = module(tmp_path / "set", tmp_path / "cache").splits
    assert len(list((tmp_path / "cache").iterdir())) == 1

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr(Image, "open", refuse)
    second = module(tmp_path / "set", tmp_path / "cache").splits
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    with pytest.raises(AssertionError, match="decoded again"):  # other settings need other pixels
        _ = module(tmp_path / "set", tmp_path / "cache", image_size=4).splits


@pytest.mark.parametrize("change", ["content", "new file", "removed file", "class renamed"])
def test_the_cache_is_made_again_when_the_folder_changes(tmp_path: Path, change: str) -> None:
    draw_classes(tmp_path / "set", {"a": 5, "b": 5})
    before = module(tmp_path / "set", tmp_path / "cache").splits
    assert sorted(v for part in before for v in values(part.images)) == list(range(10))
    file = tmp_path / "set" / "a" / "00.png"
    expected = list(range(10))
    if change == "content":
        stat = file.stat()
        draw(file, 99)
        assert file.stat().st_size == stat.st_size  # only the time tells
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
        expected[0] = 99
    elif change == "new file":
        draw(tmp_path / "set" / "a" / "05.png", 50)
        expected.append(50)
    elif change == "removed file":
        file.unlink()
        del expected[0]
    else:
        (tmp_path / "set" / "a").rename(tmp_path / "set" / "c")
    after = module(tmp_path / "set", tmp_path / "cache").splits
    assert sorted(v for part in after for v in values(part.images)) == sorted(expected)
    for part in after:
        is_b = [5 <= value < 10 for value in values(part.images)]
        assert part.labels.tolist() == [
            int(b) if change != "class renamed" else int(not b) for b in is_b
        ]


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set", {"a": 5, "b": 5})
    before = module(tmp_path / "set", tmp_path / "cache").splits
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    after = module(tmp_path / "set", tmp_path / "cache").splits
    assert torch.equal(before.train.images, after.train.images)


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no folder '{tmp_path / 'nowhere'}'"):
        _ = module(tmp_path / "nowhere", tmp_path / "cache").splits


def test_a_train_folder_without_a_test_folder_is_an_error(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set" / "train", {"a": 3, "b": 3})
    with pytest.raises(DataError, match=f"no folder '{tmp_path / 'set' / 'test'}'"):
        _ = module(tmp_path / "set", tmp_path / "cache").splits


def test_fewer_than_two_classes_are_an_error(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set", {"a": 3})
    with pytest.raises(DataError, match="has 1 class folders; at least two are needed"):
        _ = module(tmp_path / "set", tmp_path / "cache").splits


def test_a_class_folder_without_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set", {"a": 3, "b": 3})
    (tmp_path / "set" / "empty").mkdir()
    (tmp_path / "set" / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(
        DataError, match=f"the class folder '{tmp_path / 'set' / 'empty'}' has no images"
    ):
        _ = module(tmp_path / "set", tmp_path / "cache").splits


def test_a_class_with_too_few_images_to_split_is_an_error(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set", {"a": 5, "b": 2})
    with pytest.raises(DataError, match=r"class 'b' .* at least 3 images are needed, and it has 2"):
        _ = module(tmp_path / "set", tmp_path / "cache").splits


@pytest.mark.parametrize("length", [0, 100, 900])
def test_a_truncated_image_is_an_error_that_names_it_and_no_cache_is_left(
    tmp_path: Path, length: int
) -> None:
    draw_classes(tmp_path / "set", {"a": 4, "b": 4}, size=(32, 32))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = tmp_path / "set" / "b" / "photo.jpg"
    Image.fromarray(noise).save(file)
    assert file.stat().st_size > length
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match=f"cannot read the image {file}"):
        _ = module(tmp_path / "set", tmp_path / "cache").splits
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_images_of_different_sizes_are_an_error_that_names_both_and_the_setting(
    tmp_path: Path,
) -> None:
    draw_classes(tmp_path / "set", {"a": 4, "b": 4})
    odd = tmp_path / "set" / "b" / "02.png"
    draw(odd, 3, size=(7, 5))
    with pytest.raises(DataError) as caught:
        _ = module(tmp_path / "set", tmp_path / "cache").splits
    message = str(caught.value)
    assert str(odd) in message and "5x6 and 5x7" in message and "Set image_size" in message
    assert module(tmp_path / "set", tmp_path / "cache", image_size=4).input_shape == (3, 4, 4)


def test_train_and_test_of_different_classes_are_an_error(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set" / "train", {"a": 3, "b": 3})
    draw_classes(tmp_path / "set" / "test", {"a": 3, "c": 3})
    with pytest.raises(
        DataError, match=r"differ in their classes: b only in '.*/train'; c only in '.*/test'\."
    ):
        _ = module(tmp_path / "set", tmp_path / "cache").splits


def test_train_and_test_of_different_sizes_are_an_error(tmp_path: Path) -> None:
    draw_classes(tmp_path / "set" / "train", {"a": 3, "b": 3})
    draw_classes(tmp_path / "set" / "test", {"a": 1, "b": 1})
    for name in "ab":
        draw(tmp_path / "set" / "test" / name / "00.png", 0, size=(7, 5))
    with pytest.raises(DataError, match=r"in train are 5x6, and in test 5x7\. Set image_size\."):
        _ = module(tmp_path / "set", tmp_path / "cache").splits


@pytest.mark.parametrize(
    "setting", [{"validation_share": 0.0}, {"test_share": 1.0}, {"validation_share": 1.5}]
)
def test_shares_outside_0_to_1_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="lies between 0 and 1"):
        ImageFolder(folder="anywhere", **setting)


def test_classes_of_other_names_than_the_networks_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_classes(tmp_path / "photos", {"cat": 6, "zebra": 6})
    data = module(tmp_path / "photos", tmp_path / "cache")
    for classes, said in (
        (["cat", "zebra"], ""),
        (["dog", "cat"], "'dog' -> 'cat', 'cat' -> 'zebra'"),
    ):
        told = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, classes=classes)
        card = NetworkCard(settings=NetworkSettings(), input_shape=(3, 5, 6), preprocessing=told)
        with caplog.at_level("INFO"):
            new = named_as(card, data).preprocessing
        assert new is not None and new.classes == ["cat", "zebra"]
        assert (said in caplog.text) if said else not caplog.text


@pytest.mark.parametrize("change", ["rename", "size", "remove", "touch"])
def test_contents_tell_names_and_sizes(change: str, tmp_path: Path) -> None:
    draw_classes(tmp_path, {"cat": 3, "dog": 3})
    before = ImageFolder(folder=str(tmp_path)).contents
    assert before.startswith("6 of digest ")
    file = sorted((tmp_path / "dog").iterdir())[0]
    if change == "rename":
        (tmp_path / "dog").rename(tmp_path / "wolf")
    elif change == "size":
        file.write_bytes(file.read_bytes() + b" ")
    elif change == "remove":
        file.unlink()
    else:
        file.touch()  # by a copy of the folder, say
    assert (ImageFolder(folder=str(tmp_path)).contents == before) == (change == "touch")
