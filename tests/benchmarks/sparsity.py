"""The sparsity term of ResNet-50 with its gradient, beside torch-pruning's `regularize`.

Run with `python -m tests.benchmarks.sparsity`.
"""

import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch_pruning
import torchvision

from metaprune_pl.graphs import trace
from metaprune_pl.pruning import Magnitude, Sparsity, find_groups


class DoubleImportance(torch_pruning.importance.GroupMagnitudeImportance):  # type: ignore[misc]
    """torch-pruning's scores without their float32.

    Their mean over a group's layers is always taken in it."""

    def _reduce(self, group_imp: list[torch.Tensor], group_idxs: list[list[int]]) -> torch.Tensor:
        total = torch.zeros_like(group_imp[0])
        for score, index in zip(group_imp, group_idxs, strict=True):
            total.index_add_(0, torch.tensor(index), score)
        return total / len(group_imp)


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure both in turn, and compare their gradients in double precision."""
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 64, 64)
    theirs_as_it_is = torch_pruning.importance.GroupMagnitudeImportance
    for importance, dtype, repetitions in (
        (DoubleImportance, torch.float64, 0),
        (theirs_as_it_is, torch.float64, 0),
        (theirs_as_it_is, torch.float32, 7),
    ):
        model = torchvision.models.resnet50().to(dtype)
        groups = find_groups(trace(model.float(), image))
        model = model.to(dtype)
        state = {name: value.detach() for name, value in copy.deepcopy(model).named_parameters()}
        ours = {name: torch.zeros_like(value) for name, value in state.items()}
        pruner = torch_pruning.pruner.GroupNormPruner(
            model,
            (image.to(dtype),),
            reg=1.0,
            ignored_layers=[model.fc],
            num_heads={},
            in_channel_groups={},
            out_channel_groups={},
            importance=importance(p=2, group_reduction="mean", normalizer="max"),
        )
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        term = Sparsity(weight=1.0, alpha=4.0)
        run = lambda: term.gradient(Magnitude(), groups, state, ours)  # noqa: E731, B023
        regularize = lambda: pruner.regularize(model, alpha=16)  # noqa: E731, B023
        run(), regularize()
        if dtype == torch.float64:
            theirs = {
                name: own.grad for name, own in model.named_parameters() if own.grad is not None
            }
            gap = sum(float((ours[name] - own).square().sum()) for name, own in theirs.items())
            norm = sum(float(own.square().sum()) for own in theirs.values())
            scores = (
                "double precision"
                if importance is DoubleImportance
                else "float32, as torch-pruning has them"
            )
            print(
                f"difference of the gradients: {(gap / norm) ** 0.5:.1e} of their norm (scores in "
                f"{scores})"
            )
        pairs = [(seconds(run), seconds(regularize)) for _ in range(repetitions)]
        if pairs:
            mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
            print(
                f"ours {1e3 * mine:.0f} ms, regularize {1e3 * other:.0f} ms: {other / mine:.1f}x "
                "faster",
                flush=True,
            )


if __name__ == "__main__":
    main()
