"""Networks that become one, by hand: within an architecture, across architectures, layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.federated.aggregation import Upload, cut_out, draw_together, mean_state, met_in, returned, uploads
from akdtune.federated.layers import Layer, layers_of
from akdtune.federated.settings import LayerWise
from tests.federated.test_layers import mlp

GENERATOR = torch.Generator().manual_seed(0)


def test_mean_within_an_architecture_weighs_by_images() -> None:
    first = {"weight": torch.tensor([1.0, 5.0]), "steps": torch.tensor(3)}
    second = {"weight": torch.tensor([4.0, 2.0]), "steps": torch.tensor(7)}
    mean = mean_state([first, second], [1, 2])
    assert mean["weight"].tolist() == pytest.approx([3.0, 3.0]) and int(mean["steps"]) == 3


def linear(name: str, kind: str = "Linear") -> Layer:
    return Layer(name, kind, (f"{name}.weight",), True)


def test_layers_meet_where_they_overlap_and_go_back() -> None:
    server = {"a.weight": torch.full((2, 3), 9.0)}
    small, wide = {"a.weight": torch.ones(1, 2)}, {"a.weight": torch.full((2, 2), 4.0)}
    layers = [linear("a")]
    met = met_in(server, layers, [(small, layers, 1.0), (wide, layers, 2.0)])
    assert met["a.weight"].tolist() == [[3.0, 3.0, 9.0], [4.0, 4.0, 9.0]]
    assert cut_out(met, layers, small, layers)["a.weight"].tolist() == [[3.0, 3.0]]
    tall = {"a.weight": torch.zeros(3, 1)}
    assert cut_out(met, layers, tall, layers)["a.weight"].tolist() == [[3.0], [4.0], [0.0]]


def test_what_changed_most_is_sent() -> None:
    network, server = mlp(4, 4), mlp(8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    after = {**before, "hidden.1.weight": before["hidden.1.weight"] + 1, "fc.weight": before["fc.weight"] + 0.1}
    sent = uploads(before, after, layers_of(network), layers_of(server), 2)
    assert [(upload.mine.name, upload.its.name) for upload in sent] == [("hidden.1", "fc"), ("fc", "fc")]
    assert torch.equal(sent[0].weight, after["hidden.1.weight"])
    assert len(uploads(before, after, layers_of(network), layers_of(server), 9)) == 3


def sent_layer(weight: Tensor, name: str = "fc") -> Upload:
    return Upload(linear(name), linear(name), weight, None)


def test_the_server_is_drawn_to_what_was_sent_and_nothing_else_moves() -> None:
    server = mlp(8)
    before = {name: value.clone() for name, value in server.state_dict().items()}
    goal = torch.randn(10, 8, generator=GENERATOR)
    settings = LayerWise(steps=300, lr=0.05, pseudo_inputs=32)
    sent = [Upload(linear("fc"), layers_of(server)[-1], goal + shift, torch.zeros(10)) for shift in (-0.1, 0.1)]
    draw_together(server, sent, settings, lambda name: torch.Generator().manual_seed(len(name)))
    torch.testing.assert_close(server.state_dict()["fc.weight"], goal, rtol=0, atol=0.05)
    assert torch.equal(server.state_dict()["hidden.0.weight"], before["hidden.0.weight"])


EVEN, PEAKED = torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, 0.0, 3.0]])


@pytest.mark.parametrize(
    ("gain", "server", "back"),
    [("kge", [EVEN, EVEN], ["b"]), ("kge", [PEAKED, PEAKED], []), ("none", [PEAKED, PEAKED], ["a", "b"])],
)
def test_the_layer_of_the_largest_gain_comes_back_if_it_is_positive(gain: Any, server: Any, back: list[str]) -> None:
    sent = [sent_layer(EVEN, "a"), sent_layer(PEAKED, "b")]
    held = {"a.weight": server[0], "b.weight": server[1]}
    taken, gains = returned(held, sent, LayerWise(gain=gain, bins=4), torch.Generator())
    assert list(taken) == [f"{name}.weight" for name in back] and len(gains) == 2
    assert all(torch.equal(taken[name], held[name]) for name in taken)


def test_a_random_layer_is_drawn_from_the_generator() -> None:
    sent, held = [sent_layer(EVEN, "a"), sent_layer(PEAKED, "b")], {"a.weight": EVEN, "b.weight": EVEN}
    drawn = [
        list(returned(held, sent, LayerWise(gain="random"), torch.Generator().manual_seed(seed))[0])
        for seed in range(20)
    ]
    assert {len(taken) for taken in drawn} == {1} and {taken[0] for taken in drawn} == {"a.weight", "b.weight"}
