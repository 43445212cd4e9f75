"""Masks as a config names them."""

from dataclasses import dataclass, field

from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning.targets.masks import MaskTarget, Ranking
from metaprune_pl.pruning.targets.pattern import Pattern
from metaprune_pl.pruning.targets.zero_share import ZeroShare


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Which weights become zero, in place of channels that are removed.

    Attributes:
        sparsities: Shares of the weights of convolutions and linear layers that become zero, such
            as 0.8.
        patterns: `N:M` keeps the N most important of each M weights that follow each other along
            the input channels, the layout that sparse tensor cores take (2:4). In YAML in quotes,
            or it is a time of day.
        ranking: Whether a share is of all weights together (`global`) or of each layer's
            (`uniform`).
    """

    sparsities: list[float] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    ranking: Ranking = "global"

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError(
                "masks: give sparsities, such as [0.5, 0.8], or patterns, such as ['2:4']."
            )

    @property
    def shares(self) -> list[ZeroShare]:
        """A target for each share."""
        return [ZeroShare(share=share, ranking=self.ranking) for share in self.sparsities]

    @property
    def on_curve(self) -> list[ZeroShare]:
        """A target for each point of a curve.

        Raises:
            ConfigError: There are no shares.
        """
        if not self.sparsities:
            raise ConfigError(
                "a curve is over shares of weights that become zero: give masks.sparsities."
            )
        return sorted(self.shares, key=lambda target: target.share)

    @property
    def targets(self) -> list[MaskTarget]:
        """Shares, then patterns."""
        return [*self.shares, *(Pattern.from_text(text) for text in self.patterns)]
