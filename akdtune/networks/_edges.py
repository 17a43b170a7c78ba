"""Sums over the edges of a graph, in an order that is always the same."""

# Shapes: N nodes, E edges, C feature width.

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary
from typing_extensions import override

_grouped: MutableMapping[Tensor, dict[tuple[int, int, bool], Edges]] = WeakTensorKeyDictionary()
"""What `Edges.of` made of a tensor of edges, as long as that lives: a graph is the same in every step."""


@dataclass(frozen=True)
class Edges:
    """A graph's edges, grouped by the node that they lead to.

    Sums are taken bag by bag, each in the order of the edges: their bits depend neither on the number of threads nor on
    who comes first, forward and backward.

    Attributes:
        sources_E, targets_E: where each edge comes from and leads to, int64; rising by target.
        by_source_E: the same edges in the order of their sources, as indices into them.
        starts_N: index of the first edge that leads to each node.
        source_starts_N: the same of those that come from it, in the other order.
        loops_E: which edges of the graph lead from a node to itself, bool.
    """

    sources_E: Tensor
    targets_E: Tensor
    by_source_E: Tensor
    starts_N: Tensor
    source_starts_N: Tensor
    loops_E: Tensor

    @classmethod
    def of(cls, edges_2E: Tensor, nodes: int, own: bool = False) -> Edges:
        """The edges of a graph.

        Args:
            edges_2E: from and to.
            nodes: N.
            own: whether each node gets one edge to itself as well, behind those of the graph.
        """
        of_graph = _grouped.setdefault(edges_2E, {})
        key = edges_2E._version, nodes, own
        if key not in of_graph:
            of_graph[key] = cls._of(edges_2E, nodes, own)
        return of_graph[key]

    @classmethod
    def _of(cls, edges_2E: Tensor, nodes: int, own: bool) -> Edges:
        given, every = edges_2E.shape[1], torch.arange(nodes, device=edges_2E.device)
        if own:
            edges_2E = torch.cat([edges_2E, every.expand(2, -1)], dim=1)
        targets_E, order_E = edges_2E[1].sort(stable=True)
        sources_E = edges_2E[0][order_E]
        sorted_E, by_source_E = sources_E.sort(stable=True)
        starts_N, source_starts_N = torch.searchsorted(targets_E, every), torch.searchsorted(sorted_E, every)
        loops_E = (sources_E == targets_E) & (order_E < given)
        return cls(sources_E, targets_E, by_source_E, starts_N, source_starts_N, loops_E)

    def sums(self, values_NC: Tensor, weights_E: Tensor) -> Tensor:
        """Weight times value of where each edge comes from, summed over those that lead to a node, [N, C]."""
        precise = torch.promote_types(values_NC.dtype, torch.float32)  # of half precision under autocast
        summed_NC: Tensor = _Sums.apply(values_NC.to(precise), weights_E.to(precise), self)
        return summed_NC

    def counts(self, weights_E: Tensor) -> Tensor:
        """The sum of the weights of all edges that lead to a node, [N]."""
        return _bags(weights_E.unsqueeze(1), torch.arange(len(weights_E), device=weights_E.device), self.starts_N)[:, 0]

    def shares(self, scores_E: Tensor) -> Tensor:
        """The softmax of scores over all edges that lead to the same node, [E]."""
        nodes = len(self.starts_N)
        highest_N = scores_E.new_full((nodes,), -torch.inf)
        highest_N = highest_N.scatter_reduce(0, self.targets_E, scores_E.detach(), "amax")
        raised_E = (scores_E - highest_N[self.targets_E]).exp()
        totals_N1 = self.sums(scores_E.new_ones(nodes, 1), raised_E)
        return raised_E / totals_N1[self.targets_E, 0]


def _bags(values: Tensor, index_E: Tensor, starts_N: Tensor, weights_E: Tensor | None = None) -> Tensor:
    return functional.embedding_bag(index_E, values, starts_N, mode="sum", per_sample_weights=weights_E)


class _Sums(torch.autograd.Function):
    """`Edges.sums` with a gradient that is a sum of the same kind, over the edges that come from a node."""

    @staticmethod
    @override
    def forward(ctx: Any, values_NC: Tensor, weights_E: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(values_NC, weights_E)
        return _bags(values_NC, edges.sources_E, edges.starts_N, weights_E)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient_NC: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        edges: Edges = ctx.edges
        values_NC, weights_E = ctx.saved_tensors
        of_values = of_weights = None
        if ctx.needs_input_grad[0]:
            order_E = edges.by_source_E
            index_E, starts_N = edges.targets_E[order_E], edges.source_starts_N
            of_values = _bags(gradient_NC.contiguous(), index_E, starts_N, weights_E[order_E])
        if ctx.needs_input_grad[1]:
            of_weights = (gradient_NC[edges.targets_E] * values_NC[edges.sources_E]).sum(dim=1)
        return of_values, of_weights, None
