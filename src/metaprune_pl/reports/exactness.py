"""Whether a pruned network is the original with masked channels, and what was done for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from metaprune_pl.pruning.targets import PrunedNetwork


@dataclass(frozen=True, kw_only=True)
class Exactness:
    """What came of the comparison of a pruned network with the original with masked channels.

    Attributes:
        outputs: Paths of the outputs whose values were compared; '' is a single tensor.
        difference: Largest difference of an element, as a share of the largest one of its output.
        reason: Why values were not compared, where they were not.
        attributes: Attributes of modules that were set, since they count channels.
        unfollowed: Operations that the trace did not follow; the channels around them stayed.
    """

    outputs: Sequence[str]
    difference: float
    reason: str
    attributes: Sequence[str]
    unfollowed: Sequence[str]

    @classmethod
    def of(cls, pruned: PrunedNetwork) -> Self | None:
        """Return that of a pruned network; None where another pruner removed channels."""
        if pruned.comparison is None:
            return None
        return cls(
            outputs=pruned.comparison.outputs,
            difference=pruned.comparison.difference,
            reason=pruned.comparison.reason,
            attributes=pruned.attributes,
            unfollowed=pruned.unfollowed,
        )

    @property
    def compared(self) -> str:
        """What was compared, for people."""
        if self.reason:
            return f"nothing, as {self.reason}"
        return ", ".join(path or "the output" for path in self.outputs)

    def row(self) -> dict[str, Any]:
        """Return the columns of a table on disk."""
        return {
            "compared": self.compared,
            "largest_difference": self.difference,
            "attributes_set": " ".join(self.attributes),
            "not_followed": "; ".join(self.unfollowed),
        }

    def sentences(self, most: int = 5) -> list[str]:
        """Say it; of long lists no more than `most` names."""
        same = f"largest difference {self.difference:.1g} of the largest value"
        told = [
            f"Pruned compared with masked: {self.compared}{'' if self.reason else f' ({same})'}."
        ]
        if self.attributes:
            more = len(self.attributes) - most
            names = ", ".join(self.attributes[:most]) + (f" and {more} more" if more > 0 else "")
            told.append(f"Attributes set to the new widths: {names}.")
        told += [f"Not followed, channels around it stay: {x}." for x in self.unfollowed[:most]]
        return told


def in_row(row: Mapping[str, Any], exactness: Exactness | None) -> dict[str, Any]:
    """Return a result's row with the columns of a comparison in place of `exactness`."""
    own = {} if exactness is None else exactness.row()
    assert not own.keys() & row.keys()
    return {name: value for name, value in row.items() if name != "exactness"} | own
