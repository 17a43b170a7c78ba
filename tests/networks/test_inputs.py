"""What networks are asked about, as what carries it takes it: images as their kernels lie, anything else as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from akdtune.networks import laid_out, signals_of
from akdtune.signals import Batch, InputSpec, Signals
from akdtune.training import graphs
from akdtune.training.graphs import StepInputs


@dataclass(frozen=True)
class Tokens:
    ids_BL: Tensor


def test_images_are_laid_out_and_other_inputs_are_left_alone() -> None:
    images_BCHW = InputSpec(3, 4, 10).example(2)
    assert images_BCHW.shape == (2, 3, 4, 4)
    last_BCHW = laid_out(images_BCHW, torch.channels_last)
    assert torch.equal(last_BCHW, images_BCHW) and last_BCHW.is_contiguous(memory_format=torch.channels_last)
    for other in (Tokens(torch.arange(6).reshape(2, 3)), torch.ones(2, 3), None):
        assert laid_out(other, torch.channels_last) is other


def test_networks_are_asked_about_whatever_a_split_gives() -> None:
    def network(tokens: Tokens) -> Signals:
        return Signals.of(tokens.ids_BL.float())

    said = signals_of(network, [Tokens(torch.ones(2, 3)), Tokens(torch.zeros(1, 3))])
    assert said.logits_BK.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_a_recorded_step_takes_new_inputs_of_any_form() -> None:
    batch = Batch.of(torch.zeros(2, dtype=torch.int64))
    first, second = (StepInputs(batch, inputs=Tokens(torch.full((2, 3), value))) for value in (1, 2))
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    assert graphs.taken_apart(first, ours) == graphs.taken_apart(second, theirs)
    assert torch.equal(graphs.rebuilt(first, iter(theirs)).inputs.ids_BL, second.inputs.ids_BL)
