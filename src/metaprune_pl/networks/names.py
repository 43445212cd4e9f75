"""From a name to the function that builds a network.

Ours, torchvision's, timm's, or one of the user's own.
"""

import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from metaprune_pl.errors import NetworkError, did_you_mean
from metaprune_pl.networks.cifar_resnet import CifarResNet
from metaprune_pl.networks.cifar_vgg import CifarVGG
from metaprune_pl.networks.detector import faster_rcnn
from metaprune_pl.networks.plain_vgg import PlainVGG
from metaprune_pl.networks.small_cnn import SmallCNN
from metaprune_pl.networks.trust import (
    CODE,
    OwnCode,
    file_of,
    given_builder,
    is_trusted,
    of_module,
)

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet": CifarResNet,
    "cifar_vgg": CifarVGG,
    "faster_rcnn": faster_rcnn,
    "plain_vgg": PlainVGG,
    "small_cnn": SmallCNN,
}
"""Our own builders by name. Each takes keyword arguments only, a classifier `num_classes` and
`in_channels`."""


def find_builder(name: str) -> tuple[str, Callable[..., nn.Module]]:
    """Return the full name of a network and what builds it.

    Args:
        name: One of ours, `torchvision/NAME`, `timm/NAME`, a NAME that only one of these knows, or
            `package.module:function` or `FILE.py:function`.

    Raises:
        NetworkError: There is none of that name, or several.
    """
    if name in BUILDERS:
        return name, BUILDERS[name]
    file, colon, _ = name.partition(":")
    if file.endswith(".py") and not Path(file).is_file():
        raise NetworkError(f"there is no file '{file}' for the network '{name}'.")
    if file.endswith(".py") and not colon:
        raise NetworkError(f"'{name}' is a file; name the function in it: {name}:FUNCTION.")
    if colon:
        return _find_own(name)
    library, _, short = name.rpartition("/")
    libraries = [other for other in _LIBRARIES if library in {"", other}]
    known = {other: _library_names(other) for other in libraries}
    base = short.partition(".")[0]
    full = [f"{other}/{short}" for other, names in known.items() if base in names]
    if len(full) > 1:
        raise NetworkError(f"network '{name}' is ambiguous: {' or '.join(full)}?")
    if not full:
        by_short = {n: f"{other}/{n}" for other, names in known.items() for n in names}
        if not library:
            by_short |= {name: name for name in BUILDERS}
        close = difflib.get_close_matches(
            short,
            by_short,
            n=1,
            cutoff=0.6,
        )
        hint = f" Did you mean '{by_short[close[0]]}'?" if close else ""
        raise NetworkError(
            f"no network '{name}'.{hint} Known: a folder of a stored "
            f"network, {', '.join(BUILDERS)}, torchvision/NAME, timm/NAME, package.module:function."
        )
    build = _LIBRARIES[full[0].partition("/")[0]]
    return full[0], partial(build, short)


def _find_own(name: str) -> tuple[str, Callable[..., nn.Module]]:
    """Import `package.module:function` or `FILE.py:function`, looking in the current folder first.

    Returns:
        The first of these spellings, and the function.

    Raises:
        NetworkError: Nobody has named it, there is no such module, or it has no such function.
    """
    if not is_trusted(name):
        raise NetworkError(f"'{name}' is not imported. If you know it, add --trust {name}")
    name = of_module(name)
    if (given := given_builder(name)) is not None:
        return name, given
    file = file_of(name)
    if file is None and not CODE.fullmatch(name):
        raise NetworkError(
            f"'{name}' names no function: write package.module:function or FILE.py:function."
        )
    module_name, _, attribute = name.rpartition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    top = module_name.partition(".")[0]
    with OwnCode(f"cannot import '{module_name}' for the network '{name}'", top):
        module = _load(file) if file else importlib.import_module(module_name)
    function = getattr(module, attribute, None)
    if isinstance(function, nn.Module):
        raise NetworkError(
            f"'{name}' is a network, not a function that builds one: name one such as "
            f"'def build(): return {attribute}'."
        )
    if not callable(function):
        hint = did_you_mean(attribute, vars(module))
        raise NetworkError(
            f"module '{module_name}' has no function '{attribute}' that builds a network.{hint}"
        )
    return name, function


def _load(file: Path) -> ModuleType:
    """Import a file, whatever its name; the same file is the same module.

    Another module's name, such as the standard library's `random`, stays its own.
    """
    name = re.sub(r"\W", "_", file.stem)
    while (known := sys.modules.get(name)) is not None:
        if getattr(known, "__file__", None) == str(file):
            return known
        name += "_"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, file
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with ExitStack() as undo:
        undo.callback(sys.modules.pop, name)
        spec.loader.exec_module(module)
        undo.pop_all()
    return module


def _torchvision(name: str, **kwargs: Any) -> nn.Module:
    from torchvision import models

    return models.get_model(name, **kwargs)  # type: ignore[no-any-return]


def _timm(name: str, **kwargs: Any) -> nn.Module:
    import timm

    return timm.create_model(name, **kwargs)  # type: ignore[no-any-return]


_LIBRARIES: dict[str, Callable[..., nn.Module]] = {"torchvision": _torchvision, "timm": _timm}


@cache
def _library_names(library: str) -> list[str]:
    if library == "torchvision":
        from torchvision import models

        return models.list_models(module=models)  # type: ignore[no-any-return]
    import timm

    return timm.list_models()  # type: ignore[no-any-return]
