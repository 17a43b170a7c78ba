"""What `--extend` lets grow, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from akdtune.running.lock import split_changes
from akdtune.settings import file as settings_file

BEFORE: dict[str, Any] = {
    "study": "s",
    "views": {"name": "tekap", "noise": 0.1},
    "search": {"algorithm": "tpe", "trials": 8, "seed": 0},
    "probe": None,
    "confirm": {"top": 1, "seeds": [10, 11], "baselines": []},
    "ablation": {
        "design": "leave_one_out",
        "factors": {"views.noise": [0.1, 0.2]},
        "controls": ["plain"],
        "seeds": [20, 21],
        "alpha": 0.05,
        "reference": None,
    },
}


def changed(section: str, key: str, value: Any) -> dict[str, Any]:
    now = copy.deepcopy(BEFORE)
    now[section][key] = value
    return now


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("search", "trials", 16),
        ("search", "trials", None),
        ("confirm", "top", 2),
        ("confirm", "seeds", [10, 11, 12]),
        ("confirm", "baselines", ["kd"]),
        ("ablation", "seeds", [20, 21, 22]),
        ("ablation", "controls", ["plain", "weight_matched"]),
        ("ablation", "factors", {"views.noise": [0.1, 0.2, 0.3]}),
        ("ablation", "factors", {"views.noise": [0.1, 0.2], "views.shrink": [0.1, 0.0]}),
        ("ablation", "reference", "plain"),
    ],
)
def test_what_is_added_leaves_no_other_difference(section: str, key: str, value: Any) -> None:
    now = changed(section, key, value)
    lines, merged = split_changes(BEFORE, now)
    assert [line.split(":")[0] for line in lines] == [f"{section}.{key}"]
    assert settings_file.settings_difference(merged, now) == []
    assert BEFORE[section][key] != value, "the study as it was is not touched"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("search", "trials", 4),
        ("search", "seed", 1),
        ("views", "noise", 0.2),
        ("confirm", "seeds", [11, 12]),
        ("ablation", "seeds", [21, 20]),
        ("ablation", "factors", {"views.noise": [0.2, 0.1]}),
        ("ablation", "factors", {"views.shrink": [0.1, 0.0]}),
        ("ablation", "alpha", 0.1),
        ("ablation", "design", "full_factorial"),
    ],
)
def test_what_would_lose_or_change_something_still_differs(section: str, key: str, value: Any) -> None:
    now = changed(section, key, value)
    lines, merged = split_changes(BEFORE, now)
    assert lines == []
    assert len(settings_file.settings_difference(merged, now)) >= 1


def test_a_whole_phase_may_be_added() -> None:
    now = {**BEFORE, "probe": {"trials": 4, "seeds": [1]}}
    lines, merged = split_changes(BEFORE, now)
    assert lines == ["probe: added"]
    assert merged == now


def test_a_pilot_may_become_the_seeds_it_proposed() -> None:
    before = changed("ablation", "seeds", {"pilot": 3})
    lines, merged = split_changes(before, changed("ablation", "seeds", [100, 101]))
    assert lines == ["ablation.seeds: {pilot: 3} -> [100, 101]"]
    assert merged["ablation"]["seeds"] == [100, 101]
