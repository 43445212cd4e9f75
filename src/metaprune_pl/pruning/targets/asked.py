"""The targets that a command's settings ask for."""

from collections.abc import Sequence

from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning.plan import PruningSettings
from metaprune_pl.pruning.targets.base import Target
from metaprune_pl.pruning.targets.mask_settings import MaskSettings
from metaprune_pl.pruning.targets.speed_up import speed_up_targets


def asked_targets(
    speed_ups: Sequence[float],
    masks: MaskSettings | None,
    targets: Sequence[Target],
    settings: PruningSettings,
) -> Sequence[Target]:
    """Return the targets that settings ask for.

    Args:
        speed_ups: Speed-ups, where there is nothing else.
        masks: Weights that become zero, in place of speed-ups.
        targets: Targets of any kind, in place of both.
        settings: Steps and floors of those that remove channels.

    Raises:
        ConfigError: They make no sense, some remove channels and some do not, or two are the same.
    """
    if not targets:
        return speed_up_targets(speed_ups, settings) if masks is None else masks.targets
    folders = {target.folder for target in targets}
    if len({target.channels for target in targets}) > 1 or len(folders) < len(targets):
        raise ConfigError("targets: name each once, and those of channels or of zeros alone.")
    return [target.under(settings) for target in targets]
