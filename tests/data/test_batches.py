"""A step takes the same images on any number of devices, with every shipped config."""

from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import metaprune_pl.data
from metaprune_pl.data import DataModelZoo, Digits, ImageDataModule, TensorLoader
from metaprune_pl.data.batches import SteppedDataModule, device_batch
from metaprune_pl.data.loader import Order
from metaprune_pl.errors import ConfigError
from metaprune_pl.settings.config_text import with_included
from metaprune_pl.settings.shipped import shipped_configs

COUNT = 3000
"""Images of a made-up data set, fewer than some big batches."""


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: merged(one[key], value)
        for key, value in other.items()
        if isinstance(value, dict) and isinstance(one.get(key), dict)
    }
    return {**one, **other, **both}


def settings(name: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for _, text in with_included(name):
        result = merged(result, yaml.safe_load(text))
    return result


WITH_DATA = [
    name
    for name in shipped_configs()
    if settings(name).get("data", {"class_path": "NetworkZoo"})["class_path"] != "NetworkZoo"
]


def make(spec: dict[str, Any]) -> Any:
    arguments = dict(spec.get("init_args", {}))
    if "images" in arguments:
        arguments["images"] = make(arguments["images"])
    if "data_models" in arguments:
        arguments |= {"held_out": 0}
    plain = {k: v for k, v in arguments.items() if k not in {"mixing", "augmentation"}}
    return getattr(metaprune_pl.data, spec["class_path"])(**plain)


def pretend(data: Any, rank: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Attach a Trainer of many ranks, and serve indices of images as labels."""
    trainer = SimpleNamespace(global_rank=rank, world_size=ranks, accumulate_grad_batches=1)
    data.trainer = trainer
    images = data.images if isinstance(data, DataModelZoo) else data
    images.trainer = trainer
    monkeypatch.setattr(DataModelZoo, "models", list(range(8)))

    def loader(split: str, order: Order) -> TensorLoader:
        order.count, indices = max(order.count, COUNT), torch.arange(order.count)
        return TensorLoader(indices[:, None], indices, order)

    for name in ("loader", "_loader"):
        monkeypatch.setattr(images, name, loader, raising=False)
    monkeypatch.setattr(images, "count", lambda split: COUNT)
    return trainer


def step_of(data: Any, trainer: Any) -> list[int]:
    """Images of this rank in the second step: the first goes the same way."""
    if isinstance(data, DataModelZoo):
        served: list[list[int]] = [[]]
        for batch in data.train_loader():
            served[-1] += batch.labels.tolist()
            if batch.last:
                if len(served) == 2:
                    return served[1]
                served.append([])
    data.setup("fit")
    batches = islice(data.train_dataloader(), 2 * trainer.accumulate_grad_batches)
    labels = [batch.labels for batch in batches][trainer.accumulate_grad_batches :]
    return torch.cat(labels).tolist()


@pytest.mark.parametrize("name", WITH_DATA)
def test_a_step_takes_the_same_images_on_any_number_of_devices(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = settings(name)["data"]
    expected: list[int] = []
    for ranks in (1, 2, 4, 8):
        images: list[int] = []
        try:
            for rank in range(ranks):
                data = make(spec)
                images += step_of(data, pretend(data, rank, ranks, monkeypatch))
        except ConfigError as error:
            small = "quickstart" in name or name.startswith("meta_resnet20_cifar10_jpeg")
            assert small and ranks >= 4 and "take " in str(error)
            continue
        expected = expected or sorted(images)
        assert sorted(images) == expected


@pytest.mark.parametrize(
    ("images", "shares", "largest", "expected"),
    [
        (128, 1, 128, 128),
        (128, 8, 128, 16),
        (256, 1, 32, 32),
        (256, 8, 32, 32),
        (50_000, 8, 500, 250),
        (100, 1, 64, 50),
    ],
)
def test_a_device_takes_the_largest_equal_batches(
    images: int, shares: int, largest: int, expected: int
) -> None:
    assert device_batch(images, shares=shares, largest=largest, setting="x") == expected


@pytest.mark.parametrize(
    ("images", "shares", "largest", "said"),
    [
        (50, 4, 50, "global_batch 50 on 4 devices .* take 48 or 52"),
        (97, 1, 50, "take 96 or 98"),
        (3, 8, 50, "take 8"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_would(
    images: int, shares: int, largest: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        device_batch(images, shares=shares, largest=largest, setting="global_batch")


def fit(data: SteppedDataModule, batches: int, ranks: int) -> int:
    """Prepare a fit with a Trainer's setting, and return what it becomes."""
    trainer = SimpleNamespace(global_rank=0, world_size=ranks, accumulate_grad_batches=batches)
    data.trainer = trainer  # type: ignore[assignment]
    data.setup("fit")
    return int(trainer.accumulate_grad_batches)


@pytest.mark.parametrize(("ranks", "expected"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_accumulation_of_old_counts_images_of_one_device(ranks: int, expected: int) -> None:
    data = Digits(batch_size=16)
    assert fit(data, 8, ranks) == expected
    assert data.step_images == 128
    assert fit(data, 8, ranks) == fit(data, expected, ranks) == expected  # the next stage's


def test_two_sizes_of_a_step_are_refused() -> None:
    assert fit(Digits(batch_size=16, global_batch=128), 8, 2) == 4
    with pytest.raises(ConfigError, match=r"global_batch is 64, and .* 8 would make 128"):
        fit(Digits(batch_size=16, global_batch=64), 8, 1)


def zoo(**settings: Any) -> Callable[[], DataModelZoo]:
    return lambda: DataModelZoo(Digits(batch_size=250), data_models="networks", **settings)


def test_micro_batches_are_the_older_name_of_a_big_batch() -> None:
    assert zoo(micro_batches=2)().big_batch == zoo(big_batch=500)().big_batch == 500
    assert zoo(micro_batches=2, models_per_step=3)().big_batch == 1500
    assert zoo(models_per_step=2)().big_batch == 500
    with pytest.raises(ConfigError, match=r"give big_batch \(500\) alone; micro_batches 4 .* 1000"):
        zoo(big_batch=500, micro_batches=4)()


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"global_batch": 0}, {"global_batch": -1}])
def test_batches_without_images_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Digits(**settings)  # type: ignore[arg-type]


def test_the_trainer_of_a_notebook_steps_as_asked(tmp_path: Any) -> None:
    """Lightning's own Trainer, without ours."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.demos.boring_classes import BoringModel
    from torch import nn

    class Counting(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            return nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    data: ImageDataModule = Digits(batch_size=50, global_batch=200)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        enable_model_summary=False,
        default_root_dir=tmp_path,
        limit_val_batches=0,
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(Counting(), datamodule=data)
    assert (trainer.global_step, trainer.accumulate_grad_batches) == (5, 4)  # 1000 / 200
