"""A zoo: networks with drawn settings, their snapshots and sparse copies."""

import json
import math
from pathlib import Path

import pytest
import torch

from conftest import QUIET
from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits, NetworkZoo
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pipelines.copies import CopySettings
from metaprune_pl.stages.accuracy import accuracy
from metaprune_pl.stages.variation import Variation

TINY = [
    "data_models",
    "--config=zoo_quickstart.yaml",
    "--model.init_args.network.arguments={width: 4}",
    "--model.init_args.seeds=[3, 4, 5]",
    "--model.init_args.snapshots=[1]",
    "--data.init_args.fraction=0.2",
    "--copies.number=2",
    "--copies.finetune.epochs=1",
    "--trainer.max_epochs=2",
    "--trainer.default_root_dir=zoo",
    *QUIET,
]


def test_networks_snapshots_and_copies_make_one_architecture_of_a_zoo(workdir: Path) -> None:
    main(TINY)
    zoo = NetworkZoo("zoo/networks", validation_share=0.3, test_share=0.3)
    zoo.setup("fit")
    (one,) = zoo.architectures
    assert sorted(set(one.bases)) == ["seed_0003", "seed_0004", "seed_0005"]
    assert len(one.bases) == 3 * (1 + 1 + 2 * 2)
    drawn = [read_card(folder) for folder in sorted(Path("zoo/networks").glob("seed_*"))]
    assert len({card.record["lr"] for card in drawn}) == 3
    for card in drawn:
        assert 0.002 <= card.record["lr"] <= 0.05 and 0.7 <= card.record["gain"] <= 2.0
        assert card.settings.arguments["dropout"] == card.record["dropout"] <= 0.3
    data = Digits(image_size=16)
    for folder in sorted(Path("zoo/networks/copies").iterdir()):
        card, network = read_card(folder), load_network(folder)
        weights = torch.cat([network.get_parameter(name).flatten() for name in card.masked])
        zeros = int((weights == 0).sum())
        assert zeros == round(card.record["share"] * len(weights)), folder
        reached = accuracy(network, data, "validation", torch.device("cpu"))
        assert card.record["validation_accuracy"] == reached


def test_a_stopped_zoo_goes_on_to_the_same_networks(workdir: Path) -> None:
    main([*TINY, "--model.init_args.seeds=[3]"])
    main(TINY)  # another process, or the same one later, makes those that are missing
    main([*TINY, "--trainer.default_root_dir=at_once"])
    names = {path.relative_to("zoo") for path in Path("zoo/networks").rglob("weights.safetensors")}
    assert len(names) == 18
    for name in names:
        assert (Path("zoo") / name).read_bytes() == (Path("at_once") / name).read_bytes(), name


def test_what_a_seed_draws_depends_on_nothing_else() -> None:
    whole = Variation(
        lr=(1e-3, 1e-1),
        weight_decay=(1e-5, 1e-2),
        gain=(0.5, 2),
        dropout=(0, 0.5),
        optimizers=["sgd", "adamw"],
    )
    assert Variation(gain=(0.5, 2)).draw(7) == {"gain": whole.draw(7)["gain"]}
    many = [whole.draw(seed) for seed in range(400)]
    logarithms = torch.tensor([math.log10(drawn["lr"]) for drawn in many])
    assert -3 <= logarithms.min() and logarithms.max() <= -1
    assert float(logarithms.mean()) == pytest.approx(-2, abs=0.1)
    assert 150 < sum(drawn["optimizer"] == "sgd" for drawn in many) < 250
    assert json.loads(json.dumps(many[0])) == many[0]


@pytest.mark.parametrize(
    "settings", [{"lr": (0, 1)}, {"gain": (2, 1)}, {"dropout": (0, 1)}, {"lr": (1, math.nan)}]
)
def test_ranges_that_make_no_sense_are_refused(settings: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match=r"vary\."):
        Variation(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="copies"):
        CopySettings(max_share=1.0)


def test_networks_with_settings_of_their_own_are_not_trained_side_by_side(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*TINY, "--side_by_side=3"])
    assert "one by one" in capsys.readouterr().err
