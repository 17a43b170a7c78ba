"""The small transformer: what a row sees, what it answers, how large it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from akdtune import networks
from akdtune.registry import typed
from akdtune.signals import Tokens, TokenSpec

SPEC = TokenSpec(vocabulary=93, length=64)


def built(seed: int = 0, **settings: Any) -> networks.Network:
    return networks.build({"name": "transformer", **settings}, SPEC, seed).eval()


def windows(count: int = 4, seed: int = 0) -> Tokens:
    ids_BL = torch.randint(93, (count, 64), generator=torch.Generator().manual_seed(seed))
    return Tokens(ids_BL, torch.ones_like(ids_BL, dtype=torch.bool))


def test_parameters_by_hand() -> None:
    width, layers = 16, 1
    block = 2 * 2 * width + (width * 3 * width + 3 * width) + (width**2 + width) + 2 * 4 * width**2 + 5 * width
    own = (93 + 64) * width + layers * block + 2 * width + 93 * width + 93
    draft = built(width=width, layers=layers)
    assert sum(p.numel() for p in draft.parameters()) == own == 7405
    tied = built(width=width, layers=layers, tied=True)
    assert sum(p.numel() for p in tied.parameters()) == own - 93 * width


@torch.no_grad()
def test_a_row_sees_itself_and_what_stands_before_it() -> None:
    network, before = built(), windows()
    changed_BL = before.ids_BL.clone()
    changed_BL[:, 40] = (changed_BL[:, 40] + 1) % 93
    both = before.ids_BL, changed_BL
    said, otherwise = (network(Tokens(ids_BL, before.rows_BL)).logits_BK.view(4, 64, 93) for ids_BL in both)
    assert torch.equal(said[:, :40], otherwise[:, :40])
    assert not torch.isclose(said[:, 40:], otherwise[:, 40:]).all(dim=2).any()


@torch.no_grad()
def test_rows_alone_are_answered_in_row_major_order() -> None:
    network, whole = built(), windows()
    some_BL = torch.rand(4, 64, generator=torch.Generator().manual_seed(1)) < 0.3
    of_all, of_some = network(whole), network(Tokens(whole.ids_BL, some_BL))
    assert torch.equal(of_some.pooled_BC, of_all.pooled_BC[some_BL.flatten()])
    torch.testing.assert_close(of_some.logits_BK, of_all.logits_BK[some_BL.flatten()])


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_the_classifiers_product_with_the_pooled_feature(tied: bool) -> None:
    network = built(tied=tied)
    said = network(windows())
    assert torch.equal(said.logits_BK, functional.linear(said.pooled_BC, *network.classifier()))
    assert said.pooled_BC.shape == (256, network.pooled_dim)


@torch.no_grad()
def test_numbers_of_a_window_do_not_depend_on_its_place_in_a_batch() -> None:
    network, batch = built(width=96, layers=3, heads=4), windows(16)
    there = network(batch).logits_BK.view(16, 64, 93)
    back = network(Tokens(batch.ids_BL.flip(0), batch.rows_BL)).logits_BK.view(16, 64, 93)
    assert torch.equal(there, back.flip(0))


def test_an_untrained_network_knows_nothing() -> None:
    batch = windows()
    labels_R = torch.randint(93, (256,), generator=torch.Generator().manual_seed(2))
    loss = functional.cross_entropy(built()(batch).logits_BK, labels_R)
    assert float(loss.detach()) == pytest.approx(torch.tensor(93.0).log().item(), abs=0.1)


def test_dropout_draws_while_training_alone() -> None:
    assert networks.draws(built(dropout=0.1), SPEC)
    assert not networks.draws(built(), SPEC)


def test_width_is_a_multiple_of_heads() -> None:
    with pytest.raises(ValidationError, match=r"width \(10\) must be a multiple of heads \(4\)"):
        typed("networks", {"name": "transformer", "width": 10, "heads": 4})
