"""The whole line on one network: trace, read, metanetwork, write, prune, train, save, load."""

import tempfile
import time
from dataclasses import dataclass
from multiprocessing import Queue
from typing import Any, cast

import torch
from torch import Tensor, nn

from helpers import randomize
from metaprune_pl.errors import MetapruneError
from metaprune_pl.graphs import SCHEMAS, WeightGraph, read, trace, write
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    save_network,
)
from metaprune_pl.networks.examples import Example, call, convert, random_like, tensors_of
from metaprune_pl.networks.examples import arguments as arguments_of
from metaprune_pl.networks.inputs import example_of
from metaprune_pl.networks.trust import trust
from metaprune_pl.networks.widths import own_state
from metaprune_pl.pruning import Macs, Magnitude, PruningSettings, SpeedUp, Unpruned, examine
from other_pruner import result_of_torch_pruning

_ARGUMENTS: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": False}
    for name in ("torchvision/googlenet", "torchvision/inception_v3")
}
"""Arguments that a network needs besides its name: one output, and no initialisation of half a
minute."""
ERRORS = (
    MetapruneError,
    RuntimeError,
    AssertionError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
)
"""What counts as a failure of one network and not of the report."""


@dataclass(kw_only=True)
class Row:
    """What came of one network; a step that was not reached is False or 0.

    Attributes:
        network: Name, as `create_network` takes it.
        parameters: Number of its parameters.
        traced: The network is a graph.
        exact: `write(read(state))` is the state, bit for bit; also after pruning.
        coverage: Share of the parameters that lie in the graph.
        metanetwork: An untrained metanetwork leaves the logits as they are.
        speed_up: MACs before over MACs after pruning to 2x.
        compared: What of the pruned network was compared with the masked one: the outputs by
            path, or why none was.
        difference: Largest difference, as a share of the largest output.
        whole: Share of the members of all units that cannot be pruned.
        unfollowed: Operations that the trace did not follow.
        trains: The pruned network runs forward and backward in training mode.
        loads: The stored pruned network gives the same logits.
        torch_pruning: What torch-pruning comes to: its speed-up, or how it fails.
        seconds: Time for it all but that.
        error: What went wrong.
    """

    network: str
    parameters: int = 0
    traced: bool = False
    exact: bool = False
    coverage: float = 0.0
    metanetwork: bool = False
    speed_up: float = 0.0
    compared: str = ""
    difference: float = 0.0
    whole: float = 0.0
    unfollowed: int = 0
    trains: bool = False
    loads: bool = False
    torch_pruning: str = ""
    seconds: float = 0.0
    error: str = ""

    @property
    def verdict(self) -> str:
        """What came of it in a word."""
        return "ok" if self.exact and self.trains and self.loads and not self.error else "FAILED"


def run_line(name: str, shape: str, *, metanetwork: bool = True, **arguments: Any) -> Row:
    """Take one network through the whole line; its inputs are a text: see `example_of`."""
    row, start = Row(network=name), time.perf_counter()
    if ":" in name:
        trust(name)
    try:
        _run(row, shape, {**_ARGUMENTS.get(name, {}), **arguments}, metanetwork)
    except ERRORS as error:
        row.error = f"{type(error).__name__}: {error}".splitlines()[0]
    row.seconds = time.perf_counter() - start
    return row


def put_row(name: str, shape: str, results: "Queue[Row]") -> None:
    """Run the line in a process of its own."""
    results.put(run_line(name, shape))


def put_other(name: str, shape: str, results: "Queue[str]") -> None:
    """Let torch-pruning do what it can in a process of its own."""
    if ":" in name:
        trust(name)
    network = create_network(name, seed=0, **_ARGUMENTS.get(name, {}))
    results.put(result_of_torch_pruning(network, example_of(shape)))


def _run(row: Row, shape: str, arguments: dict[str, Any], metanetwork: bool) -> None:
    network = randomize(create_network(row.network, seed=0, **arguments))
    example = cast(Example, convert(example_of(shape), _some_ids))
    drawn = random_like(example, torch.Generator().manual_seed(0))
    sizes = {key: value.numel() for key, value in network.named_parameters()}
    row.parameters = sum(sizes.values())
    unpruned = examine(network, example)
    graph = unpruned.graph
    row.traced = True
    row.coverage = 1 - sum(sizes[key] for key in graph.outside) / row.parameters
    row.exact = round_trip_is_exact(graph, network.state_dict())
    if metanetwork:
        row.metanetwork = _identity(network, graph, drawn)
    row.unfollowed = len(graph.unfollowed)
    small = _pruned(row, network, unpruned)
    sum(output.sum() for output in _outputs(small.train(), _pair(drawn))).backward()  # type: ignore
    row.trains = True
    again = trace(small.eval(), example)
    row.exact = row.exact and round_trip_is_exact(again, small.state_dict())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        settings = NetworkSettings(builder=row.network, arguments=arguments)
        save_network(folder + "/network", small, NetworkCard(settings=settings, input_shape=shape))
        loaded = load_network(folder + "/network")
        row.loads = _same(_outputs(loaded, drawn), _outputs(small, drawn))


def _some_ids(tensor: Tensor) -> Tensor:
    """Return different ids in place of those that are all 0: tokens are told apart by them."""
    if tensor.dtype != torch.int64 or tensor.any():
        return tensor
    return torch.randint(10, tensor.shape, generator=torch.Generator().manual_seed(0))


def _pair(example: Example) -> Example:
    """Twice the same."""
    return cast(Example, convert(example, lambda tensor: torch.cat([tensor, tensor])))


def _outputs(network: nn.Module, example: Example) -> list[Tensor]:
    """All outputs of real numbers."""
    tensors = [tensor for _, tensor in tensors_of(call(network, example))]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether outputs are equal but for rounding."""
    return all(
        bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-7))
        for a, b in zip(left, right, strict=True)
    )


def round_trip_is_exact(graph: WeightGraph, state: dict[str, Tensor]) -> bool:
    """Whether reading and writing leaves every parameter and buffer as it was, bit for bit."""
    again = write(graph, read(graph, state, SCHEMAS["universal"]), state, SCHEMAS["universal"])
    return all(torch.equal(state[key], again[key]) for key in state)


@torch.no_grad()
def _identity(network: nn.Module, graph: WeightGraph, images: Example) -> bool:
    """Whether a fresh metanetwork (the identity) reads the network and keeps its logits."""
    taps = sorted({connection.shape[3] for connection in graph.connections})
    fresh = PNAMetanetwork(layers=1, hidden=2, schema="universal", kernels="per_size", taps=taps)
    before = _outputs(network, images)
    positional, by_name = arguments_of(images)
    after = torch.func.functional_call(
        network, fresh.rewrite(graph, own_state(network)), positional, by_name, tie_weights=False
    )
    return _same([t for _, t in tensors_of(after) if t.is_floating_point()], before)


def _pruned(row: Row, network: nn.Module, unpruned: Unpruned) -> nn.Module:
    """Prune to 2x, and note what was compared."""
    settings, criterion = PruningSettings(step=0.05), Magnitude(normalize="mean")
    assert unpruned.groups is not None
    members = unpruned.groups.members
    row.whole = 1 - int(members[unpruned.groups.prunable].sum()) / int(members.sum())
    target = SpeedUp(value=2.0, settings=settings)
    (result,) = SpeedUp.reach([target], network, unpruned, criterion)
    row.speed_up = unpruned.speed_up(Macs(), result.network)
    assert result.comparison is not None
    row.compared = result.comparison.reason or "outputs " + " ".join(result.comparison.outputs)
    row.difference = result.comparison.difference
    return result.network
