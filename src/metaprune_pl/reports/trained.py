"""A network that was trained."""

from dataclasses import dataclass

from metaprune_pl.reports.text import Grid, Part, count, percent


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

    def tables(self) -> list[Part]:
        """Return what a person sees."""
        row = count(self.macs), count(self.parameters), percent(self.validation)
        columns = ["network", "MACs", "parameters", "validation %", "test %"]
        return [Grid("Trained", columns, [(self.folder, *row, percent(self.test))])]
