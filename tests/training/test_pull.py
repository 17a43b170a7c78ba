"""Gradients by which targets are told apart: those of the loss, the same for the same targets in another form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from akdtune.signals import Batch, Signals, Target, Teaching, WeightedTarget
from akdtune.training.gradient_factor import gradient_factors
from akdtune.training.pull import largest_difference, pull
from akdtune.views import plain_teaching
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, signals

TEACHER, STUDENT = signals(2, TEACHER_DIM), signals(1, STUDENT_DIM)


def pulled(teaching: Teaching, *methods: str, epochs: int = 1, **settings: Any) -> dict[str, torch.Tensor]:
    built = {name: small_world.method(name, **settings) for name in methods}
    return dict(pull(built, TEACHER, STUDENT, batch(), teaching, teaching, epochs))


def in_parts(*shares: float, noise: float = 0.0) -> Teaching:
    """The plain teacher as targets of these weights, the last one a little different."""
    other = Signals(TEACHER.logits_BK * (1 + noise), TEACHER.pooled_BC * (1 + noise))
    targets = [WeightedTarget(share, Target.of(TEACHER)) for share in shares[:-1]]
    targets.append(WeightedTarget(shares[-1], Target.of(other)))
    return Teaching(targets, targets, {})


def test_it_is_the_gradient_of_kd_by_its_formula() -> None:
    (gradient_P,) = pulled(plain_teaching(TEACHER), "kd", temperature=2.0).values()
    student_BK, teacher_BK = (torch.softmax(side.logits_BK / 2, dim=1) for side in (STUDENT, TEACHER))
    expected_BK = 2.0 * (student_BK - teacher_BK) / len(student_BK)
    torch.testing.assert_close(gradient_P, expected_BK.flatten().double(), rtol=1e-4, atol=1e-7)


def test_its_length_is_what_gradient_factors_compare() -> None:
    teaching = in_parts(1.0, 0.8, 0.8)
    own, plain = pulled(teaching, "kd"), pulled(plain_teaching(TEACHER), "kd")
    factor = gradient_factors({"kd": small_world.method("kd")}, TEACHER, STUDENT, batch(), teaching)["kd"]
    assert float(own["kd"].norm() / plain["kd"].norm()) == pytest.approx(factor) == pytest.approx(2.6)


@pytest.mark.parametrize("method", ["kd", "dkd", "nkd", "dist", "mlkd", "rkd", "pkt", "cc", "crd", "reviewkd"])
def test_targets_that_are_the_plain_teacher_in_parts_are_found_to_be_it(method: str) -> None:
    plain = pulled(plain_teaching(TEACHER), method)
    assert plain
    assert largest_difference(pulled(in_parts(0.4, 0.2, 0.2, 0.2), method), plain) < 2e-6
    assert largest_difference(pulled(in_parts(0.4, 0.2, 0.2, 0.3), method), plain) == pytest.approx(1 / 11, rel=1e-3)


def test_the_order_of_targets_is_no_difference_and_a_small_one_in_them_is() -> None:
    there = in_parts(0.7, 0.3, noise=1e-3)
    back = Teaching(there.logit_targets[::-1], there.pooled_targets[::-1], {})
    assert largest_difference(pulled(there, "kd"), pulled(back, "kd")) < 1e-6
    assert largest_difference(pulled(there, "kd"), pulled(plain_teaching(TEACHER), "kd")) > 2e-5


def test_what_a_method_does_not_see_is_no_difference() -> None:
    """RKD compares distances in units of their mean."""
    there, plain = in_parts(1.0, noise=0.5), plain_teaching(TEACHER)
    assert largest_difference(pulled(there, "rkd"), pulled(plain, "rkd")) < 2e-6
    assert largest_difference(pulled(there, "pkt", "crd"), pulled(plain, "pkt", "crd")) > 0.01


def test_methods_that_read_no_views_and_terms_that_never_weigh_are_left_out() -> None:
    names = {"at": small_world.method("at"), "dkd": small_world.method("dkd", alpha=0.0)}
    teaching = plain_teaching(TEACHER)
    assert set(pull(names, TEACHER, STUDENT, batch(), teaching)) == {"dkd.nckd"}


def test_a_term_that_weighs_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small_world.method("kd")
    monkeypatch.setattr(method, "weights", lambda epoch: {"kd": float(epoch >= 3)})
    teaching = plain_teaching(TEACHER)
    assert set(pull({"kd": method}, TEACHER, STUDENT, batch(), teaching, epochs=2)) == set()
    assert set(pull({"kd": method}, TEACHER, STUDENT, batch(), teaching, epochs=3)) == {"kd"}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.0], [0.0, 0.0], 1.0),
        ([3.0, 4.0], [4.0, 3.0], math.sqrt(2) / 5),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([3.0, 4.0], [3.0, 4.0, 0.0], math.inf),
        ([3.0, 4.0], [3.0, math.nan], math.inf),
        ([3.0, math.inf], [3.0, math.inf], math.inf),
    ],
)
def test_a_difference_is_a_share_of_the_longer_gradient(one: list[float], other: list[float], expected: float) -> None:
    alike = torch.ones(2)
    found = largest_difference({"a": torch.tensor(one), "b": alike}, {"a": torch.tensor(other), "b": alike})
    assert found == pytest.approx(expected)


def test_other_terms_are_an_infinite_difference() -> None:
    assert largest_difference({"a": torch.ones(2)}, {"b": torch.ones(2)}) == math.inf
    assert largest_difference({}, {}) == 0.0


def test_the_batch_decides_on_what_methods_draw() -> None:
    built = {"crd": small_world.method("crd")}
    teaching = plain_teaching(TEACHER)
    first: Batch = batch()
    assert largest_difference(
        pull(built, TEACHER, STUDENT, first, teaching), pull(built, TEACHER, STUDENT, first, teaching)
    ) == pytest.approx(0.0, abs=1e-6)
