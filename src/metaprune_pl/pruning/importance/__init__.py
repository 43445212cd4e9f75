"""Which channels and weights matter: one class each, which a config names as its `criterion`."""

from metaprune_pl.pruning.importance.base import Images, Importance, Normalized
from metaprune_pl.pruning.importance.elimination import Elimination
from metaprune_pl.pruning.importance.energy import Energy
from metaprune_pl.pruning.importance.lamp import Lamp
from metaprune_pl.pruning.importance.magnitude import Magnitude
from metaprune_pl.pruning.importance.random import Random
from metaprune_pl.pruning.importance.scales import Scales
from metaprune_pl.pruning.importance.taylor import Taylor
from metaprune_pl.pruning.importance.unit_taylor import UnitTaylor

__all__ = [
    "Elimination",
    "Energy",
    "Images",
    "Importance",
    "Lamp",
    "Magnitude",
    "Normalized",
    "Random",
    "Scales",
    "Taylor",
    "UnitTaylor",
]
