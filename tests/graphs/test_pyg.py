import torch

from helpers import PlainNet, random_kept, random_resnet, randomize
from metaprune_pl.graphs import SCHEMAS, Features, WeightGraph, read, trace
from metaprune_pl.graphs.pyg import from_pyg, to_pyg
from metaprune_pl.pruning import find_groups, remove

IMAGE = torch.zeros(1, 3, 8, 8)


def pruned_resnet() -> tuple[WeightGraph, Features, dict[str, torch.Tensor]]:
    network = random_resnet()
    graph = trace(network, IMAGE)
    network = remove(network, graph, random_kept(find_groups(graph)))
    graph, state = trace(network, IMAGE), network.state_dict()
    return graph, read(graph, state, SCHEMAS["resnet"]), state


def test_shapes_of_the_edge_list() -> None:
    graph, features, _ = pruned_resnet()
    data = to_pyg(graph, features)
    assert data.x.shape == (graph.num_nodes, 8)
    assert data.edge_index.shape == (2, graph.num_edges)
    assert data.edge_index.dtype == torch.long
    assert data.edge_attr.shape == (graph.num_edges, 9)  # 3x3 kernels are the largest
    assert data.edge_block.shape == (graph.num_edges,)
    counts = torch.bincount(data.edge_block, minlength=len(graph.connections))
    assert counts.tolist() == [connection.num_edges for connection in graph.connections]
    assert data.validate()


def test_resnet8_of_width_4_has_848_edges() -> None:
    # 3x4; stage 1: 2 x 4x4 + 4; stage 2: 4x8 + 8x8 + 4x8; stage 3: 8x16 + 16x16 + 8x16; 16x10
    expected = 12 + 36 + 128 + 512 + 160
    network = random_resnet()
    graph = trace(network, IMAGE)
    data = to_pyg(graph, read(graph, network.state_dict(), SCHEMAS["resnet"]))
    assert data.edge_index.shape[1] == expected == 848


def test_reading_the_edge_list_back_gives_the_features_bit_for_bit() -> None:
    graph, features, _ = pruned_resnet()
    data = to_pyg(graph, features)
    back = from_pyg(graph, data.x, data.edge_attr)
    assert torch.equal(back.nodes, features.nodes)
    for new, old in zip(back.edges, features.edges, strict=True):
        assert torch.equal(new, old)


def test_each_edge_leads_from_the_input_neuron_to_the_output_neuron_of_its_weight() -> None:
    network = randomize(PlainNet())
    graph, state = trace(network, IMAGE), network.state_dict()
    data = to_pyg(graph, read(graph, state, SCHEMAS["universal"]))
    pairs = [tuple(pair) for pair in data.edge_index.T.tolist()]
    row = {pair: number for number, pair in enumerate(pairs)}
    assert len(row) == graph.num_edges  # no two edges join the same neurons in this network
    start = {group.name: group.start for group in graph.groups}
    for o in range(12):
        for i in range(
            2
        ):  # output o belongs to conv group o // 3, which reads channels 2 (o // 3) and the next
            edge = row[start["biased"] + 2 * (o // 3) + i, start["grouped"] + o]
            assert torch.equal(data.edge_attr[edge], state["grouped.weight"][o, i].flatten())
    for k in range(7):
        for i in range(20):
            edge = row[start["hidden"] + i, start["classifier"] + k]
            assert (
                data.edge_attr[edge].tolist() == [state["classifier.weight"][k, i].item()] + [0] * 8
            )


def test_gradients_flow_through_the_edge_list() -> None:
    graph, features, _ = pruned_resnet()
    nodes = features.nodes.clone().requires_grad_()
    edges = tuple(value.clone().requires_grad_() for value in features.edges)
    data = to_pyg(graph, Features(nodes=nodes, edges=edges))
    (2 * data.x.sum() + 3 * data.edge_attr.sum()).backward()
    assert torch.equal(nodes.grad, torch.full_like(nodes, 2))
    assert all(torch.equal(value.grad, torch.full_like(value, 3)) for value in edges)
