"""Streamed image folders: read by workers, the same for any number of them and after a resume."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from fake_data import fake_folders
from metaprune_pl.data import Batch, ImageNet, StreamedImageFolder
from metaprune_pl.data.files import list_images, path_of, read_image
from metaprune_pl.data.zoo import MetaLoader
from metaprune_pl.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    fake_folders(made)
    return made


def module(folder: Path, workers: int = 0, **options: float) -> StreamedImageFolder:
    data = StreamedImageFolder(
        folder=str(folder),
        image_size=28,
        batch_size=4,
        eval_batch_size=4,
        validation_share=0.3,
        **options,
    )  # type: ignore[arg-type]
    data.workers = workers
    return data


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def test_parts_are_balanced_and_training_images_are_in_one_of_two(folder: Path) -> None:
    data = module(folder)
    assert (data.num_classes, data.input_shape) == (3, (3, 28, 28))
    assert {name: torch.bincount(part.labels).tolist() for name, part in data.parts.items()} == {
        "train": [4, 4, 4],
        "validation": [2, 2, 2],
        "test": [6, 6, 6],
    }
    train, validation = (set(data.parts[name].names.tolist()) for name in ("train", "validation"))
    assert len(train | validation) == 18


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_are_the_same_for_any_number_of_workers_and_after_a_resume(
    folder: Path, workers: int
) -> None:
    whole = module(folder).train_loader()
    epochs = [list(whole), list(whole)]
    assert [batch.images.shape for batch in epochs[0]] == [(4, 3, 28, 28)] * 3
    assert not torch.equal(epochs[0][0].images, epochs[1][0].images)
    stopped = module(folder, workers).train_loader()
    served = list(islice(stopped, 2))
    assert stopped.state_dict() == {
        "epoch": 0,
        "position": 2,
    }  # not what the workers have read ahead
    resumed = module(folder, workers).train_loader()
    resumed.load_state_dict(stopped.state_dict())
    assert equal([*served, *resumed], epochs[0])
    assert equal(list(resumed), epochs[1])


def test_two_ranks_see_together_what_one_sees(folder: Path) -> None:
    data = module(folder)
    labels = [data.eval_loader("test", rank=rank, ranks=2) for rank in (0, 1)]
    found = torch.cat([batch.labels for part in labels for batch in part])
    assert torch.bincount(found).tolist() == [6, 6, 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_the_middle_of_every_image_in_order_each_time(
    folder: Path, workers: int
) -> None:
    data = module(folder, workers)
    names, labels = list_images(folder / "val")
    middle = v2.Compose([v2.Resize(32), v2.CenterCrop(28), v2.PILToTensor()])
    expected = torch.stack([middle(read_image(path_of(folder / "val", name))) for name in names])
    for _ in range(2):  # the second time with the workers of the first, which were cut short
        next(iter(data.eval_loader("test")))
        batches = list(data.eval_loader("test"))
        assert torch.equal(torch.cat([batch.images for batch in batches]), expected)
        assert torch.equal(torch.cat([batch.labels for batch in batches]), labels)
    images, _ = next(data.evaluation("test", torch.device("cpu")))
    assert torch.allclose(
        images,
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(expected[:4].float() / 255),
        atol=1e-5,
    )


def test_meta_training_goes_through_streamed_images_and_goes_on_after_a_resume(
    folder: Path,
) -> None:
    def loader(workers: int) -> MetaLoader:
        return MetaLoader(
            module(folder, workers).train_loader(), models=2, micro_batches=2, rounds=1
        )

    whole = list(loader(0))
    stopped = loader(2)
    served = list(islice(stopped, 1))
    resumed = loader(2)
    resumed.load_state_dict(stopped.state_dict())
    found = [*served, *resumed]
    assert len(found) == len(whole) == 4
    assert all(
        torch.equal(a.images, b.images) and a[3:] == b[3:]
        for a, b in zip(found, whole, strict=True)
    )


def test_drawing_in_this_process_leaves_its_generator_alone(folder: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(module(folder).train_loader())
    assert torch.equal(before, torch.get_rng_state())


def test_a_fraction_is_balanced(folder: Path) -> None:
    data = module(folder, fraction=0.5)
    one, two = (each.parts["train"].names for each in (data, module(folder, fraction=0.5, seed=1)))
    assert one.tolist() == two.tolist()  # the same images for every seed
    assert torch.bincount(data.parts["train"].labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_one_message_that_names_it(tmp_path: Path, workers: int) -> None:
    fake_folders(tmp_path)
    damaged = tmp_path / "val" / "n00000001" / "2.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(DataError) as caught:
        list(module(tmp_path, workers).eval_loader("test"))
    assert str(caught.value).startswith(f"cannot read the image {damaged}: ") and "\n" not in str(
        caught.value
    )


def test_missing_images_are_named_with_the_place_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        ImageNet(folder=str(tmp_path / "imagenet")).prepare_data()
    assert str(caught.value) == (
        f"no ImageNet in '{tmp_path}/imagenet': there is no '{tmp_path}/imagenet/train'. Ask for "
        "ILSVRC 2012 at "
        "image-net.org, unpack it so that train/CLASS/*.JPEG and val/CLASS/*.JPEG are there, and "
        "set "
        "data.init_args.folder."
    )
    fake_folders(tmp_path / "imagenet", test="test")
    assert ImageNet(folder=str(tmp_path / "imagenet")).count("test") == 18
    (tmp_path / "imagenet" / "test" / "n00000000").rename(tmp_path / "imagenet" / "test" / "other")
    with pytest.raises(
        DataError, match=r"classes: n00000000 only in '.*/train'; other only in '.*/test'\."
    ):
        ImageNet(folder=str(tmp_path / "imagenet")).prepare_data()
