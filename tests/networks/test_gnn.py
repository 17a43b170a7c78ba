"""Networks of nodes: against PyTorch Geometric's layers, by hand, and the same bits whoever sums."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune import networks
from akdtune.errors import AkdtuneError
from akdtune.networks._edges import Edges
from akdtune.networks.gnn import NodeNetwork
from akdtune.registry import names
from akdtune.signals import Nodes, NodeSpec

SPEC = NodeSpec(features=7, num_classes=4)
GNNS = ("gcn", "appnp", "sage", "gat", "mlp_nodes")


def graph(nodes: int = 50, edges: int = 200, seed: int = 0) -> Nodes:
    """Random edges, some twice, one of a node to itself, and three nodes without any."""
    generator = torch.Generator().manual_seed(seed)
    edges_2E = torch.randint(0, nodes - 3, (2, edges), generator=generator)
    edges_2E[:, 5] = 3
    return Nodes(torch.randn(nodes, 7, generator=generator), edges_2E, torch.arange(nodes))


def built(name: str, **settings: Any) -> Any:
    network = networks.build({"name": name, "width": 8, "dropout": 0.0, **settings}, SPEC, 3)
    assert isinstance(network, NodeNetwork)
    with torch.no_grad():  # biases begin at 0, and would be tested by nothing
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(len(name)))
    return network.eval()


def geometric() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, about what it still uses of torch
        return pytest.importorskip("torch_geometric.nn")


def copied(layer: Any, **values: Tensor) -> Any:
    """One of their layers with weights of ours."""
    for path, value in values.items():
        layer.get_parameter(path.replace("__", ".")).data = (
            value.detach().clone().reshape(layer.get_parameter(path.replace("__", ".")).shape)
        )
    return layer


def theirs(pyg: Any, name: str, ours: Any) -> Any:
    """The same network out of PyTorch Geometric's layers, as a function of features and edges."""
    (first,), last = ours.inner, ours.fc
    if name == "gcn":
        one, two = (copied(pyg.GCNConv(*shape), lin__weight=layer.weight, bias=layer.bias) for shape, layer in (
            ((7, 8), first), ((8, 4), last)))  # fmt: skip
        return lambda x, edges: two(one(x, edges).relu(), edges)
    if name == "sage":
        layers = []
        for shape, layer in (((7, 8), first), ((8, 4), last)):
            own, mean = layer.weight.chunk(2, dim=1)
            given = {"lin_r__weight": own, "lin_l__weight": mean, "lin_l__bias": layer.bias}
            layers.append(copied(pyg.SAGEConv(*shape), **given))
        return lambda x, edges: layers[1](layers[0](x, edges).relu(), edges)
    if name == "gat":
        (scores,) = ours.inner_scores
        of_first = {"lin__weight": first.weight, "att_src": scores[0], "att_dst": scores[1], "bias": first.bias}
        of_last = {"att_src": ours.last_scores[0], "att_dst": ours.last_scores[1], "bias": last.bias}
        one = copied(pyg.GATConv(7, 2, heads=4), **of_first)
        two = copied(pyg.GATConv(8, 4, heads=1), lin__weight=last.weight, **of_last)
        return lambda x, edges: two(torch.nn.functional.elu(one(x, edges)), edges)
    spread = pyg.APPNP(10, 0.1)
    return lambda x, edges: spread(first(x).relu() @ last.weight.T, edges) + last.bias  # the last bias is not spread


@pytest.mark.parametrize("name", ["gcn", "sage", "gat", "appnp"])
def test_outputs_and_gradients_are_those_of_pytorch_geometric(name: str) -> None:
    ours, nodes = built(name), graph()
    features = [nodes.features_NF.clone().requires_grad_() for _ in range(2)]
    said = ours(Nodes(features[0], nodes.edges_2E, nodes.rows_R)).logits_BK
    expected = theirs(geometric(), name, ours)(features[1], nodes.edges_2E)
    torch.testing.assert_close(said, expected, atol=2e-6, rtol=2e-5)
    weight = torch.randn(said.shape, generator=torch.Generator().manual_seed(1))
    for logits in (said, expected):
        (logits * weight).sum().backward()
    torch.testing.assert_close(features[0].grad, features[1].grad, atol=5e-6, rtol=2e-5)


def test_a_graph_convolution_by_hand() -> None:
    """0 - 1 - 2: degrees with the node itself are 2, 3, 2."""
    edges_2E = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    network = networks.build({"name": "gcn", "layers": 1, "dropout": 0.0}, NodeSpec(1, 2), 0)
    pooled = network(Nodes(torch.tensor([[1.0], [10.0], [100.0]]), edges_2E, torch.arange(3))).pooled_BC[:, 0]
    expected = [1 / 2 + 10 / 6**0.5, 1 / 6**0.5 + 10 / 3 + 100 / 6**0.5, 10 / 6**0.5 + 100 / 2]
    torch.testing.assert_close(pooled, torch.tensor(expected))


