"""The doctor: what it finds is what the graph and the network say, for a person and as JSON."""

import json
from pathlib import Path

import pytest
import torch

from metaprune_pl.__main__ import main
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    NetworkSource,
    create_network,
    save_network,
)
from metaprune_pl.pipelines.inspect import inspect
from metaprune_pl.pruning import count_macs, count_parameters, prunable_groups
from metaprune_pl.reports.graph_figure import draw_graph
from metaprune_pl.reports.graph_layout import lay_out


def found(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    capsys.readouterr()
    main(["inspect", *args, "--json"])
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_numbers_are_those_of_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    facts = found(capsys, "cifar_resnet", "--arguments={depth: 8, width: 4}", "--input_shape=3,8,8")
    network = create_network("cifar_resnet", depth=8, width=4)
    image = torch.zeros(1, 3, 8, 8)
    assert facts["parameters"] == count_parameters(network)
    assert facts["macs"] == count_macs(network, image)
    assert (facts["covered"], facts["outside"]) == (1.0, {})
    assert facts["neurons"] == 3 + 4 + 2 * (4 + 8 + 16) + 10
    groups = {group["name"]: group for group in facts["groups"]}  # type: ignore[attr-defined]
    assert groups["conv1"] == {
        "name": "conv1",
        "layers": ["conv1", "layer1.0.conv2"],
        "width": 4,
        "units": 4,
    }
    assert {name: group["units"] for name, group in groups.items()} == {
        "conv1": 4,
        "layer1.0.conv1": 4,
        "layer2.0.conv1": 8,
        "layer2.0.conv2": 8,
        "layer3.0.conv1": 16,
        "layer3.0.conv2": 16,
    }
    assert list(facts["stays"]) == ["input", "fc"]  # type: ignore[call-overload]
    one_channel_each = 64 * (3 * 9 + 9 + 9) + 16 * (9 + 9 + 1) + 4 * (9 + 9 + 1) + 10
    highest = facts["macs"] / one_channel_each  # type: ignore[operator]
    assert facts["highest_speed_up"] == pytest.approx(highest)


def test_what_stays_is_named_with_its_reason() -> None:
    arguments = {"depth": 8, "width": 4, "shortcut": "pad"}
    facts = inspect("cifar_resnet", arguments=arguments, input_shape="3,8,8")
    assert not {"layer2.0.conv2", "layer3.0.conv2"} & set(facts.stays)
    assert facts.stays["fc"] == "10 of 10 channels: the network's output, or tied to it"
    facts = inspect("helpers:CountingNet", input_shape="3,8,8")
    assert (
        facts.stays["first"]
        == "4 of 4 channels: the forward pass does not run with fewer, as a trial has shown"
    )
    assert [group.name for group in facts.groups] == ["second"]
    facts = inspect("test_vit")
    assert facts.input_shape == (3, 160, 160)
    assert facts.outside == {"cls_token": 64, "pos_embed": 101 * 64}
    assert facts.covered == pytest.approx(1 - 102 * 64 / facts.parameters)


def test_a_person_reads_tables(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = NetworkSettings(arguments={"depth": 8, "width": 4})
    save_network(
        "net",
        create_network("cifar_resnet", depth=8, width=4),
        NetworkCard(settings=settings, input_shape=(3, 8, 8)),
    )
    main(["inspect", "net", "--figure", "graph.png"])
    text = capsys.readouterr().out
    for words in (
        "multiply-accumulates",
        "What can be pruned: 6 groups",
        "What cannot be pruned",
        "layer1.0.conv2",
    ):
        assert words in text
    assert Path("graph.png").read_bytes().startswith(b"\x89PNG")
    assert "--input_shape" not in text  # it is stored with the network


def test_a_shape_that_nobody_gave_is_told_with_the_flag_that_sets_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["inspect", "cifar_resnet", "--arguments={depth: 8, width: 2}"])
    assert "3x32x32 (by default; --input_shape C,H,W sets another)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet", "test_convnext"])
def test_the_picture_shows_each_group_once_where_no_other_is(name: str) -> None:
    network, card = NetworkSource(network=name).open()
    groups = prunable_groups(network, torch.zeros(1, *card.input_shape))
    bars = lay_out(groups)
    assert [bar.name for bar in bars] == [group.name for group in groups.graph.groups]
    assert [bar.size for bar in bars] == [group.size for group in groups.graph.groups]
    assert all(sum(share for share, _ in bar.colors) == pytest.approx(1) for bar in bars)
    for number, bar in enumerate(bars):
        for other in bars[:number]:
            if (bar.row, bar.x) == (other.row, other.x):
                assert abs(bar.y - other.y) > (bar.height + other.height) / 2
    draw_graph(groups, name)


def test_a_long_network_goes_on_in_the_next_row_and_ties_share_a_colour() -> None:
    network, card = NetworkSource(
        network="cifar_resnet", arguments={"depth": 56, "width": 2}
    ).open()
    bars = {
        bar.name: bar
        for bar in lay_out(prunable_groups(network, torch.zeros(1, *card.input_shape)))
    }
    assert {bar.row for bar in bars.values()} == {0, 1}
    assert bars["layer1.0.conv2"].colors == bars["layer1.8.conv2"].colors == bars["conv1"].colors
    assert bars["layer1.0.conv2"].colors != bars["layer2.0.conv2"].colors
    assert (
        bars["layer1.0.conv1"].colors
        == bars["layer2.3.conv1"].colors
        != bars["fc"].colors
        == bars["input"].colors
    )


def test_of_a_detector_the_backbone_is_inspected() -> None:
    arguments = {
        "backbone": "timm/resnet18",
        "channels": [8, 16, 24, 32],
        "layers": [1, 1, 1, 1],
        "min_size": 64,
        "head_width": 8,
    }
    facts = inspect("faster_rcnn", arguments=arguments)
    assert (facts.network, facts.input_shape, facts.covered) == (
        "faster_rcnn, backbone",
        (3, 64, 64),
        1.0,
    )
    assert facts.stays["layer4.0.conv2"] == "32 of 32 channels: the network's output, or tied to it"
    assert {group.name for group in facts.groups} >= {"conv1", "layer4.0.conv1"}
