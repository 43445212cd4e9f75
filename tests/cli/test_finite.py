"""No setting takes NaN or infinity: from a config, from a flag, or from Python."""

import dataclasses
import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from lightning.pytorch import LightningModule

from metaprune_pl.__main__ import main
from metaprune_pl.cli.commands import COMMANDS, load
from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.pruning.targets import Target
from metaprune_pl.stages.preparation import Preparation

STAGES = ("data_models", "meta_training", "curve", "prune")
NEEDED: dict[str, Any] = {
    **dict.fromkeys(STAGES, "quickstart.yaml"),
    "mean": (0.5,),
    "share": 0.5,
    "sparsities": [0.5],
    "speed_up": 2.0,
    "std": (0.5,),
    "value": 2.0,
}
"""Values of settings that have no default, or one that does not stand alone."""

OWN: dict[str, dict[str, Any]] = {"PaperRow": {"table": 8, "row": "l1", "target": 2.0}}
"""Those of one class."""
KEYS = {"numbers": "accuracy"}
"""Keys of settings that do not take every one."""
ALONE = {"Goal": {"size": "2MB"}}
"""Classes that take one of several settings, and what makes them whole without the number."""


def settings_classes() -> list[type]:
    """Return all dataclasses of this package that a command, a stage or a target is made of."""
    todo: list[Any] = [*map(load, COMMANDS), Preparation, Target, LightningModule]
    known: dict[Any, None] = {}
    while todo:
        kind = todo.pop()
        module = getattr(kind, "__module__", None) or ""
        if not module.startswith(("metaprune_pl", "lightning")) or kind in known:
            continue
        known[kind] = None
        todo += kind.__subclasses__() if isinstance(kind, type) else []
        if kind is not LightningModule:
            todo += [part for hint in hints(kind).values() for part in (hint, *parts(hint))]
    return [
        kind for kind in known if dataclasses.is_dataclass(kind) and not inspect.isabstract(kind)
    ]


def hints(kind: Any) -> dict[str, Any]:
    values = get_type_hints(kind.__init__ if isinstance(kind, type) else kind)
    return {name: hint for name, hint in values.items() if name != "return"}


def parts(hint: Any) -> Iterator[Any]:
    for part in get_args(hint):
        yield part
        yield from parts(part)


def numbers() -> Iterator[Any]:
    for kind in settings_classes():
        for name, hint in hints(kind).items():
            if float in (hint, *parts(hint)):
                yield pytest.param(kind, name, hint, id=f"{kind.__name__}.{name}")


def as_hinted(name: str, hint: Any, value: float) -> Any:
    if get_origin(hint) is dict:
        return {KEYS.get(name, "layer"): value}
    if any(get_args(part) == (float, float) for part in (hint, *parts(hint))):
        return (value, value)
    return [value] if get_origin(hint) in (list, tuple, Sequence) else value


@pytest.mark.parametrize(("kind", "name", "hint"), list(numbers()))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_from_python(kind: type, name: str, hint: Any, value: float) -> None:
    needed = {key: NEEDED[key] for key in hints(kind) if key in NEEDED}
    needed |= OWN.get(kind.__name__, {})
    kind(**needed, **ALONE.get(kind.__name__, {}))
    with pytest.raises(ConfigError):  # for the number alone
        kind(**{**needed, name: as_hinted(name, hint, value)})


@pytest.mark.parametrize("name", ["node_ratio", "edge_ratio", "edge_scale"])
def test_a_metanetwork_from_python(name: str) -> None:
    with pytest.raises(ConfigError, match="must be a finite number"):
        PNAMetanetwork(layers=1, hidden=4, **{name: math.nan})


def test_no_class_is_overlooked() -> None:
    names = {parameter.values[0].__name__ for parameter in numbers()}
    assert names >= {"OptimizerSettings", "FinetuneSettings", "Sparsity", "Magnitude", "SpeedUp"}
    assert names >= {"CurveSettings", "ChoiceSettings", "MaskSettings", "Budgeted", "Distillation"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("finetune_after.optimizer.lr", ".inf"),
        ("speed_ups", "[.nan]"),
        ("speed_ups", "[2, 1e999]"),
        ("sparsity.weight", ".nan"),
        ("pruning.max_ratios", "{conv1: .nan}"),
        ("trainer.gradient_clip_val", ".nan"),
    ],
)
def test_from_a_flag_or_a_config(
    setting: str, value: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, nested = setting, value
    while "." in key:
        key, _, inner = key.rpartition(".")
        nested = f"{{{inner}: {nested}}}"
    Path("own.yaml").write_text(f"{key}: {nested}\n")
    for args in ([f"--{setting}={value}"], ["--config=own.yaml"]):
        with pytest.raises(SystemExit) as stop:
            main(["prune", "--config=prune_quickstart.yaml", "--network=resnet56", *args])
        err = capsys.readouterr().err
        assert stop.value.code == 1 and "must be a finite number" in err
        assert err.startswith(f"error: {setting.partition('.')[0]}") and err.count("\n") == 1
    assert [path.name for path in workdir.iterdir()] == ["own.yaml"]
