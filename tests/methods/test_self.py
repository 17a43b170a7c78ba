"""Methods without a teacher: student only, label smoothing, last mini-batch, SDPGO-style."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from akdtune.methods import Method
from akdtune.methods.sdpgo_style import SDPGOStyle, cross_entropy_gradient, proximal_weights_RC
from akdtune.registry import lookup
from akdtune.signals import Batch, Signals, Target
from tests.small_world import STUDENT_DIM, batch, method, signals

SELF = ["student_only", "label_smoothing", "last_batch", "sdpgo_style"]


def student(seed: int, size: int = 6) -> Signals:
    """A student whose logits come from its pooled feature, with a gradient."""
    generator = torch.Generator().manual_seed(seed)
    pooled_BC = torch.randn(size, STUDENT_DIM, generator=generator).requires_grad_()
    weight_KC = torch.randn(7, STUDENT_DIM, generator=generator)
    return Signals(pooled_BC @ weight_KC.T, pooled_BC)


def step(built: Method, signals: Signals, now: Batch) -> dict[str, Tensor]:
    """One training step as the objective does it."""
    terms = built.terms(signals, Target.of(signals.detach()), now)
    built.after_step()
    return terms


@pytest.mark.parametrize("name", SELF)
def test_needs_no_teacher(name: str) -> None:
    component = lookup("methods", name)
    assert component.consumes == "self"
    assert component.default_ce_weight == 1.0
    assert not component.needs
    assert component.overlaps_batches is (name in ("last_batch", "sdpgo_style"))
    assert step(method(name), student(1), batch(6)).keys() == method(name).weights(1).keys()


def test_student_only_has_no_terms() -> None:
    assert step(method("student_only"), student(1), batch(6)) == {}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.35, 1.0])
def test_label_smoothing_is_cross_entropy_with_smoothed_labels(smoothing: float) -> None:
    built, now = method("label_smoothing", smoothing=smoothing), batch(6)
    logits_BK = student(1).logits_BK.detach().double().requires_grad_()
    term = built.terms(Signals(logits_BK, logits_BK), Target.of(Signals(logits_BK, logits_BK)), now)["smoothing"]
    cross_entropy = torch.nn.functional.cross_entropy
    total = cross_entropy(logits_BK, now.labels_B) + built.weights(1)["smoothing"] * term
    expected = cross_entropy(logits_BK, now.labels_B, label_smoothing=smoothing)
    torch.testing.assert_close(total, expected)
    gradients = [torch.autograd.grad(loss, logits_BK, retain_graph=True)[0] for loss in (total, expected)]
    torch.testing.assert_close(*gradients)


def test_label_smoothing_of_mixed_images() -> None:
    now = batch(6)
    mixed = replace(now, partner_labels_B=now.labels_B.flip(0), share=0.7)
    logits_BK = student(1).logits_BK.detach().double()
    who = Signals(logits_BK, logits_BK)
    term = method("label_smoothing").terms(who, Target.of(who), mixed)["smoothing"]
    one_hot = torch.nn.functional.one_hot
    labels_BK = 0.7 * one_hot(now.labels_B, 7).double() + 0.3 * one_hot(now.labels_B.flip(0), 7).double()
    plain = torch.nn.functional.cross_entropy(logits_BK, labels_BK)
    expected = torch.nn.functional.cross_entropy(logits_BK, labels_BK, label_smoothing=0.1)
    torch.testing.assert_close(plain + 0.1 * term, expected)


def test_last_batch_compares_with_the_same_images_one_step_ago() -> None:
    built = method("last_batch")
    first, second = student(1), student(2, size=5)
    assert float(step(built, first, batch(6))["kl"]) == 0.0
    loss = step(built, second, replace(batch(5), repeated=2))["kl"]
    p_RK = torch.softmax(first.logits_BK[-2:].detach().double() / 3, dim=-1)
    q_RK = torch.softmax(second.logits_BK[:2].double() / 3, dim=-1)
    expected = 9 * (p_RK * (p_RK / q_RK).log()).sum(dim=-1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    to_first, to_second = torch.autograd.grad(loss, (first.pooled_BC, second.pooled_BC), allow_unused=True)
    assert to_first is None, "the last step is a constant"
    assert to_second[:2].abs().sum() > 0
    assert to_second[2:].abs().sum() == 0


@pytest.mark.parametrize("name", ["last_batch", "sdpgo_style"])
def test_an_epoch_begins_without_a_memory(name: str) -> None:
    built, fresh = method(name), method(name)
    step(built, student(8), batch(6))
    for which in (built, fresh):
        assert all(float(value) == 0.0 for value in step(which, student(1), batch(6)).values())
    terms = [step(which, student(2), replace(batch(6), repeated=3)) for which in (built, fresh)]
    assert all(float(value.detach()) > 0 for value in terms[0].values())
    for term, value in terms[0].items():
        assert torch.equal(value, terms[1][term])
    assert not built.state_dict()


@pytest.mark.parametrize("name", ["last_batch", "sdpgo_style"])
def test_the_memory_advances_once_a_step(name: str) -> None:
    built, again = method(name), method(name)
    for which in (built, again):
        step(which, student(1), batch(6))
    later = replace(batch(6), repeated=3)
    again.terms(student(2), Target.of(student(2)), later)  # asked twice in one step
    for term, value in step(built, student(2), later).items():
        assert torch.equal(value, step(again, student(2), later)[term] if term == "kl" else value)
    assert torch.equal(step(built, student(3), later)["kl"], step(again, student(3), later)["kl"])


def test_what_was_never_seen_cannot_be_repeated() -> None:
    with pytest.raises(AssertionError, match="there was no batch before it"):
        step(method("last_batch"), student(1), replace(batch(6), repeated=2))


def test_sdpgo_weights_features_by_their_gradient() -> None:
    built = method("sdpgo_style", sparsity=0.4)
    first, second, now = student(1), student(2, size=5), replace(batch(5), repeated=2)
    step(built, first, batch(6))
    loss_of_features = step(built, second, now)["feature"]
    expected = 0.0
    for b in range(2):
        change_C = (second.pooled_BC[b] - first.pooled_BC[-2 + b]).detach()
        loss = torch.nn.functional.cross_entropy(second.logits_BK[b : b + 1], now.labels_B[b : b + 1])
        g = torch.autograd.grad(loss, second.pooled_BC, retain_graph=True)[0][b].abs()
        w = [max(float(value / g.mean()) - 0.4, 0.0) for value in g]
        mean = sum(w) / len(w)
        for c in range(STUDENT_DIM):
            expected += w[c] / mean * float(change_C[c]) ** 2 / (2 * STUDENT_DIM)
    assert float(loss_of_features.detach()) == pytest.approx(expected, rel=1e-5)


def test_sdpgo_keeps_the_graph_and_takes_the_weights_as_constants() -> None:
    built, second = method("sdpgo_style"), student(2)
    step(built, student(1), batch(6))
    terms = step(built, second, replace(batch(6), repeated=6))
    total = sum(terms.values(), torch.nn.functional.cross_entropy(second.logits_BK, batch(6).labels_B))
    total.backward()  # type: ignore[no-untyped-call]
    assert second.pooled_BC.grad is not None
    assert torch.isfinite(second.pooled_BC.grad).all()


def test_proximal_step() -> None:
    gradients_RC = torch.tensor([[1.0, -3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, -2.0, 2.0]])
    weights_RC = proximal_weights_RC(gradients_RC, 0.5)
    # relative sizes 1, 3, 0, 0 minus 0.5, then scaled to mean 1
    torch.testing.assert_close(weights_RC[0], torch.tensor([0.5, 2.5, 0.0, 0.0]) / 0.75)
    assert weights_RC[1].tolist() == [1.0] * 4, "no gradient: all alike"
    assert weights_RC[2].tolist() == [1.0] * 4
    assert proximal_weights_RC(gradients_RC, 5.0)[2].tolist() == [1.0] * 4, "nothing is left: all alike"
    torch.testing.assert_close(proximal_weights_RC(gradients_RC, 0.0)[0], torch.tensor([1.0, 3.0, 0.0, 0.0]))


def test_sdpgo_without_a_path_from_feature_to_logits_weighs_all_alike() -> None:
    apart = signals(1, STUDENT_DIM, size=6, requires_grad=True)
    assert cross_entropy_gradient(apart, batch(6).labels_B) is None
    assert cross_entropy_gradient(replace(apart, logits_BK=apart.logits_BK.detach()), batch(6).labels_B) is None
    built, first = method("sdpgo_style"), student(1)
    step(built, first, batch(6))
    loss = step(built, apart, replace(batch(6), repeated=6))["feature"]
    torch.testing.assert_close(loss, (apart.pooled_BC - first.pooled_BC.detach()).square().mean())


def test_sdpgo_is_labelled_a_reconstruction() -> None:
    assert "reconstruction" in SDPGOStyle.source
    assert "reconstruction" in str(SDPGOStyle.__doc__).splitlines()[0]
    assert method("sdpgo_style").weights(1) == {"feature": 1.0, "kl": 1.0}
