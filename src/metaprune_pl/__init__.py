"""Meta pruning via graph metanetworks, as a PyTorch Lightning application.

The line that everything else feeds or reads::

    network -> graph -> metanetwork -> graph -> network -> criterion -> pruned network -> report

What a notebook starts with is here: `compress`, `trace`, `rewrite`, `prune`, `load_network`,
`save_network`, `load_metanetwork`, and `run` for a whole command. Each is imported when it is first
asked for, so that `--help` stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaprune_pl.compression import compress
    from metaprune_pl.metanetworks import load_metanetwork
    from metaprune_pl.networks import load_network, save_network
    from metaprune_pl.notebook import prune, rewrite, run, trace

__version__ = "0.1.0"
__all__ = [
    "compress",
    "load_metanetwork",
    "load_network",
    "prune",
    "rewrite",
    "run",
    "save_network",
    "trace",
]

_MODULES = {
    "compress": "compression",
    "load_metanetwork": "metanetworks",
    "load_network": "networks",
    "prune": "notebook",
    "rewrite": "notebook",
    "run": "notebook",
    "save_network": "networks",
    "trace": "notebook",
}


def __dir__() -> list[str]:
    """Names for completion."""
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
