"""Statistics after recalibration are those of one pass over all images, in double precision."""

import copy
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from helpers import random_resnet
from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning.recalibration import recalibrate


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(size, 3, 8, 8, generator=generator) for size in (6, 6, 6, 2)]


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if "running" in name}


def inputs_of_norms(network: nn.Module, images: list[Tensor]) -> dict[str, Tensor]:
    """What each norm of a network in training mode reads over all batches, [C, values]."""
    seen: dict[str, list[Tensor]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def note(_: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                seen.setdefault(name, []).append(inputs[0].detach().transpose(0, 1).flatten(1))

            module.register_forward_pre_hook(note)
    for batch in images:
        network.train()(batch)
    return {name: torch.cat(parts, 1) for name, parts in seen.items()}


def test_statistics_are_those_of_one_pass_in_double_precision() -> None:
    network = random_resnet(8, 4)
    plain = copy.deepcopy(network).double()
    before = copy.deepcopy(network.state_dict())
    recalibrate(network, iter(batches()))
    values = inputs_of_norms(plain, [batch.double() for batch in batches()])
    assert len(values) == 9
    for name, value in values.items():
        norm = network.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, value.mean(1).float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var, value.var(1).float(), rtol=1e-5, atol=1e-6)
    assert not network.training
    same = {
        name for name, value in network.state_dict().items() if torch.equal(value, before[name])
    }
    assert same == before.keys() - statistics(network).keys()
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_one_batch_gives_what_training_would() -> None:
    network, trained = random_resnet(8, 4), random_resnet(8, 4)
    for norm in trained.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None
    trained.train()(batches()[0])
    recalibrate(network, batches()[:1])
    for name, value in statistics(network).items():
        torch.testing.assert_close(value, statistics(trained)[name], rtol=1e-5, atol=1e-6)


def test_no_image_is_refused_and_a_network_without_norms_needs_none() -> None:
    recalibrate(nn.Conv2d(3, 4, 1), [])
    network = random_resnet(8, 4)
    before = copy.deepcopy(statistics(network))
    with pytest.raises(ConfigError, match="at least one image"):
        recalibrate(network, [])
    assert all(torch.equal(value, before[name]) for name, value in statistics(network).items())


def one_of_two(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    network = random_resnet(8, 4)
    recalibrate(network, batches()[rank::2])
    torch.save(statistics(network), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ddp
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(one_of_two, (port, str(tmp_path)), nprocs=2, start_method="fork")
    network = random_resnet(8, 4)
    recalibrate(network, batches())
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            torch.testing.assert_close(value, statistics(network)[name], rtol=1e-7, atol=1e-7)
