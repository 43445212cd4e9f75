"""What a pruned network is told to be: the same as the masked one, and what was set for it."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from metaprune_pl.pruning import Magnitude, PruningSettings, SpeedUp, examine
from metaprune_pl.reports import Pruned
from metaprune_pl.reports.exactness import Exactness


class Block(nn.Module):
    """Counts its channels, and sorts places, which the trace does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.second(self.first(x).relu())
        flat = maps.reshape(len(x), self.width, -1)
        return self.classifier(torch.special.i0(flat.mean(2)).log())


def exactness_at_2x() -> Exactness:
    torch.manual_seed(0)
    network, image = Block().eval(), torch.zeros(1, 3, 4, 4)
    target = SpeedUp(value=1.5, settings=PruningSettings(step=0.1))
    (pruned,) = SpeedUp.reach([target], network, examine(network, image), Magnitude())
    told = Exactness.of(pruned)
    assert told is not None
    return told


def test_what_was_compared_set_and_not_followed_is_told(tmp_path: Path) -> None:
    told = exactness_at_2x()
    assert told.compared == "the output" and told.difference < 1e-5 and told.reason == ""
    assert told.unfollowed and "special_i0" in told.unfollowed[0]
    text = " ".join(told.sentences())
    assert "Pruned compared with masked: the output (largest difference" in text
    assert "Not followed, channels around it stay: operator 'aten.special_i0" in text
    result = Pruned(
        network="net",
        method="none",
        target=1.5,
        speed_up=1.6,
        macs=1,
        parameters=1,
        accuracy_given=0.5,
        accuracy_before=0.5,
        accuracy_pruned=0.5,
        accuracy_finetuned=0.5,
        exactness=told,
    )
    row = result.row()
    assert row["compared"] == "the output" and "special_i0" in row["not_followed"]
    assert "exactness" not in row and Pruned.notes([result])[1:] == told.sentences()
    again = Pruned.from_plain(json.loads(json.dumps(asdict(result))), tmp_path)
    assert again.row() == row


def test_where_nothing_can_be_compared_the_reason_is_told() -> None:
    none = Exactness(outputs=(), difference=0.0, reason="x", attributes=["a.b"], unfollowed=())
    compared, attributes = none.sentences()
    assert compared == "Pruned compared with masked: nothing, as x."
    assert attributes == "Attributes set to the new widths: a.b."
