"""Metanetworks by the names that stored ones go by.

A name in a file imports nothing but the classes of this package: another class is known once the
person's own code, or a module that the person trusts, has imported it.
"""

import importlib
from collections.abc import Iterator

from metaprune_pl.errors import StorageError, did_you_mean
from metaprune_pl.metanetworks.base import Metanetwork
from metaprune_pl.networks.trust import is_trusted

BUILT_IN = (
    "metaprune_pl.metanetworks.pna.PNAMetanetwork",
    "metaprune_pl.metanetworks.pna_pyg.PyGMetanetwork",
    "metaprune_pl.metanetworks.scale.operator.ScaleMetanetwork",
    "metaprune_pl.metanetworks.scale.predictor.ScalePredictor",
)
"""The classes of this package, which are imported when a name asks for them."""


def name_of(kind: type[Metanetwork]) -> str:
    """Return the name that stored metanetworks of a class go by."""
    return f"{kind.__module__}.{kind.__qualname__}"


def metanetwork_class(name: str) -> type[Metanetwork]:
    """Return the class of a name.

    Raises:
        StorageError: No class of that name is known.
    """
    if name in BUILT_IN or is_trusted(name):
        importlib.import_module(name.rpartition(".")[0])
    kinds = _subclasses(Metanetwork)  # type: ignore[type-abstract]
    known = {name_of(kind): kind for kind in kinds}
    if name not in known:
        raise StorageError(
            f"no metanetwork is known as '{name}'.{did_you_mean(name, [*BUILT_IN, *known])} "
            f"A class of your own is known with --trust {name}"
        )
    return known[name]


def _subclasses(kind: type[Metanetwork]) -> Iterator[type[Metanetwork]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)
