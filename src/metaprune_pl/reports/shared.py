"""A network that went to a repository, or came from one."""

from dataclasses import dataclass

from metaprune_pl.reports.text import Line, Part


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Where a network is now.

    Attributes:
        network: Folder, or address of a repository.
        next_step: What one does with it next.
    """

    network: str
    next_step: str

    def tables(self) -> list[Part]:
        """Return what a person sees."""
        return [Line(f"The network is in {self.network}. Next: {self.next_step}")]
