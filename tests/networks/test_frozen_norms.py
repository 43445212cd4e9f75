"""A frozen batch norm is one for the graph.

Its buffers are the neurons' features, and pruning cuts them.
"""

from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from helpers import masked_logits, random_kept, randomize
from metaprune_pl.graphs import trace
from metaprune_pl.graphs.features import read, schema_of, write
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.networks.frozen_norms import freeze_batch_norms, thaw_batch_norms
from metaprune_pl.pruning import prunable_groups, remove

EXAMPLE = torch.zeros(1, 3, 32, 32)


def frozen_resnet(**arguments: Any) -> nn.Module:
    """A torchvision ResNet of four blocks."""
    network = ResNet(BasicBlock, [1, 1, 1, 1], **arguments)
    freeze_batch_norms(network)
    return network


def pair() -> tuple[nn.Module, nn.Module]:
    """The same network with ordinary and with frozen norms, nothing in them at 0 or 1."""
    ordinary, frozen = (
        randomize(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)),
        frozen_resnet(num_classes=5).eval(),
    )
    frozen.load_state_dict(
        {n: v for n, v in ordinary.state_dict().items() if not n.endswith("num_batches_tracked")}
    )
    return ordinary, frozen


def test_frozen_and_ordinary_norms_do_the_same_and_have_the_same_graph() -> None:
    ordinary, frozen = pair()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ordinary(images), frozen(images), atol=1e-5)
    one, other = trace(ordinary, EXAMPLE), trace(frozen, EXAMPLE)
    assert [g.slots for g in one.groups] == [g.slots for g in other.groups]
    schema = schema_of("resnet")
    features = read(other, frozen.state_dict(), schema)
    assert torch.equal(read(one, ordinary.state_dict(), schema).nodes, features.nodes)
    written = write(other, features, frozen.state_dict(), schema)
    assert all(torch.equal(written[name], value) for name, value in frozen.state_dict().items())


def test_thawing_undoes_freezing() -> None:
    ordinary, frozen = pair()
    thaw_batch_norms(frozen)
    assert [type(m) for m in frozen.modules()] == [type(m) for m in ordinary.modules()]
    assert all(
        torch.equal(a, b)
        for a, b in zip(frozen.state_dict().values(), ordinary.state_dict().values(), strict=True)
    )


def test_a_metanetwork_writes_weights_of_frozen_norms_and_no_statistics() -> None:
    _, frozen = pair()
    metanetwork = PNAMetanetwork(
        layers=2, hidden=8, schema="resnet", kernels="per_size", taps=[1, 9, 49]
    )
    with torch.no_grad():
        for parameter in metanetwork.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            )
    before = frozen.state_dict()
    after = metanetwork.rewrite(trace(frozen, EXAMPLE), before)
    assert not torch.equal(after["layer1.0.bn1.weight"], before["layer1.0.bn1.weight"])
    assert torch.equal(after["layer1.0.bn1.running_var"], before["layer1.0.bn1.running_var"])


def test_pruned_is_masked_and_loads_again(tmp_path: Any) -> None:
    _, frozen = pair()
    groups = prunable_groups(frozen, EXAMPLE)
    kept = random_kept(groups)
    pruned = remove(frozen, groups.graph, kept).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        after = pruned(images)
        assert torch.allclose(after, masked_logits(frozen, groups.graph, kept, images), atol=1e-4)
    builder = f"{__name__}:frozen_resnet"
    settings = NetworkSettings(builder=builder, arguments={"num_classes": 5})
    save_network(tmp_path / "net", pruned, NetworkCard(settings=settings, input_shape=(3, 32, 32)))
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path / "net")(images), after)
