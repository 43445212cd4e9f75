"""More than ten classes: the paper's columns of top 5 are filled."""

import csv
from pathlib import Path

import pytest
import torch

from conftest import QUIET
from fake_data import fake_cifar
from metaprune_pl.__main__ import main
from metaprune_pl.data import CIFAR100
from metaprune_pl.networks import load_network


@torch.inference_mode()
def top_5(folder: str, data: CIFAR100) -> float:
    """Share of the test images with fewer than five scores above that of their label."""
    network, above = load_network(folder).eval(), []
    for images, labels in data.evaluation("test", torch.device("cpu")):
        scores = network(images)
        own = scores.gather(1, labels[:, None])
        above.append((scores > own).sum(1) < 5)
    return torch.cat(above).double().mean().item()


def test_columns_of_top_5_are_those_of_the_stored_networks(workdir: Path) -> None:
    fake_cifar(workdir / "datasets", 100, 2)
    flags = ["--data=CIFAR100", "--data.root=datasets", "--data.batch_size=32"]
    flags += ["--finetune_after.epochs=1", "--speed_ups=[2]", "--latency_batches=[1]"]
    arguments = "--arguments={depth: 8, width: 8}"
    main(["prune", "--network=cifar_resnet", arguments, *flags, *QUIET, "--out=run"])
    with Path("run/report.csv").open() as file:
        (row,) = csv.DictReader(file)
    result = {name: float(value) for name, value in row.items() if "accuracy" in name and value}
    data = CIFAR100(root="datasets", batch_size=32)
    base, finetuned = (top_5(f"run/{name}", data) for name in ("source", "speed_up_2/network"))
    assert result["accuracy_base_top_5"] == pytest.approx(base)
    assert result["accuracy_finetuned_top_5"] == pytest.approx(finetuned)
    assert float(row["difference_top_5"]) == pytest.approx(finetuned - base)
    assert base > result["accuracy_base"] and finetuned > 0
