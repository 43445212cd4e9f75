"""Networks with masks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import nn

from metaprune_pl.pruning import Unpruned, count_parameters, left_parameters
from metaprune_pl.pruning.targets import MaskTarget, PrunedNetwork
from metaprune_pl.reports.result import Result
from metaprune_pl.reports.steps import legend, step_cells, step_columns, steps_of, trained_in_vain
from metaprune_pl.reports.text import Grid, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Masked(Result):
    """One network whose weights were masked for one target.

    Attributes:
        network: Name of the network.
        method: How it was made ready: `none`, `sparsity_learning` or `metanetwork`.
        target: Share of the weights of convolutions and linear layers that become zero, or a
            pattern `N:M`.
        left: Parameters that are not zero over all of the network before any pruning, the initial
            one included.
        parameters: Number of the latter.
        dense: Weights that a pattern leaves whole, as M does not divide their input channels.
        accuracy_given: Test accuracy of the network as it was given.
        accuracy_before: Test accuracy straight before masking.
        accuracy_masked: Test accuracy straight after masking, and after the re-estimate of
            statistics or the repair that belong to it.
        accuracy_finetuned: Test accuracy after masking and finetuning.
        accuracy_stale: Test accuracy straight after masking without these; None where there
            are none.
        accuracy_base: Test accuracy of the trained network before anything else; None in results
            of before.
        accuracy_predicted: What a predictor that guided the search says of it before finetuning.
        training_kept: See `Pruned`.
    """

    figure_name: ClassVar[str | None] = "masks.png"
    network: str
    method: str
    target: str
    left: float
    parameters: int
    dense: Sequence[str]
    accuracy_given: float
    accuracy_before: float
    accuracy_masked: float
    accuracy_finetuned: float
    accuracy_stale: float | None = None
    accuracy_base: float | None = None
    accuracy_predicted: float | None = None
    training_kept: bool = True

    @classmethod
    def of(
        cls,
        target: MaskTarget,
        unpruned: Unpruned,
        pruned: PrunedNetwork,
        final: nn.Module,
        **measured: Any,
    ) -> Self:
        """Return the result of a network that was masked: see `Pruned.of`."""
        assert pruned.masks is not None
        return cls(
            target=target.text,
            left=left_parameters(final, unpruned.original),
            parameters=count_parameters(unpruned.original),
            dense=list(pruned.masks.dense),
            **measured,
        )

    @property
    def difference(self) -> float | None:
        """Accuracy after masking and finetuning minus that of the trained network."""
        return None if self.accuracy_base is None else self.accuracy_finetuned - self.accuracy_base

    @property
    def name(self) -> str:
        """Name of this result among those of a run."""
        return f"masked_{self.target.replace(':', '_of_')}"

    @property
    def record(self) -> dict[str, Any]:
        """What the stored network remembers of it."""
        return {"left": self.left, "test_accuracy": self.accuracy_finetuned}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was asked for, for TensorBoard."""
        return {"method": self.method, "network": self.network, "target": self.target}

    @property
    def axis(self) -> float:
        """Share of all parameters that is not zero."""
        return self.left

    @property
    def values(self) -> Mapping[str, float]:
        """What came out, for TensorBoard."""
        return {
            "left": self.left,
            "test_accuracy_masked": self.accuracy_masked,
            "test_accuracy_finetuned": self.accuracy_finetuned,
        }

    def row(self) -> dict[str, Any]:
        """Return this result's row of a table on disk."""
        return {**asdict(self), "dense": " ".join(self.dense)}

    @classmethod
    def table(cls, results: Sequence[Self]) -> Grid:
        """Return the table of one network's masks for the console."""
        steps = steps_of(results)
        columns = ["target", "left params %", "left params", *step_columns(steps), "left whole"]
        rows = [
            (
                target_name(result.target),
                f"{100 * result.left:.2f}",
                count(result.left * result.parameters),
                *step_cells(result, steps),
                ", ".join(result.dense),
            )
            for result in results
        ]
        after = "" if results[0].method == "none" else f" after {results[0].method}"
        title = f"{results[0].network}, masked{after}: test accuracy"
        return Grid(title, columns, rows)

    @classmethod
    def notes(cls, results: Sequence[Self]) -> list[str]:
        """Say what the columns are."""
        unkept = (target_name(result.target) for result in results if not result.training_kept)
        return [legend(steps_of(results)), *trained_in_vain(unkept)]

    @classmethod
    def figure(cls, results: Sequence[Self]) -> "Figure":
        """Draw accuracy over the parameters left."""
        from metaprune_pl.reports.masks import draw_masks

        return draw_masks(results)


def target_name(target: str) -> str:
    """Say what is masked: a share of zeros, or a pattern."""
    return target if ":" in target else f"{100 * float(target):g} % zeros"
