import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers import random_kept, random_resnet
from metaprune_pl.errors import NetworkError, StorageError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    read_card,
    save_network,
)
from metaprune_pl.pruning import find_groups, remove

SETTINGS = NetworkSettings(arguments={"depth": 8, "width": 4, "num_classes": 10, "in_channels": 3})
CARD = NetworkCard(settings=SETTINGS, input_shape=(3, 8, 8), record={"seed": 3})
IMAGE = torch.zeros(1, 3, 8, 8)
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network_of(kind: str) -> nn.Module:
    network = random_resnet()
    if kind == "pruned":
        graph = trace(network, IMAGE)
        network = remove(network, graph, random_kept(find_groups(graph)))
    return network


def store(folder: Path, kind: str = "dense") -> Path:
    save_network(folder, network_of(kind), CARD)
    return folder


def change_card(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps({**card, **changes}))


# There and back


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_a_loaded_network_gives_the_logits_of_the_stored_one(tmp_path: Path, kind: str) -> None:
    network = network_of(kind)
    save_network(tmp_path / "network", network, CARD)
    loaded = load_network(tmp_path / "network")
    assert not loaded.training
    assert torch.equal(loaded(IMAGES), network(IMAGES))
    state = loaded.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["dense", "pruned"])
@pytest.mark.parametrize(
    "frozen", [[], ["conv1.weight", "fc.bias"], ["everything"]], ids=["none", "some", "all"]
)
def test_what_was_frozen_is_frozen_after_loading(
    tmp_path: Path, kind: str, frozen: list[str]
) -> None:
    network = network_of(kind)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen and frozen != ["everything"])
    save_network(tmp_path / "network", network, CARD)
    loaded = load_network(tmp_path / "network")
    expected = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert {
        name: parameter.requires_grad for name, parameter in loaded.named_parameters()
    } == expected


