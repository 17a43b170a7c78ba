"""Measured gradient factors of both released presets, of their weight-matched controls, and of every other method."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from akdtune import networks, registry
from akdtune.registry import lookup
from akdtune.settings.training import Recipe
from akdtune.signals import Batch, InputSpec, Signals
from akdtune.training.gradient_factor import gradient_factors
from akdtune.training.optimizers import set_learning_rate, sgd
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, signals

ANGULAR = {"name": "angular", "variant": "released"}
WIDTHS = ([8, 16, 32], [4, 8, 16])
TEKAP = {"name": "tekap", "variant": "released"}


def factors(match: str | None, of: dict[str, Any], *methods: str) -> dict[str, float]:
    values = {key: value for key, value in of.items() if key != "name"}
    views = (
        small_world.views(of["name"], **values) if match is None else small_world.views("matched", of=of, match=match)
    )
    teacher, student, drawn = signals(2, TEACHER_DIM), signals(1, STUDENT_DIM), batch()
    assert teacher.strong is not None and student.strong is not None
    teaching, strong = (
        views.train().teach(*pair, drawn) for pair in ((teacher, student), (teacher.strong, student.strong))
    )
    built = {name: small_world.method(name) for name in methods}
    return gradient_factors(built, teacher, student, drawn, teaching, strong)


def test_released_angular_is_2_44_times_the_plain_method() -> None:
    by_term = factors("weight", ANGULAR, "kd", "dkd")
    assert by_term == pytest.approx({"kd": 2.4398, "dkd.tckd": 2.4398, "dkd.nckd": 1.0}, abs=1e-3)


def test_released_tekap_is_3_40_times_the_plain_method() -> None:
    by_term = factors("weight", TEKAP, "kd", "dkd", "nkd", "crd", "rkd")
    logits = {"kd": 3.4, "dkd.tckd": 3.4, "dkd.nckd": 3.4, "nkd.label": 3.4, "nkd.others": 3.4}
    assert by_term == pytest.approx(logits | {"crd": 2.0, "rkd.distance": 2.0, "rkd.angle": 2.0}, rel=1e-4)


@cache
def digits() -> tuple[Signals, Signals, Batch]:
    """A cnn trained on digits for 8 epochs with the standard recipe, and an untrained student, on unseen images."""
    data = load_digits()
    images_NCHW, labels_N = (
        torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1,
        torch.tensor(data.target),
    )
    inputs, recipe = InputSpec(1, 8, 10), Recipe(epochs=8, batch_size=32, milestones=[4, 6])
    teacher, student = (networks.build({"name": "cnn", "widths": widths}, inputs, 1) for widths in WIDTHS)
    optimizer, generator = sgd(teacher.parameters(), recipe), torch.Generator().manual_seed(0)
    for epoch in range(1, recipe.epochs + 1):
        set_learning_rate(optimizer, recipe.learning_rate(epoch))
        for rows_B in torch.randperm(1200, generator=generator).split(recipe.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(teacher(images_NCHW[rows_B]).logits_BK, labels_N[rows_B]).backward()
            optimizer.step()
    labels_B, rows_B = labels_N[1200:], torch.arange(len(labels_N) - 1200)
    with torch.no_grad():
        said = [network.eval()(images_NCHW[1200:]) for network in (teacher, student)]
    assert (said[0].logits_BK.argmax(dim=1) == labels_B).float().mean() > 0.9
    return said[0], said[1], Batch(labels_B, rows_B, rows_B, 1, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("match", "expected"), [("weight", 3.4), ("shrink", 3.11), (None, 3.11)])
def test_the_shrink_takes_tekaps_factor_to_3_11_on_a_teacher_of_digits(match: str | None, expected: float) -> None:
    teacher, student, drawn = digits()
    views = small_world.views("tekap", variant="released")
    if match is not None:
        views = small_world.views("matched", of=TEKAP, match=match)
    by_term = gradient_factors(
        {"kd": small_world.method("kd")}, teacher, student, drawn, views.teach(teacher, student, drawn)
    )
    assert by_term["kd"] == pytest.approx(expected, abs=0.03 if expected < 3.4 else 1e-3)
    own_BK, shrunk_BK = (torch.softmax(share * teacher.logits_BK / 4, dim=1) for share in (1.0, 0.9))
    found_BK = torch.softmax(student.logits_BK / 4, dim=1)
    second_BK = own_BK if match == "weight" else shrunk_BK
    formula = (found_BK - own_BK + 2.4 * (found_BK - second_BK)).norm() / (found_BK - own_BK).norm()
    assert by_term["kd"] == pytest.approx(float(formula), abs=3e-3)  # the noise itself adds next to nothing


def test_a_proper_mixture_of_the_teacher_itself_has_the_factor_1_everywhere() -> None:
    names = [name for name in registry.names("methods") if lookup("methods", name).consumes in ("logits", "pooled")]
    by_term = factors("weight", {"name": "angular"}, *names)
    assert {name.partition(".")[0] for name in by_term} >= {"kd", "dkd", "crd", "mlkd", "rkd", "dist", "reviewkd"}
    assert all(value == pytest.approx(1.0, rel=2e-3) for value in by_term.values()), by_term


def test_terms_without_weight_and_methods_without_targets_are_left_out() -> None:
    built = {"dkd": small_world.method("dkd", alpha=0.0), "at": small_world.method("at")}
    teacher, student, drawn = signals(2, TEACHER_DIM), signals(1, STUDENT_DIM), batch()
    by_term = gradient_factors(built, teacher, student, drawn, small_world.views("none").teach(teacher, student, drawn))
    assert by_term == {"dkd.nckd": 1.0}
