"""The commands, each a function; imports nothing heavy, for `metaprune --help`."""

import ast
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMANDS = {
    "fit": "metaprune_pl.pipelines.fit:fit",
    "validate": "metaprune_pl.pipelines.fit:validate",
    "test": "metaprune_pl.pipelines.fit:test",
    "train": "metaprune_pl.pipelines.train:train",
    "data_models": "metaprune_pl.pipelines.data_models:data_models",
    "prune": "metaprune_pl.pipelines.prune:prune",
    "prune_task": "metaprune_pl.pipelines.prune_task:prune_task",
    "curve": "metaprune_pl.pipelines.curve:curve",
    "select": "metaprune_pl.pipelines.select:select",
    "analyze": "metaprune_pl.pipelines.analyze:analyze",
    "detect": "metaprune_pl.pipelines.detect:detect",
    "export": "metaprune_pl.pipelines.export:export",
    "benchmark": "metaprune_pl.pipelines.benchmark:benchmark",
    "push": "metaprune_pl.pipelines.share:push",
    "pull": "metaprune_pl.pipelines.share:pull",
    "inspect": "metaprune_pl.pipelines.inspect:inspect",
    "experiment": "metaprune_pl.pipelines.experiment:experiment",
    "compare": "metaprune_pl.pipelines.compare:compare",
}
"""Name of a command to its function. LightningCLI runs `fit`, `validate` and `test`; they are
functions, too, for stages of an experiment and for notebooks."""


def summary(command: str) -> str:
    """Return the first line of a command's docstring, without importing its module."""
    module, _, name = COMMANDS[command].partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise AssertionError(f"{module} has no function {name}")


def load(command: str) -> Callable[..., Any]:
    """Return the function of a command."""
    module, _, name = COMMANDS[command].partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
