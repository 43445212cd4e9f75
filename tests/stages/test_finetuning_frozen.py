"""Sparsity learning of a network with frozen norms: their weights count in the scores, and stay."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from conftest import QUIET
from metaprune_pl.__main__ import main
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    save_network,
)
from metaprune_pl.networks.frozen_norms import freeze_batch_norms


def frozen_resnet(**arguments: Any) -> nn.Module:
    """A `cifar_resnet` with frozen norms."""
    network = create_network("cifar_resnet", seed=0, **arguments)
    freeze_batch_norms(network)
    return network


def test_sparsity_learning_leaves_frozen_norms_as_they_are(workdir: Path) -> None:
    arguments = {"depth": 8, "width": 4, "in_channels": 1, "num_classes": 10}
    settings = NetworkSettings(builder=f"{__name__}:frozen_resnet", arguments=arguments)
    before = frozen_resnet(**arguments)
    save_network("network", before, NetworkCard(settings=settings, input_shape=(1, 8, 8)))
    main(
        [
            "fit",
            "--model=Finetuning",
            "--model.network=network",
            "--model.optimizer.lr=0.05",
            "--data=Digits",
            "--model.sparsity={weight: 0.01}",
            "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=3",
            "--trainer.limit_val_batches=0",
            "--trainer.default_root_dir=run",
            *QUIET,
        ]
    )
    after = load_network("run/network").state_dict()
    same = {name for name, value in before.state_dict().items() if torch.equal(value, after[name])}
    assert same == {name for name, _ in before.named_buffers()}
