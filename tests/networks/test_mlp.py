"""The multilayer perceptron: flattened pixels, a ReLU after each hidden layer, the last one is the pooled feature."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from akdtune import networks
from akdtune.networks.mlp import MLP
from akdtune.signals import InputSpec

SPEC = InputSpec(2, 3, 4)


def test_forward_by_hand() -> None:
    network = networks.build({"name": "mlp", "widths": [5, 6]}, SPEC, 0)
    assert isinstance(network, MLP)
    images_BCHW = torch.randn(7, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    first, second = network.hidden
    hidden_BC = ((images_BCHW.flatten(1) @ first.weight.T + first.bias).relu() @ second.weight.T + second.bias).relu()
    said = network(images_BCHW, True)
    torch.testing.assert_close(said.pooled_BC, hidden_BC)
    torch.testing.assert_close(said.logits_BK, hidden_BC @ network.fc.weight.T + network.fc.bias)
    assert said.stages is None and network.pooled_dim == 6 and network.offers == frozenset()
    weight_KC, bias_K = network.classifier()
    assert weight_KC is network.fc.weight and bias_K is network.fc.bias


def test_a_network_has_a_hidden_layer() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        MLP.Settings(widths=[])
