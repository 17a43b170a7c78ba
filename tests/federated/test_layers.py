"""Layers that meet, entropies by hand, how one layer fills another."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from akdtune import networks
from akdtune.federated.layers import change, discrepancy, entropy, filled, knowledge_gain, layers_of, matched
from akdtune.networks import Network
from akdtune.signals import InputSpec

DIGITS = InputSpec(1, 8, 10)


def mlp(*widths: int) -> Network:
    return networks.build({"name": "mlp", "widths": list(widths)}, DIGITS, 0)


def test_layers_are_those_with_weights_from_the_input_on() -> None:
    layers = layers_of(networks.build({"name": "cnn", "widths": [2, 4]}, DIGITS, 0))
    assert [(layer.name, layer.kind, layer.is_matrix) for layer in layers] == [
        ("convs.0", "Conv2d", True), ("convs.1", "Conv2d", True), ("norms.0", "BatchNorm2d", False),
        ("norms.1", "BatchNorm2d", False), ("fc", "Linear", True),
    ]  # fmt: skip
    assert layers[2].tensors == ("norms.0.weight", "norms.0.bias", "norms.0.running_mean", "norms.0.running_var")
    assert layers[0].bias is None and layers[-1].bias == "fc.bias"


def test_first_meets_first_and_last_meets_last() -> None:
    def met(first: Network, second: Network) -> list[tuple[str, str]]:
        return [(mine.name, its.name) for mine, its in matched(layers_of(first), layers_of(second))]

    deep = mlp(4, 4, 4)
    assert met(mlp(4), deep) == [("hidden.0", "hidden.0"), ("fc", "fc")]
    assert met(mlp(4, 4), deep) == [("hidden.0", "hidden.0"), ("hidden.1", "hidden.2"), ("fc", "fc")]
    assert met(deep, mlp(4)) == [("hidden.0", "hidden.0"), ("hidden.1", "hidden.0"), ("hidden.2", "fc"), ("fc", "fc")]
    assert met(networks.build("cnn", DIGITS, 0), mlp(4)) == [("fc", "hidden.0")]


def test_entropy_of_a_histogram_by_hand() -> None:
    values = torch.tensor([0.0, 0.1, 0.9, 1.0])
    assert entropy(values, 2, 0.0, 1.0) == pytest.approx(math.log(2))
    assert entropy(values, 4, 0.0, 2.0) == pytest.approx(1.5 * math.log(2))  # two, one, one
    assert entropy(torch.tensor([0.0, 0.0, 0.0, 1.0]), 2, 0.0, 1.0) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    )
    assert entropy(torch.ones(5), 8, 1.0, 1.0) == 0.0


def test_gain_by_hand_and_by_whose_range() -> None:
    even, peaked = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 0.0, 0.0, 3.0])
    gain = math.log(4) + (0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert knowledge_gain(client=peaked, server=even, bins=4, bin_range="own") == pytest.approx(gain)
    assert knowledge_gain(client=even, server=peaked, bins=4, bin_range="own") == pytest.approx(-gain)
    small = even / 100  # over a common range, all of it falls into one bin
    assert knowledge_gain(client=even, server=small, bins=4, bin_range="own") == pytest.approx(0.0)
    assert knowledge_gain(client=even, server=small, bins=4, bin_range="common") == pytest.approx(-math.log(4))


def test_a_layer_is_filled_from_its_first_entry_on() -> None:
    client, small, large = torch.zeros(2, 3) + 9, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.arange(12.0).view(3, 4)
    assert filled(client, small, "keep_local").tolist() == [[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]]
    assert filled(client, small, "zeros").tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]
    assert filled(client, large, "zeros").tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert client.tolist() == [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]


def test_change_is_the_length_of_the_difference() -> None:
    (first, *_), network = layers_of(mlp(2)), mlp(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    after = {**before, first.weight: before[first.weight] + 0.5}
    assert change(before, after, first) == pytest.approx(0.5 * math.sqrt(64 * 2))
    assert change(before, before, first) == 0.0


def test_discrepancy_compares_the_outputs_that_both_have() -> None:
    pseudo_BI = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    server = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0.5, 0.0])
    client = torch.tensor([[0.0, 1.0]]), None
    # outputs of the server 1.5 and 0.5, of the client 2 and 1
    assert float(discrepancy(server, client, pseudo_BI)) == pytest.approx((0.5**2 + 0.5**2) / 2)
    conv = nn.Conv2d(1, 2, 2).weight.detach()
    assert float(discrepancy((conv, None), (conv.clone(), None), torch.randn(3, 4))) == 0.0