def test_a_pruned_network_has_the_stored_widths_and_trains(tmp_path: Path) -> None:
    loaded = load_network(store(tmp_path / "network", "pruned"))
    for module in loaded.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.shape == (module.num_features,)
    assert trace(loaded, IMAGE).num_nodes < trace(random_resnet(), IMAGE).num_nodes
    loaded.train()(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_the_card_says_how_to_build_the_network_and_what_is_known_of_it(tmp_path: Path) -> None:
    returned = save_network(tmp_path / "network", random_resnet(), CARD)
    card = read_card(tmp_path / "network")
    assert card == returned
    assert (card.settings, card.input_shape, card.record) == (SETTINGS, (3, 8, 8), {"seed": 3})
    assert card.layers["layer2.0.shortcut.0.weight"] == [8, 4, 1, 1]
    assert card.frozen == []


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_a_network_loads_in_a_new_process(tmp_path: Path, kind: str) -> None:
    network = network_of(kind)
    save_network(tmp_path / "network", network, CARD)
    save_file({"images": IMAGES}, tmp_path / "images")
    script = (
        "import sys, torch; from safetensors.torch import load_file, save_file\n"
        "from metaprune_pl.networks import load_network\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "with torch.no_grad(): logits = load_network('network')(load_file('images')['images'])\n"
        "save_file({'logits': logits}, 'logits')"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert torch.equal(load_file(tmp_path / "logits")["logits"], network(IMAGES))


# Whole or not at all


class _NoJson:
    """What JSON cannot hold."""


def test_a_network_that_cannot_be_stored_leaves_nothing_behind(tmp_path: Path) -> None:
    card = NetworkCard(settings=SETTINGS, input_shape=(3, 8, 8), record={"object": _NoJson()})
    with pytest.raises(TypeError, match="_NoJson"):
        save_network(tmp_path / "network", random_resnet(), card)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_older_network_as_it_was(tmp_path: Path) -> None:
    store(tmp_path / "network")
    before = load_network(tmp_path / "network")(IMAGES)
    card = NetworkCard(settings=SETTINGS, input_shape=(3, 8, 8), record={"object": _NoJson()})
    with pytest.raises(TypeError, match="_NoJson"):
        save_network(tmp_path / "network", random_resnet(seed=1), card)
    assert [path.name for path in tmp_path.iterdir()] == ["network"]
    assert torch.equal(load_network(tmp_path / "network")(IMAGES), before)


def test_saving_again_replaces_the_older_network(tmp_path: Path) -> None:
    store(tmp_path / "network")
    other = random_resnet(seed=1)
    save_network(tmp_path / "network", other, CARD)
    assert torch.equal(load_network(tmp_path / "network")(IMAGES), other(IMAGES))
    assert sorted(path.name for path in (tmp_path / "network").iterdir()) == [
        "network.json",
        "weights.safetensors",
    ]


# Damage


def test_a_folder_that_is_missing_or_empty_is_an_error_that_names_it(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(
            StorageError, match=f"no stored network in '{folder}': it has no network.json"
        ):
            load_network(folder)


def test_the_folder_of_a_run_is_an_error_that_names_its_result(tmp_path: Path) -> None:
    for name in ("source", "finetuned/network", "speed_up_2/network"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "network.json").touch()
        meant = name if name.count("/") == name.count("network") else "speed_up_2/network"
        with pytest.raises(StorageError, match=f"Did you mean '{tmp_path}/{meant}'?"):
            load_network(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b"{}", b'{"format": 1}', b"null", b"3"],
    ids=["empty", "cut", "binary", "a list", "no keys", "format alone", "null", "a number"],
)
def test_a_damaged_card_is_an_error(tmp_path: Path, content: bytes) -> None:
    folder = store(tmp_path / "network")
    (folder / "network.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"network\.json( is damaged|: )"):
        load_network(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_shape": []},
        {"input_shape": [3, 0, 8]},
        {"input_shape": "3, 8, 8"},
        {"settings": {"name": "cifar_resnet"}},
        {"unknown": 1},
        {"format": "new"},
    ],
)
def test_a_card_with_other_keys_or_values_is_an_error(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = store(tmp_path / "network")
    change_card(folder, **changes)
    with pytest.raises(StorageError, match=r"network\.json is damaged"):
        load_network(folder)


def test_a_card_of_a_newer_program_is_an_error_that_says_so(tmp_path: Path) -> None:
    folder = store(tmp_path / "network")
    change_card(folder, format=2)
    with pytest.raises(StorageError, match="written by a newer metaprune"):
        load_network(folder)


@pytest.mark.parametrize("length", [0, 7, 300, 5000])
def test_damaged_weights_are_an_error(tmp_path: Path, length: int) -> None:
    folder = store(tmp_path / "network")
    weights = folder / "weights.safetensors"
    assert weights.stat().st_size > length
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(StorageError, match=r"cannot read .*weights\.safetensors"):
        load_network(folder)


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    folder = store(tmp_path / "network")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(StorageError, match=r"cannot read .*weights\.safetensors"):
        load_network(folder)


def test_weights_of_other_widths_than_the_card_names_are_an_error(tmp_path: Path) -> None:
    dense, pruned = store(tmp_path / "dense"), store(tmp_path / "pruned", "pruned")
    (dense / "weights.safetensors").write_bytes((pruned / "weights.safetensors").read_bytes())
    with pytest.raises(StorageError, match=r"does not hold the widths that network\.json"):
        load_network(dense)


def test_a_card_that_names_another_architecture_than_the_weights_is_an_error(
    tmp_path: Path,
) -> None:
    folder = store(tmp_path / "network")
    change_card(
        folder, settings={"builder": "cifar_resnet", "arguments": {"depth": 14, "width": 4}}
    )
    with pytest.raises(StorageError, match=r"the weights lack 'layer1\.1\.bn1\.bias'"):
        load_network(folder)


def test_weights_of_other_dimensions_are_an_error(tmp_path: Path) -> None:
    folder = store(tmp_path / "network")
    tensors = load_file(folder / "weights.safetensors")
    tensors["fc.bias"] = tensors["fc.bias"].reshape(10, 1)
    save_file(tensors, folder / "weights.safetensors")
    layers = {name: list(value.shape) for name, value in tensors.items()}
    change_card(folder, layers=layers)
    with pytest.raises(
        StorageError, match=r"'fc\.bias' has 2 dimensions in the file and 1 in the network"
    ):
        load_network(folder)


def test_a_stored_name_that_no_longer_exists_is_an_error(tmp_path: Path) -> None:
    folder = store(tmp_path / "network")
    change_card(folder, settings={"builder": "cifar_resnat", "arguments": {}})
    with pytest.raises(NetworkError, match="Did you mean 'cifar_resnet'"):
        load_network(folder)


# Building


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cifar_resnt", "cifar_resnet'"),
        ("cifar-resnet", "cifar_resnet'"),
        ("torchvision/resnet19", "torchvision/resnet1"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_closest_known_one(name: str, meant: str) -> None:
    with pytest.raises(NetworkError, match=f"no network '{name}'. Did you mean '{meant}"):
        create_network(name)


def test_a_name_like_no_other_is_an_error_with_those_that_are_known() -> None:
    with pytest.raises(
        NetworkError,
        match=r"no network 'xyz'\. Known: a folder of a stored network, cifar_resnet, ",
    ):
        create_network("xyz")


@pytest.mark.parametrize("depth", [2, 7, 9, 55, 0, -4])
def test_a_depth_that_is_not_6n_plus_2_is_an_error_with_ones_that_are(depth: int) -> None:
    with pytest.raises(NetworkError, match=rf"depth {depth} is not 6n \+ 2\. Take 8, 14, 20"):
        create_network("cifar_resnet", depth=depth)


@pytest.mark.parametrize("name", ["width", "num_classes", "in_channels"])
def test_sizes_below_1_are_an_error(name: str) -> None:
    with pytest.raises(NetworkError, match="must be at least 1"):
        create_network("cifar_resnet", depth=8, **{name: 0})


def test_an_argument_that_the_builder_does_not_know_is_an_error_with_those_it_knows() -> None:
    with pytest.raises(
        NetworkError, match=r"'deph'.*Its arguments: depth, width, num_classes, in_channels"
    ):
        create_network("cifar_resnet", deph=8)


def test_a_seed_gives_the_same_network_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, third = (
        create_network("cifar_resnet", seed=seed, depth=8, width=4) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not torch.equal(first.get_parameter("conv1.weight"), third.get_parameter("conv1.weight"))


def test_settings_take_the_sizes_of_the_data_where_none_are_given() -> None:
    assert NetworkSettings().for_data(7, 1).arguments == {"num_classes": 7, "in_channels": 1}
    assert NetworkSettings(builder="timm/resnet18").for_data(7, 1).arguments == {
        "num_classes": 7,
        "in_chans": 1,
    }
    assert NetworkSettings(builder="torchvision/resnet18").for_data(7, 3).arguments == {
        "num_classes": 7
    }
    given = NetworkSettings(arguments={"num_classes": 12})
    assert given.for_data(7, 1).arguments == {"num_classes": 12, "in_channels": 1}
    assert given.arguments == {"num_classes": 12}
