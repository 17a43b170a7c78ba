"""What networks say: several answers of one network go wherever its logits go."""

from __future__ import annotations

import torch

from akdtune.networks import signals_of
from akdtune.signals import Signals


def said(*numbers: float, answer: str = "step") -> Signals:
    """Two answers to an image for each number, about two classes; the logits are their mean."""
    first_BK = torch.tensor(numbers)[:, None] * torch.tensor([1.0, -1.0])
    return Signals.of(2 * first_BK, answers_BJK=torch.stack([first_BK, 3 * first_BK], dim=1), answer=answer)


def test_answers_follow_the_rows() -> None:
    assert said(1, 2, 3).rows(torch.tensor([2, 0])).answers_BJK.tolist() == [
        [[3, -3], [9, -9]],
        [[1, -1], [3, -3]],
    ]
    assert Signals.of(torch.zeros(3, 2)).rows(torch.tensor([0])).answers_BJK is None


def test_answers_lose_their_gradient_and_gain_precision() -> None:
    logits_BJK = torch.ones(1, 2, 3, dtype=torch.bfloat16, requires_grad=True)
    signals = Signals.of(torch.ones(1, 3), answers_BJK=logits_BJK, answer="branch")
    assert not signals.detach().answers_BJK.requires_grad
    assert signals.detach().answer == "branch"
    wide = signals.in_float32()
    assert wide.answers_BJK.dtype == torch.float32 and wide.answers_BJK.requires_grad


def test_batches_of_answers_become_one() -> None:
    parts = iter([said(1, 2, answer="branch"), said(3, answer="branch")])
    whole = signals_of(lambda _: next(parts), [0, 1])
    assert whole.answer == "branch"
    assert whole.answers_BJK[:, 1, 0].tolist() == [3, 6, 9]
    assert signals_of(Signals.of, [torch.ones(2, 3)]).answers_BJK is None


def test_random_logits_are_the_mean_of_their_answers() -> None:
    torch.manual_seed(0)
    signals = Signals.random(4, num_classes=5, strong=True)
    assert signals.answers_BJK.shape == (4, 3, 5)
    torch.testing.assert_close(signals.answers_BJK.mean(dim=1), signals.logits_BK)
    assert signals.strong.answers_BJK is not None
