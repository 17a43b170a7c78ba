"""Networks of nodes: graph convolutions, and the perceptron that sees no edges.

Each ends in one linear layer on a node's last feature, as views and methods expect of a network. Where the published
network multiplies by its last weights first and sums over neighbours afterwards, that order is turned round, which is
the same: both are linear.
"""

# Shapes: N nodes, E edges, R rows (nodes that are asked for), F width of a node's input, C feature width, K classes.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.networks import Network
from akdtune.networks._edges import Edges
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Nodes, NodeSpec, Signals, Takes


class NodeNetworkSettings(ComponentSettings):
    """What all networks of nodes have."""

    width: PositiveInt = Field(64, le=8192, description="features of a node in every layer but the last")
    layers: PositiveInt = Field(2, le=32, description="layers, the last one included")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of a layer's inputs that is blanked in training")


class NodeNetwork(Network):
    """A network that ends in one linear layer on each node's feature; a family gives `hidden`."""

    takes: ClassVar[Takes] = "nodes"
    offers = frozenset()
    takes_channels_last = False

    def __init__(self, settings: NodeNetworkSettings, inputs: NodeSpec, last_width: int | None = None) -> None:
        """Builds what all have in common: linear layers with Glorot's weights, and biases 0.

        Args:
            settings: of the network.
            inputs: what nodes are like.
            last_width: of the feature that the last layer reads; by default that of the layer before it.
        """
        super().__init__(settings, inputs)
        self.dropout = settings.dropout
        widths = [inputs.features, *[settings.width] * (settings.layers - 1)]
        self.inner = nn.ModuleList(_linear(before, after) for before, after in pairwise(widths))
        self.pooled_dim = last_width or widths[-1]
        self.fc = _linear(self.pooled_dim, inputs.num_classes)

    @property
    def before_last(self) -> Sequence[nn.Linear]:
        """The layers before the last one."""
        return [layer for layer in self.inner if isinstance(layer, nn.Linear)]

    def hidden(self, features_NF: Tensor, edges_2E: Tensor) -> Tensor:
        """The feature of every node that the last layer reads, [N, C]."""
        raise NotImplementedError

    @override
    def forward(self, nodes: Nodes, stages: bool = False) -> Signals:
        """Logits and last feature of the nodes that are asked for."""
        pooled_RC = self.hidden(nodes.features_NF, nodes.edges_2E)[nodes.rows_R]
        return Signals(self.fc(pooled_RC), pooled_RC)

    @override
    def classifier(self) -> tuple[Tensor, Tensor]:
        return self.fc.weight, self.fc.bias

    def dropped(self, values_NC: Tensor) -> Tensor:
        """Values of which training leaves some out."""
        return functional.dropout(values_NC, self.dropout, self.training)


@register("gcn")
class GCN(NodeNetwork):
    """Graph convolutions: sums over neighbours and the node itself, weighted by 1 / sqrt(degree times degree).

    An edge of a node to itself counts once, whether the graph has it or not; other edges as often as they are there.
    """

    source = "Kipf and Welling, ICLR 2017, arXiv 1609.02907"
    Settings = NodeNetworkSettings

    @override
    def hidden(self, features_NF: Tensor, edges_2E: Tensor) -> Tensor:
        edges, weights_E = _symmetric(edges_2E, len(features_NF))
        values_NC = features_NF
        for layer in self.before_last:
            mixed_NC = edges.sums(functional.linear(self.dropped(values_NC), layer.weight), weights_E)
            values_NC = functional.relu(mixed_NC + layer.bias)
        return edges.sums(self.dropped(values_NC), weights_E)


@register("appnp")
class APPNP(NodeNetwork):
    """A perceptron whose outcome spreads over the edges by personalised PageRank.

    Z is iterated from the perceptron's H: Z <- (1 - teleport) A Z + teleport H, A as in GCN.

    Differs: H is the perceptron's last hidden feature and not its logits, so that the last layer follows at the end;
        its bias is then not spread, which is the only difference.
    """

    source = "Gasteiger, Bojchevski and Guennemann, ICLR 2019, arXiv 1810.05997"

    class Settings(NodeNetworkSettings):
        """How far it spreads."""

        steps: PositiveInt = Field(10, le=1000, description="iterations")
        teleport: float = Field(0.1, ge=0, le=1, description="share of a node's own outcome in each iteration")

    def __init__(self, settings: Settings, inputs: NodeSpec) -> None:
        super().__init__(settings, inputs)
        self.settings = settings

    @override
    def hidden(self, features_NF: Tensor, edges_2E: Tensor) -> Tensor:
        edges, weights_E = _symmetric(edges_2E, len(features_NF))
        own_NC = self.dropped(_perceptron(self, features_NF))
        teleport, values_NC = self.settings.teleport, own_NC
        for _ in range(self.settings.steps):
            values_NC = (1 - teleport) * edges.sums(values_NC, weights_E) + teleport * own_NC
        return values_NC


