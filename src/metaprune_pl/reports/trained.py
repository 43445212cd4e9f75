"""A network that was trained."""

from dataclasses import dataclass

from rich.console import RenderableType

from metaprune_pl.reports.text import count, percent, text_table


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came out of a training.

    Attributes:
        folder: Where the network is.
        macs: Multiply-accumulates for one image.
        parameters: Number of parameters.
        validation: Accuracy on the validation images.
        test: Accuracy on the test images.
    """

    folder: str
    macs: int
    parameters: int
    validation: float
    test: float

    def tables(self) -> list[RenderableType]:
        """Return what a person sees."""
        row = count(self.macs), count(self.parameters), percent(self.validation)
        columns = ["network", "MACs", "parameters", "validation %", "test %"]
        return [
            text_table("Trained", columns, [(self.folder, *row, percent(self.test))]),
            f"Next: metaprune prune {self.folder} --data FOLDER --speed_up 2",
        ]