def test_a_mean_over_neighbours_by_hand() -> None:
    edges_2E = torch.tensor([[0, 1], [2, 2]])
    network = networks.build({"name": "sage", "layers": 1, "dropout": 0.0}, NodeSpec(1, 2), 0)
    pooled = network(Nodes(torch.tensor([[1.0], [3.0], [7.0]]), edges_2E, torch.arange(3))).pooled_BC
    assert pooled.tolist() == [[1.0, 0.0], [3.0, 0.0], [7.0, 2.0]]


@pytest.mark.parametrize("name", GNNS)
def test_what_every_network_of_nodes_keeps(name: str) -> None:
    network, nodes = built(name), graph()
    assert network.takes == "nodes" and network.offers == frozenset() and name in names("networks")
    rows_R = torch.tensor([49, 3, 3, 0])
    whole, some = network(nodes), network(Nodes(nodes.features_NF, nodes.edges_2E, rows_R))
    assert torch.equal(some.pooled_BC, whole.pooled_BC[rows_R])
    weight_KC, bias_K = network.classifier()
    assert whole.pooled_BC.shape == (50, network.pooled_dim)
    torch.testing.assert_close(whole.logits_BK, whole.pooled_BC @ weight_KC.T + bias_K)
    assert bool(whole.logits_BK.isfinite().all())  # nodes without an edge are among them
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(nodes).logits_BK.float(), whole.logits_BK, atol=0.1, rtol=0.1)
    nothing = Nodes(nodes.features_NF, nodes.edges_2E[:, :0], nodes.rows_R)
    assert bool(network(nothing).logits_BK.isfinite().all())


@pytest.mark.parametrize("name", GNNS)
def test_dropout_is_for_training_alone(name: str) -> None:
    network, nodes = built(name, dropout=0.5), graph()
    assert networks.draws(network, SPEC)
    assert torch.equal(network(nodes).logits_BK, network(nodes).logits_BK)
    network.train()
    assert not torch.equal(network(nodes).logits_BK, network(nodes).logits_BK)
    assert not networks.draws(built(name), SPEC)


@pytest.mark.parametrize("name", GNNS)
def test_bits_depend_neither_on_threads_nor_on_when(name: str) -> None:
    nodes = graph(400, 6_000)

    def numbers() -> list[Tensor]:
        network = built(name, width=16)
        logits_BK = network(Nodes(nodes.features_NF, nodes.edges_2E.clone(), nodes.rows_R)).logits_BK
        logits_BK.square().sum().backward()
        return [logits_BK.detach(), *(parameter.grad for parameter in network.parameters())]

    before = torch.get_num_threads()
    first, again = numbers(), numbers()
    assert all(map(torch.equal, first, again))
    edges = Edges.of(nodes.edges_2E, 400, own=True)
    values_NC, weights_E = torch.randn(400, 64), torch.rand(6_400)
    one = edges.sums(values_NC, weights_E)
    try:
        torch.set_num_threads(2)
        assert torch.equal(edges.sums(values_NC, weights_E), one)
    finally:
        torch.set_num_threads(before)


def test_sums_over_edges_by_a_whole_matrix() -> None:
    nodes = graph(20, 60)
    edges = Edges.of(nodes.edges_2E, 20)
    values_NC = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    weights_E = torch.rand(60, dtype=torch.float64, requires_grad=True)
    whole_NN = torch.zeros(20, 20, dtype=torch.float64).index_put(
        (edges.targets_E, edges.sources_E), weights_E, accumulate=True
    )
    torch.testing.assert_close(edges.sums(values_NC, weights_E), whole_NN @ values_NC)
    assert torch.autograd.gradcheck(edges.sums, (values_NC, weights_E))
    shares_E = edges.shares(weights_E)
    of_nodes = torch.zeros(20, dtype=torch.float64).index_add(0, edges.targets_E, shares_E)
    assert set(of_nodes.round(decimals=9).tolist()) <= {0.0, 1.0} and of_nodes.sum() > 10
    assert torch.autograd.gradcheck(edges.shares, (weights_E,))


def test_a_graph_that_changes_is_grouped_anew() -> None:
    edges_2E = torch.tensor([[0, 1], [1, 2]])
    first = Edges.of(edges_2E, 3)
    assert Edges.of(edges_2E, 3) is first
    assert Edges.of(edges_2E, 4) is not first
    edges_2E[1, 1] = 0
    assert Edges.of(edges_2E, 3).targets_E.tolist() == [0, 1]


def test_heads_that_cannot_share_a_width_are_refused() -> None:
    with pytest.raises(AkdtuneError, match="network gat: 3 heads cannot share a width of 8; it must be a multiple"):
        built("gat", heads=3)
