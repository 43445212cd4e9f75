"""A mask stays as it is through finetuning, and finetuning does not stand still."""

from pathlib import Path

import pytest
import torch

from conftest import QUIET
from helpers import random_resnet
from metaprune_pl.__main__ import main
from metaprune_pl.graphs import trace
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    load_network,
    read_card,
    save_network,
)
from metaprune_pl.pruning import Magnitude, Masks, Pattern, ZeroShare, apply_masks, find_masks

ARGUMENTS = {"depth": 8, "width": 4, "in_channels": 1, "num_classes": 10}


def store_masked(target: float | str) -> Masks:
    network = random_resnet(**ARGUMENTS)
    graph = trace(network, torch.zeros(1, 1, 8, 8))
    text = isinstance(target, str)
    wanted = (
        Pattern.from_text(target)  # type: ignore[arg-type]
        if text
        else ZeroShare(share=target)  # type: ignore[arg-type]
    )
    masks = find_masks(graph, network.state_dict(), Magnitude(p=1.0, normalize="none"), wanted)
    settings = NetworkSettings(builder="cifar_resnet", arguments=ARGUMENTS)
    card = NetworkCard(settings=settings, input_shape=(1, 8, 8), masked=sorted(masks.kept))
    save_network("masked", apply_masks(network, masks), card)
    return masks


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("target", ["1:4", "2:4", "3:4", 0.5, 0.8, 0.95])
def test_50_steps_move_no_masked_weight(target: float | str, optimizer: str, workdir: Path) -> None:
    masks = store_masked(target)
    main(
        [
            "fit",
            "--model=Finetuning",
            "--model.network=masked",
            f"--model.optimizer.name={optimizer}",
            f"--model.optimizer.lr={0.05 if optimizer == 'sgd' else 0.01}",
            "--model.optimizer.weight_decay=0.1",
            "--data=Digits",
            "--data.batch_size=20",
            "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=50",
            "--trainer.limit_val_batches=0",
            "--trainer.gradient_clip_val=1",
            "--trainer.default_root_dir=run",
            *QUIET,
        ]
    )
    before, after = load_network("masked"), load_network("run/network")
    assert read_card("run/network").masked == sorted(masks.kept)
    for name, kept in masks.kept.items():
        old, new = before.get_parameter(name).detach(), after.get_parameter(name).detach()
        assert torch.equal(new != 0, kept), name
        assert not kept.any() or bool((old != new)[kept].float().mean() > 0.9), name
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 50
