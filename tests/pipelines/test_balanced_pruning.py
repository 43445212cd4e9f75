"""Balanced channels: pruning does not depend on how a network's channels are scaled."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import QUIET
from helpers import relative_error
from metaprune_pl.__main__ import main
from metaprune_pl.graphs import trace
from metaprune_pl.graphs.symmetry import hidden_nodes, rescale
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    read_card,
    save_network,
)

EXAMPLE = torch.zeros(1, 1, 16, 16)
PRUNE = [
    "prune",
    "--data=Digits",
    "--data.image_size=16",
    "--data.fraction=0.2",
    "--repair=null",
    "--statistics=stale",
    "--criterion=Magnitude",
    "--criterion.p=1",
    "--criterion.normalize=none",
    "--masks.sparsities=[0.8]",
    "--finetune.epochs=0",
    "--trainer.accelerator=cpu",
    *QUIET,
]


def store(folder: str, factors_seed: int | None = None, **arguments: Any) -> None:
    """Store a network, with rescaled channels where there is a seed of their factors."""
    arguments = {"width": 6, "num_classes": 10, **arguments}
    settings = NetworkSettings(builder="small_cnn", arguments=arguments)
    network = create_network("small_cnn", seed=0, **arguments).eval()
    if factors_seed is not None:
        graph = trace(network, EXAMPLE)
        generator = torch.Generator().manual_seed(factors_seed)
        drawn = torch.randn(graph.num_nodes, generator=generator, dtype=torch.float64).exp()
        factors = torch.where(hidden_nodes(graph), drawn, 1.0)
        network.load_state_dict(rescale(graph, network.state_dict(), factors))
    save_network(folder, network, NetworkCard(settings=settings, input_shape=(1, 16, 16)))


def zeros(folder: str) -> Tensor:
    network = load_network(folder)
    weights = [network.get_parameter(name) == 0 for name in read_card(folder).masked]
    return torch.cat([weight.flatten() for weight in weights])


def test_masks_of_a_rescaled_network_are_those_of_the_network(workdir: Path) -> None:
    for name, seed in (("given", None), ("rescaled", 0)):
        store(name, seed)
        for balance in ("true", "false"):
            run = f"--trainer.default_root_dir={name}_{balance}"
            flags = [f"--network={name}", f"--balance={balance}", "--finetune_after.epochs=0"]
            main([*PRUNE, *flags, run])
    masks = {
        (name, balance): zeros(f"{name}_{balance}/masked_0.8/network")
        for name in ("given", "rescaled")
        for balance in ("true", "false")
    }
    assert torch.equal(masks["given", "true"], masks["rescaled", "true"])
    assert not torch.equal(masks["given", "false"], masks["rescaled", "false"])
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    pair = [load_network(f"{name}_true/masked_0.8/network") for name in ("given", "rescaled")]
    with torch.no_grad():
        assert relative_error(*(network(images) for network in pair)) < 1e-4


def test_rounds_without_rewinding_go_on_from_the_trained_weights(workdir: Path) -> None:
    store("given")
    flags = ["--network=given", "--rounds=2", "--rewind=false", "--finetune_after.epochs=1"]
    main([*PRUNE, *flags, "--trainer.default_root_dir=run"])
    first = load_network("run/masked_0.8/round_1/finetuned/network")
    last = load_network("run/masked_0.8/masked")
    for name in read_card("run/masked_0.8/masked").masked:
        a, b = first.get_parameter(name), last.get_parameter(name)
        assert torch.equal(a[b != 0], b[b != 0]) and not b[a == 0].any()


def test_a_network_that_cannot_be_balanced_is_refused_before_any_training(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store("given", activation="tanh")
    with pytest.raises(SystemExit):
        main([*PRUNE, "--network=given", "--balance=true", "--trainer.default_root_dir=run"])
    assert "cannot be balanced" in capsys.readouterr().err
    assert not Path("run/finetuned").exists()
