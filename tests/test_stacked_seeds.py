"""`benchmarks/stacked_seeds.py`: what is timed against single steps are these steps."""

from __future__ import annotations

import importlib
import sys

import torch

from akdtune import networks
from tests.checkout import ROOT

sys.path.append(str(ROOT / "benchmarks"))
stacked_seeds = importlib.import_module("stacked_seeds")
SETUP = stacked_seeds.SETUPS["digits"]


def test_every_form_has_the_gradients_of_single_students() -> None:
    rows = stacked_seeds.measure("digits", 3, "fp32", "cpu", steps=1)
    assert [row["form"] for row in rows] == list(stacked_seeds.FORMS)
    assert not any(row["note"] for row in rows)
    assert max(row["difference"] for row in rows) < 1e-5


def test_grouped_students_train_as_each_of_them_alone() -> None:
    students = [networks.build(SETUP.network, SETUP.inputs, seed) for seed in range(2)]
    given = stacked_seeds.given(SETUP, 2, "cpu")
    grouped = stacked_seeds.Grouped(students, given, "fp32")
    alone = stacked_seeds.OneByOne(students, given, "fp32")
    for _ in range(3):
        grouped.step()
        alone.step()
    for seed, student in enumerate(students):
        for name, weights in student.named_parameters():
            torch.testing.assert_close(grouped.network.get_parameter(name).chunk(2)[seed], weights)
        for name in ("norms.0.running_mean", "norms.0.running_var"):
            torch.testing.assert_close(grouped.network.get_buffer(name).chunk(2)[seed], student.get_buffer(name))
