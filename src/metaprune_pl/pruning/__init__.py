"""Which channels go together, which matter least, and networks without them.

Letters in shapes: N nodes, U units (channels that are removed together with all that hangs on
them).
"""

from metaprune_pl.pruning.choice import ChoiceSettings, candidate_plans, choose
from metaprune_pl.pruning.cost import (
    Cost,
    Latency,
    Macs,
    Parameters,
    count_parameters,
    measure_latencies,
)
from metaprune_pl.pruning.groups import PruningGroups, find_groups
from metaprune_pl.pruning.heads import AttentionUnits
from metaprune_pl.pruning.importance import (
    Elimination,
    Energy,
    Importance,
    Lamp,
    Magnitude,
    Random,
    Scales,
    Taylor,
    UnitTaylor,
)
from metaprune_pl.pruning.macs import count_macs
from metaprune_pl.pruning.plan import PruningSettings, plan
from metaprune_pl.pruning.recalibration import recalibrate
from metaprune_pl.pruning.removal import remove
from metaprune_pl.pruning.repair import repair
from metaprune_pl.pruning.semi_structured import SemiStructured, semi_structured
from metaprune_pl.pruning.sparsity import Sparsity
from metaprune_pl.pruning.targets import (
    Masks,
    MaskSettings,
    Pattern,
    SpeedUp,
    Target,
    ZeroShare,
    apply_masks,
    find_masks,
    left_parameters,
    prune,
)
from metaprune_pl.pruning.trials import prunable_groups
from metaprune_pl.pruning.unpruned import Unpruned, examine

__all__ = [
    "AttentionUnits",
    "ChoiceSettings",
    "Cost",
    "Elimination",
    "Energy",
    "Importance",
    "Lamp",
    "Latency",
    "Macs",
    "Magnitude",
    "MaskSettings",
    "Masks",
    "Parameters",
    "Pattern",
    "PruningGroups",
    "PruningSettings",
    "Random",
    "Scales",
    "SemiStructured",
    "Sparsity",
    "SpeedUp",
    "Target",
    "Taylor",
    "UnitTaylor",
    "Unpruned",
    "ZeroShare",
    "apply_masks",
    "candidate_plans",
    "choose",
    "count_macs",
    "count_parameters",
    "examine",
    "find_groups",
    "find_masks",
    "left_parameters",
    "measure_latencies",
    "plan",
    "prunable_groups",
    "prune",
    "recalibrate",
    "remove",
    "repair",
    "semi_structured",
]
