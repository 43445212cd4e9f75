"""A faster network in one call, and the notebook that shows it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import metaprune_pl
from helpers import random_resnet
from metaprune_pl.compression import Compression
from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.pruning import count_macs

NOTEBOOK = Path(__file__).parents[1] / "configs" / "examples" / "compress.ipynb"
CPU = {"accelerator": "cpu", "enable_progress_bar": False}


class Batches:
    """Two batches of images whose class is their brighter channel."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for seed in range(2):
            images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
            yield images, images.mean((2, 3)).argmax(1)


def test_the_notebook_runs(workdir: Path) -> None:
    names: dict[str, object] = {}
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "compress.ipynb", "exec"), names)
    faster = names["faster"]
    assert isinstance(faster, Compression)
    before, after = faster.result.accuracy
    assert before > 0.8 and after > 0.8 and faster.result.macs[0] >= 2 * faster.result.macs[1]
    assert "<td>test accuracy (%)</td>" in faster._repr_html_()
    program = torch.export.load("faster.pt2").module()
    images = torch.randn(3, 1, 8, 8)
    assert torch.allclose(program(images), faster.network(images), atol=1e-5)


def test_the_network_that_was_given_stays_as_it_is() -> None:
    network = random_resnet(width=8, num_classes=3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = Batches()
    faster = metaprune_pl.compress(network, batches, batches, epochs=1, **CPU)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert network.training and not faster.network.training
    example = torch.zeros(1, 3, 8, 8)
    assert count_macs(network, example) >= 2 * count_macs(faster.network, example)


def test_lists_of_batches_are_taken_as_loaders_are_and_nothing_is_advertised(
    capfd: pytest.CaptureFixture[str],
) -> None:
    network = random_resnet(width=8, num_classes=3)
    batches = Batches()
    given = (batches, list(batches), tuple(batches))
    results = []
    for each in given:
        torch.manual_seed(0)
        results.append(metaprune_pl.compress(network, each, each, epochs=1, **CPU))
    first, *others = (result.network.state_dict() for result in results)
    for same in others:
        torch.testing.assert_close(same, first, rtol=0, atol=0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("part", ["train", "test"])
def test_batches_that_are_none_are_told(part: str) -> None:
    images = torch.randn(16, 3, 8, 8)
    wrong = [
        (iter(Batches()), "a generator can be gone through only once"),
        ([images], "a batch is of Tensor; give pairs"),
        ([{"images": images}], "a batch is of dict; give pairs"),
        ([(images, torch.zeros(16, 1).long())], r"labels of 16 images are of shape \[16, 1\]"),
        ([(images, torch.zeros(16))], r"labels of 16 images are of shape \[16\] and torch.float32"),
    ]
    for given, said in wrong:
        settings = {"train": Batches(), "test": Batches(), part: given}
        with pytest.raises(ConfigError, match=f"^{part}: {said}"):
            metaprune_pl.compress(random_resnet(width=8, num_classes=3), **settings)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"epochs": -1}, ConfigError),
        ({"lr": float("nan")}, ConfigError),
        ({"train": []}, ConfigError),
        ({"test": []}, ConfigError),
        ({"speed_up": 1000.0}, PruningError),
    ],
)
def test_wrong_uses(settings: dict, error: type[Exception]) -> None:
    network: nn.Module = random_resnet(width=8, num_classes=3)
    given = {"train": Batches(), "test": Batches(), "epochs": 0, **CPU, **settings}
    with pytest.raises(error):
        metaprune_pl.compress(network, **given)
