"""Names as short as they are unambiguous, and values with few digits."""

from __future__ import annotations

import math
from typing import Any

import pytest

from akdtune.reports.short_names import searched, separated, settings_text, short_names, short_value


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["views.margin", "method.kd.weight", "training.lr"], ["margin", "kd.weight", "lr"]),
        (["views.angular.margin", "views.num_views"], ["margin", "num_views"]),
        (["method.kd.weight", "method.crd.weight", "views.weight"], ["kd.weight", "crd.weight", "views.weight"]),
        (["training.lr", "teacher.lr", "views.warmup_lr"], ["training.lr", "teacher.lr", "warmup_lr"]),
        (["views.first.margin", "views.second.margin"], ["first.margin", "second.margin"]),
        (["lr", "training.lr"], ["lr", "training.lr"]),
        (["a.b.c", "b.c", "c"], ["a.b.c", "b.c", "c"]),
        (["method", "method.temperature"], ["method", "temperature"]),
        (["student.stages.0", "student.stages.1", "x.0"], ["stages.0", "stages.1", "x.0"]),
        (["method.kd#2.weight", "method.kd.weight"], ["kd#2.weight", "kd.weight"]),
        (["", "a.", ".b"], ["", "a.", "b"]),
        (["views.größe"], ["größe"]),
        ([], []),
    ],
)
def test_short_names(names: list[str], expected: list[str]) -> None:
    assert list(short_names(names).items()) == list(zip(names, expected, strict=True))


def test_no_two_settings_get_one_name() -> None:
    names = [".".join(parts) for size in (1, 2, 3) for parts in _words(size)]
    short = short_names(names)
    assert len(set(short.values())) == len(names) == 39
    assert all(name == of or name.endswith(f".{of}") for name, of in short.items())


def _words(size: int) -> list[tuple[str, ...]]:
    if size == 0:
        return [()]
    return [(letter, *rest) for letter in "abc" for rest in _words(size - 1)]


def test_a_heading_is_no_name_of_a_setting() -> None:
    names = ["training.epochs", "views.seed", "epochs"]
    assert short_names(names, taken={"epochs", "seed"}) == {
        "training.epochs": "training.epochs", "views.seed": "views.seed", "epochs": "epochs",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""), (True, "true"), (False, "false"), (3, "3"), (123456789, "123456789"), (0.4123456, "0.4123"),
        (1.0, "1"), (1e-5, "1e-05"), (12345.6, "12346"), (-12345.6, "-12346"), (1e9, "1e+09"), (9999.9, "10000"),
        (math.nan, "nan"), (math.inf, "inf"), ("infonce_clip", "infonce_clip"), ([1, 2.5, None], "[1, 2.5, null]"),
        ({"name": "cnn", "wide": True}, "{name: cnn, wide: true}"), ([], "[]"),
    ],
)  # fmt: skip
def test_short_values(value: Any, expected: str) -> None:
    assert short_value(value) == expected


def test_settings_on_one_line() -> None:
    settings = {
        "views.margin": 0.40001,
        "method.kd.weight": 1.5,
        "training": "lr=0.1, momentum=0",
        "x": "",
        "y": "a\nb",
    }
    assert settings_text(settings, short_names(settings)) == (
        'margin=0.4 kd.weight=1.5 training="lr=0.1, momentum=0" x="" y="a\\nb"'
    )
    assert settings_text({}, {}) == ""
    assert settings_text({"views.margin": 1}, {}) == "views.margin=1"


def test_what_is_constant_is_told_from_what_varies() -> None:
    rows: list[dict[str, Any]] = [
        {"role": "search", "seed": 0, "lr": math.nan, "weight": 1, "wide": True},
        {"role": "search", "seed": 1, "lr": math.nan, "wide": 1},
    ]
    constant, varying = separated(rows)
    assert list(constant) == ["role", "lr"]
    assert constant["role"] == "search"
    assert varying == ["seed", "weight", "wide"]
    assert separated(rows[:1]) == ({}, ["role", "seed", "lr", "weight", "wide"])
    assert separated([]) == ({}, [])


def test_the_searched_settings_of_a_trial() -> None:
    row = {"trial_id": "a-s0", "param.views.margin": 0.4, "param.method.kd.weight": None, "param.views.inter": False}
    assert searched(row) == {"views.margin": 0.4, "views.inter": False}
