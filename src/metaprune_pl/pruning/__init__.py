"""Which channels go together, which matter least, and networks without them.

Letters in shapes: N nodes, U units (channels that are removed together with all that hangs on
them).
"""

from metaprune_pl.pruning.cost import count_parameters, measure_latencies
from metaprune_pl.pruning.groups import PruningGroups, find_groups
from metaprune_pl.pruning.heads import AttentionUnits
from metaprune_pl.pruning.importance import Importance, Lamp, Magnitude, Random, Scales, Taylor
from metaprune_pl.pruning.macs import count_macs
from metaprune_pl.pruning.removal import remove
from metaprune_pl.pruning.semi_structured import SemiStructured, semi_structured
from metaprune_pl.pruning.sparsity import Sparsity
from metaprune_pl.pruning.structured import PruningSettings, plan, prune
from metaprune_pl.pruning.trials import prunable_groups
from metaprune_pl.pruning.unstructured import (
    Masks,
    MaskSettings,
    apply_masks,
    find_masks,
    left_parameters,
)

__all__ = [
    "AttentionUnits",
    "Importance",
    "Lamp",
    "Magnitude",
    "MaskSettings",
    "Masks",
    "PruningGroups",
    "PruningSettings",
    "Random",
    "Scales",
    "SemiStructured",
    "Sparsity",
    "Taylor",
    "apply_masks",
    "count_macs",
    "count_parameters",
    "find_groups",
    "find_masks",
    "left_parameters",
    "measure_latencies",
    "plan",
    "prunable_groups",
    "prune",
    "remove",
    "semi_structured",
]
