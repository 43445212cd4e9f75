"""What networks are pruned to: a class each, which knows its checks and makes the network."""

from metaprune_pl.pruning.targets.asked import asked_targets
from metaprune_pl.pruning.targets.base import Masks, PrunedNetwork, Target, check_targets, reach
from metaprune_pl.pruning.targets.faster import Faster
from metaprune_pl.pruning.targets.mask_settings import MaskSettings
from metaprune_pl.pruning.targets.masks import MaskTarget, apply_masks, find_masks, left_parameters
from metaprune_pl.pruning.targets.pattern import Pattern
from metaprune_pl.pruning.targets.speed_up import (
    ChannelTarget,
    SpeedUp,
    check_speed_ups,
    prune,
    speed_up_targets,
)
from metaprune_pl.pruning.targets.zero_share import ZeroShare

__all__ = [
    "ChannelTarget",
    "Faster",
    "MaskSettings",
    "MaskTarget",
    "Masks",
    "Pattern",
    "PrunedNetwork",
    "SpeedUp",
    "Target",
    "ZeroShare",
    "apply_masks",
    "asked_targets",
    "check_speed_ups",
    "check_targets",
    "find_masks",
    "left_parameters",
    "prune",
    "reach",
    "speed_up_targets",
]
