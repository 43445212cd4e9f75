"""Inputs as texts: one tensor or several, by place or by name, of numbers, ids and masks."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import metaprune_pl
from metaprune_pl.__main__ import main
from metaprune_pl.errors import ConfigError, StorageError, TraceError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.networks.examples import call, convert, shape_text, single
from metaprune_pl.networks.inputs import example_of, read_shape
from metaprune_pl.networks.storage import read_card
from metaprune_pl.networks.trust import trust
from metaprune_pl.pruning import count_macs

TEXTS = "ids=6:ids mask=6:mask image=3,8,8"
BUILDER = f"{__name__}:Reader"


class Reader(nn.Module):
    """Reads a text and an image, and tells classes and boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 16)
        self.mixing = nn.Linear(16, 24)
        self.convolution = nn.Conv2d(3, 24, 3)
        self.classes = nn.Linear(24, 5)
        self.boxes = nn.Linear(24, 4)

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> dict[str, Tensor]:
        shares = mask[:, :, None] / mask.sum(1)[:, None, None]
        text = (self.mixing(self.tokens(ids)).relu() * shares).sum(1)
        joint = text * self.convolution(image).relu().mean((2, 3))
        return {"classes": self.classes(joint), "boxes": self.boxes(joint)}


def test_a_text_has_a_word_for_each_input() -> None:
    example = example_of(TEXTS)
    assert isinstance(example, dict) and list(example) == ["ids", "mask", "image"]
    assert example["ids"].dtype == example["mask"].dtype == torch.int64
    assert example["mask"].tolist() == [[1] * 6] and not example["ids"].any()
    assert shape_text(example) == "6, 6, 3x8x8"
    first, second = example_of("3,4,4 5:flags")
    assert first.shape == (1, 3, 4, 4) and second.dtype == torch.bool
    image = example_of((3, 8, 8))
    assert isinstance(image, Tensor) and image.shape == (1, 3, 8, 8)
    named = example_of("sample=4,8 timestep=:ids")
    assert isinstance(named, dict) and named["timestep"].shape == (1,)
    assert read_shape("3,224,224") == (3, 224, 224) and read_shape(" 3,4   5:ids ") == "3,4 5:ids"


@pytest.mark.parametrize(
    "text", ["", "3;4", "3,0", "a=3 4", "a=3 a=4", "3:words", ":", "a=", "3, 4", "-3,4", "=3"]
)
def test_another_text_is_one_message(text: str) -> None:
    said = rf"^input_shape '{re.escape(text)}': give channels, height and width"
    with pytest.raises(ConfigError, match=said):
        example_of(text)


def test_two_inputs_and_two_outputs_are_pruned_stored_and_loaded(tmp_path: Path) -> None:
    trust(BUILDER)
    torch.manual_seed(0)
    network, example = Reader().eval(), example_of(TEXTS)
    pruned = metaprune_pl.prune(network, 2.0, example=example)
    card = NetworkCard(settings=NetworkSettings(builder=BUILDER), input_shape=TEXTS)
    save_network(tmp_path / "network", pruned, card)
    loaded, again = load_network(tmp_path / "network"), read_card(tmp_path / "network")
    assert shape_text(again.example()) == shape_text(example)
    before, after = call(pruned, example), call(loaded, again.example())
    assert before["classes"].shape == (1, 5) and before["boxes"].shape == (1, 4)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.get_parameter("mixing.weight").shape[0] < 24


def test_of_a_batch_one_input_counts() -> None:
    one = example_of(TEXTS)
    batch = convert(one, lambda tensor: torch.cat([tensor, tensor, tensor]))
    for many, example in ((batch, one), (tuple(batch.values()), tuple(one.values()))):
        torch.manual_seed(0)
        network = Reader()
        assert count_macs(network, many) == count_macs(network, example)
        pruned = [metaprune_pl.prune(network, 1.5, example=given) for given in (many, example)]
        first, second = (each.state_dict() for each in pruned)
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_is_no_batch_stays_or_is_refused() -> None:
    tokens, positions = torch.zeros(1, 6), torch.arange(6)
    assert single((tokens, positions))[1] is positions
    table, scale = torch.ones(1, 6), torch.tensor(2.0)
    shapes = [list(tensor.shape) for tensor in single((torch.zeros(4, 6), table, scale))]
    assert shapes == [[1, 6], [1, 6], []]
    with pytest.raises(ConfigError, match="first dimensions of its tensors are 4, 6, not of one"):
        single((torch.zeros(4, 6), positions))


def test_a_stored_text_of_inputs_is_checked(tmp_path: Path) -> None:
    trust(BUILDER)
    card = NetworkCard(settings=NetworkSettings(builder=BUILDER), input_shape=TEXTS)
    save_network(tmp_path / "network", Reader(), card)
    file = tmp_path / "network" / "network.json"
    whole = file.read_text()
    for damaged in ("ids=6:words", "ids=99999,99999", ""):
        file.write_text(whole.replace(f'"{TEXTS}"', f'"{damaged}"'))
        with pytest.raises(StorageError, match="is damaged"):
            read_card(file.parent)


def test_inspect_takes_a_text_of_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", BUILDER, "--trust", __name__, "--input_shape", TEXTS])
    shown = capsys.readouterr().out
    assert TEXTS in shown and "not followed" not in shown
    assert re.search(r"mixing +│? *24", shown.replace("│", " ").replace("┃", " "))


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.uint8])
def test_an_input_of_another_type_is_told(kind: torch.dtype) -> None:
    said = f"input of 3x4x4: .*\\. The input is of {kind}, the network of torch.float32: give both"
    with pytest.raises(TraceError, match=said):
        trace(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.zeros(1, 3, 4, 4, dtype=kind))


def test_a_module_that_insists_on_its_version_takes_new_weights() -> None:
    from torchvision.models import mnasnet0_5

    from metaprune_pl.networks.states import load_state

    network = mnasnet0_5()
    state = {name: value.clone() + 1 for name, value in network.state_dict().items()}
    load_state(network, state)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
