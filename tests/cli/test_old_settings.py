"""Settings of earlier versions mean today what they meant then."""

from pathlib import Path
from typing import Any

import pytest

from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning import Lamp, Magnitude, Random, Scales, Taylor
from metaprune_pl.settings.config_text import load_settings, with_included
from metaprune_pl.settings.old_settings import rewrite_old
from metaprune_pl.settings.overrides import join_overrides

CLASSES = {kind.__name__: kind for kind in (Lamp, Magnitude, Random, Scales, Taylor)}


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ({"p": 1.0, "of": "taylor", "normalize": "mean"}, Taylor(p=1.0, normalize="mean")),
        ({"of": "taylor"}, Taylor(p=2.0, normalize="max")),
        ({"of": "weights", "reduce": "first", "seed": 0}, Magnitude(reduce="first")),
        ({"of": "scales", "p": 1.0, "reduce": "mean"}, Scales(p=1.0)),
        ({"of": "random", "normalize": "none", "seed": 3}, Random(normalize="none", seed=3)),
        ({"normalize": "lamp"}, Lamp()),
    ],
)
def test_a_criterion_of_something_is_a_class(old: dict[str, Any], today: object) -> None:
    found = rewrite_old({"detection": {"criterion": old}})["detection"]["criterion"]
    assert CLASSES[found["class_path"]](**found["init_args"]) == today


def test_what_no_class_does_is_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match="write `criterion: Lamp`"):
        rewrite_old({"criterion": {"of": "taylor", "normalize": "lamp"}})


def test_overrides_and_flags_with_dots_are_rewritten_in_their_place(tmp_path: Path) -> None:
    config = tmp_path / "old.yaml"
    config.write_text("chain: {overrides: {curve: {criterion.of: taylor, lr: 1e-3}}}\n")
    [flag] = join_overrides(["--criterion.of=random"])
    [(_, text)] = with_included(config)
    settings = load_settings(text)
    curve = settings["chain"]["overrides"]["curve"]
    assert curve["criterion"]["class_path"] == "Taylor" and curve["lr"] == 0.001
    assert flag.startswith('--criterion={"class_path": "Random", ')