@register("sage")
class GraphSAGE(NodeNetwork):
    """GraphSAGE with the mean: a node's own feature and the mean of those that have an edge to it, side by side.

    All neighbours are read, none is sampled. A node without any has the mean 0.
    """

    source = "Hamilton, Ying and Leskovec, NeurIPS 2017, arXiv 1706.02216"
    Settings = NodeNetworkSettings

    def __init__(self, settings: NodeNetworkSettings, inputs: NodeSpec) -> None:
        widths = [inputs.features, *[settings.width] * (settings.layers - 1)]
        super().__init__(settings, inputs, last_width=2 * widths[-1])
        self.inner = nn.ModuleList(_linear(2 * before, after) for before, after in pairwise(widths))

    @override
    def hidden(self, features_NF: Tensor, edges_2E: Tensor) -> Tensor:
        edges = Edges.of(edges_2E, len(features_NF))
        ones_E = features_NF.new_ones(len(edges.sources_E))
        weights_E = (1 / edges.counts(ones_E).clamp(min=1))[edges.targets_E]
        values_NC = features_NF
        for layer in self.before_last:
            kept_NC = self.dropped(values_NC)
            own_weight_CC, mean_weight_CC = layer.weight.chunk(2, dim=1)
            mean_NC = edges.sums(functional.linear(kept_NC, mean_weight_CC), weights_E)
            values_NC = functional.relu(functional.linear(kept_NC, own_weight_CC, layer.bias) + mean_NC)
        kept_NC = self.dropped(values_NC)
        return torch.cat([kept_NC, edges.sums(kept_NC, weights_E)], dim=1)


@register("gat")
class GAT(NodeNetwork):
    """Graph attention: each node sums over its neighbours and itself by shares that both ends of an edge decide.

    score = LeakyReLU(a_source . W h_source + a_target . W h_target), slope 0.2; softmax over a node's edges; ELU
    between layers. Several heads stand side by side in every layer but the last, which has one.
    """

    source = "Velickovic et al., ICLR 2018, arXiv 1710.10903"

    class Settings(NodeNetworkSettings):
        """How many look."""

        heads: PositiveInt = Field(4, le=64, description="heads of every layer but the last; they share `width`")

    def __init__(self, settings: Settings, inputs: NodeSpec) -> None:
        """Builds the network.

        Raises:
            AkdtuneError: when the heads cannot share the width.
        """
        super().__init__(settings, inputs)
        if settings.width % settings.heads:
            raise AkdtuneError(
                f"network gat: {settings.heads} heads cannot share a width of {settings.width}; it must be a multiple"
            )
        self.heads = settings.heads
        each = settings.width // settings.heads
        self.inner_scores = nn.ParameterList(_scores(settings.heads, each) for _ in self.inner)
        self.last_scores = nn.Parameter(_scores(1, inputs.num_classes))

    @override
    def hidden(self, features_NF: Tensor, edges_2E: Tensor) -> Tensor:
        edges = Edges.of(edges_2E, len(features_NF), own=True)
        values_NC = features_NF
        for layer, scores_2HC in zip(self.before_last, self.inner_scores, strict=True):
            turned = functional.linear(self.dropped(values_NC), layer.weight).chunk(self.heads, dim=1)
            heads = [
                edges.sums(turned_NC, self._shares(edges, turned_NC, scores_2HC[:, head]))
                for head, turned_NC in enumerate(turned)
            ]
            values_NC = functional.elu(torch.cat(heads, dim=1) + layer.bias)
        kept_NC = self.dropped(values_NC)
        turned_NK = functional.linear(kept_NC, self.fc.weight)
        return edges.sums(kept_NC, self._shares(edges, turned_NK, self.last_scores[:, 0]))

    def _shares(self, edges: Edges, turned_NC: Tensor, scores_2C: Tensor) -> Tensor:
        of_source_N, of_target_N = (turned_NC.float() @ scores_C for scores_C in scores_2C)
        scores_E = functional.leaky_relu(of_source_N[edges.sources_E] + of_target_N[edges.targets_E], 0.2)
        scores_E = scores_E.masked_fill(edges.loops_E, -torch.inf)  # each node has one edge to itself, ours
        return self.dropped(edges.shares(scores_E))


@register("mlp_nodes")
class NodePerceptron(NodeNetwork):
    """A perceptron on each node's own features: it sees no edges."""

    source = "akdtune's own, from no paper"
    Settings = NodeNetworkSettings

    @override
    def hidden(self, features_NF: Tensor, edges_2E: Tensor) -> Tensor:
        return self.dropped(_perceptron(self, features_NF))


def _perceptron(network: NodeNetwork, features_NF: Tensor) -> Tensor:
    values_NC = features_NF
    for layer in network.before_last:
        values_NC = functional.relu(layer(network.dropped(values_NC)))
    return values_NC


def _symmetric(edges_2E: Tensor, nodes: int) -> tuple[Edges, Tensor]:
    """A graph with one edge of each node to itself, and 1 / sqrt(degree times degree) of each edge."""
    edges = Edges.of(edges_2E, nodes, own=True)
    counted_E = (~edges.loops_E).float()
    scale_N = edges.counts(counted_E).rsqrt()
    return edges, counted_E * scale_N[edges.sources_E] * scale_N[edges.targets_E]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _scores(heads: int, width: int) -> Tensor:
    """What scores read of both ends of an edge, [2, heads, width]."""
    return nn.init.xavier_uniform_(torch.empty(2, heads, width))
