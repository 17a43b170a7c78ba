"""The commands in a pseudo-terminal of 80, 100 and 160 columns: one line a trial, nothing wider, the right numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.pseudo_terminal import columns_of, seen
from tests.study_fixture import StudyBuilder

WIDTHS = (80, 100, 160)
LONG = "none/" + "+".join(f"kd[temperature={number}]" for number in range(8))
WIDE = "ステュディの名前がとても長い場合 – é̂"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with studies under runs/."""
    folder = tmp_path_factory.mktemp("terminal")
    build = StudyBuilder(folder / "runs" / "search")
    for number in range(48):
        arm = ("angular/kd", "angular/kd+crd")[number % 2]
        params = {
            "views.num_views": 3, "views.margin": 0.1 + number / 97, "views.diversity_weight": 1.5 * number,
            "method.kd.weight": 0.25 * (number + 1), **({"method.crd.weight": 10.0 * number} if number % 2 else {}),
        }  # fmt: skip
        role, seed = ("probe", 1) if number >= 40 else ("search", 0)
        status = "pruned" if number % 7 == 3 else "done"
        build.add(arm, 50 + number / 4, 0.1, role=role, seed=seed, status=status, params=params)
    build.write()
    _odd(folder)
    _ablation(folder)
    StudyBuilder(folder / "runs" / "empty").write()
    build = StudyBuilder(folder / "runs" / "young")
    for _ in range(3):
        build.add("none/kd", 20.0, None, role="search", status="running")
    build.write(finished=False)
    return folder


def _odd(folder: Path) -> None:
    """Names and values that somebody may choose."""
    build = StudyBuilder(folder / "runs" / "odd")
    build.add(LONG + "/resnet8", 61.0, None, role="search", params={"views.text": "a b\nc\x1b[31m" + "x" * 500})
    build.add(LONG + "/resnet20", 62.0, None, role="search", params={"views.text": "short", "views.other": 1e-9})
    build.add("none/kd", math.nan, None, role="search", seed=10**9, params={"views.text": "short"})
    build.add(WIDE, 63.0, None, role="search", status="interrupted", params={"views.größe": "很长" * 60})
    build.write()


def _ablation(folder: Path) -> None:
    build = StudyBuilder(folder / "runs" / "ablation")
    seeds = range(100, 105)
    build.cell("base", [70.0, 71.0, 72.0, 73.0, 74.5], seeds=seeds)
    build.cell("inter=false", [71.0, 72.0, 73.0, 74.0, 74.25], seeds=seeds)
    build.cell("student_only", [60.0, 61.0, 62.0, 63.0, 64.0], seeds=seeds, role="control", arm="none/student_only")
    build.write()


COMMANDS: Sequence[Sequence[str]] = (
    ["show", "search"], ["show", "search", "--all"], ["show", "search", "--top", "3"], ["show", "search", "--summary"],
    ["show", "odd"], ["show", "odd", "--summary"], ["show", "empty"], ["show", "young"], ["show", "ablation", "--all"],
    ["best", "search"], ["best", "odd"], ["best", "ablation"], ["best", "ablation", "inter=false"],
    ["show", "search", "--role", "probe", "--sort", "margin"], ["show", "search", "--status", "failed"],
)  # fmt: skip


@pytest.fixture(scope="module", params=WIDTHS)
def screens(request: pytest.FixtureRequest, folder: Path) -> dict[str, list[str]]:
    """What each command prints in a terminal of one width, by its arguments."""
    printed = seen(COMMANDS, request.param, folder)
    assert all(columns_of(line) <= request.param for lines in printed for line in lines)
    found = {" ".join(command): lines for command, lines in zip(COMMANDS, printed, strict=True)}
    found["width"] = [str(request.param)]
    return found


def trial_lines(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if re.match(r"t\d{5} ", line)]


def table_lines(lines: Sequence[str]) -> list[str]:
    """What stands below the answer that `show` opens with: what all trials share, and the trials."""
    return list(lines[next(place for place, line in enumerate(lines) if line.startswith("all ")) :])


def test_no_line_moves_the_cursor(screens: dict[str, list[str]]) -> None:
    assert not [line for lines in screens.values() for line in lines if "\x1b" in line or "\r" in line]


def test_fifteen_rows_and_how_many_more(screens: dict[str, list[str]]) -> None:
    lines = screens["show search"]
    assert lines[0] == "runs/search: 48 trials: 41 done, 7 pruned"
    table = table_lines(lines)
    assert table[0] == "all 48: epochs 2, num_views=3"
    shown = trial_lines(lines)
    assert [line.split()[0] for line in shown] == [f"t{number:05d}" for number in range(15)]
    assert all(f" {50 + number / 4:.2f}" in line for number, line in enumerate(shown))
    assert lines[-1] == "… 33 more (--all)"
    assert len(table) <= 40, "a terminal of 40 rows holds it"


def test_all_rows_of_all_trials(screens: dict[str, list[str]]) -> None:
    lines = screens["show search --all"]
    assert [line.split()[0] for line in trial_lines(lines)] == [f"t{number:05d}" for number in range(48)]
    assert lines[-1].split()[-1] != "(--all)"
    assert " 61.75" in trial_lines(lines)[-1]


def test_settings_are_columns_or_one_line_below(screens: dict[str, list[str]]) -> None:
    lines, wide = screens["show search"], screens["width"] != ["80"]
    (heading,) = (line for line in lines if line.startswith("trial "))
    assert heading.split()[:7] == ["trial", "arm", "role", "seed", "status", "val", "%"]
    if wide:
        assert heading.split()[7:] == ["crd.weight", "kd.weight", "diversity_weight", "margin"]
        assert len(trial_lines(lines)) == len(table_lines(lines)) - 3, "nothing below"
        points = {line.rindex(".") for line in trial_lines(lines)}
        assert points == {heading.index("margin") + 1}, "margins stand below each other by their points"
    else:
        below = [line for line in table_lines(lines) if line.startswith("    ")]
        assert below[0] == "    kd.weight=0.25 diversity_weight=0 margin=0.1"
        assert below[1] == "    crd.weight=10 kd.weight=0.5 diversity_weight=1.5 margin=0.1103"
        assert len(below) == 15


def test_the_tally_is_of_the_study(screens: dict[str, list[str]]) -> None:
    lines = screens["show search --top 3"]
    assert lines[0] == "runs/search: 48 trials: 41 done, 7 pruned; 3 of 48 shown"
    assert [line.split()[0] for line in trial_lines(lines)] == ["t00047", "t00046", "t00045"]
    assert not lines[-1].startswith("…")
    assert screens["show search --status failed"] == ["runs/search: 48 trials: 41 done, 7 pruned; 0 of 48 shown"]
    probes = screens["show search --role probe --sort margin"]
    assert probes[0].endswith("; 8 of 48 shown")
    assert probes[1] == "all 8: role probe, seed 1, epochs 2, num_views=3"
    assert [line.split()[0] for line in trial_lines(probes)] == [f"t{number:05d}" for number in range(47, 39, -1)]


def test_means_over_seeds(screens: dict[str, list[str]]) -> None:
    lines = screens["show search --summary"]
    assert lines[0] == "runs/search: 48 trials: 41 done, 7 pruned"
    rows = [line for line in lines if line.startswith("angular/")]
    assert len(rows) == 15 and lines[-1] == "… 26 more (--all)"
    assert rows[0].split()[:4] == ["angular/kd+crd", "probe", "1", "61.75"]


def test_names_and_values_that_somebody_may_choose(screens: dict[str, list[str]]) -> None:
    lines = screens["show odd"]
    shown = {line.split()[0]: line for line in trial_lines(lines)}
    assert list(shown) == ["t00000", "t00001", "t00002", "t00003"], "one line a trial"
    assert "61.00" in shown["t00000"] and "62.00" in shown["t00001"] and "nan" in shown["t00002"]
    assert len({line.split()[1] for line in shown.values()}) == 4, "long names stay different"
    assert any(line.startswith(r'    text="a b\nc\u001b[31mxxx') and line.endswith("xxx…") for line in lines)
    assert "interrupted" in shown["t00003"] and "1000000000" in shown["t00002"]
    assert len(screens["best odd"]) >= 3


def test_studies_without_results(screens: dict[str, list[str]]) -> None:
    assert screens["show empty"] == ["runs/empty: 0 trials"]
    lines = screens["show young"]
    assert lines[0] == "runs/young: 3 trials: 3 running"
    assert table_lines(lines)[0].startswith("all 3: arm none/kd, role search, seed 1, status running, epochs 2")
    assert len(trial_lines(lines)) == 3


def test_the_cells_of_an_ablation(screens: dict[str, list[str]]) -> None:
    lines = screens["show ablation --all"]
    assert len(trial_lines(lines)) == 15
    assert "70.00" in trial_lines(lines)[0] and "base" in trial_lines(lines)[0]
    best = screens["best ablation"]
    assert best[0].startswith("runs/ablation: best of 15 trials: 15 done (ablation); chosen by the test set")
    assert [line.split()[:2] for line in trial_lines(best)] == [["t00004", "base"], ["t00014", "student_only"]]
    means = [line.split() for line in best if line.startswith(("inter=false", "student_only"))]
    assert [row[:4] for row in means] == [
        ["inter=false", "ablation", "5", "72.85"], ["student_only", "control", "5", "62.00"],
    ]  # fmt: skip
    assert len(trial_lines(screens["best ablation inter=false"])) == 5


def test_the_best_of_every_role(screens: dict[str, list[str]]) -> None:
    lines = screens["best search"]
    shown = [line.split() for line in trial_lines(lines)]
    assert [row[:4] for row in shown] == [
        ["t00047", "angular/kd+crd", "probe", "1"], ["t00046", "angular/kd", "probe", "1"],
    ]  # fmt: skip
    text = " ".join(" ".join(lines).split())
    assert (
        "A probe is better than the search: t00047 (angular/kd+crd, seed 1) has 61.75 %, the search's best "
        "t00039 (angular/kd+crd, seed 0) 59.75 %."
    ) in text


def test_lists_have_a_line_a_name(folder: Path) -> None:
    known = {"methods": "kd", "views": "angular", "networks": "resnet8", "data": "digits", "spaces": "digits_angular"}
    for name, lines in zip(known.values(), seen([[listed] for listed in known], 80, folder), strict=True):
        start = next(place for place, line in enumerate(lines) if line.startswith("name "))
        names = [line.split()[0] for line in lines[start + 1 :]]
        assert len(names) == len(set(names)) > 5
        assert name in names
        assert max(map(columns_of, lines)) <= 80


@pytest.mark.parametrize("width", [40, 80])
def test_a_plan_is_broken_between_words(folder: Path, width: int) -> None:
    plan = ["plan", "digits_angular", "--no-timing"]
    (lines,), (whole,) = seen([plan], width, folder), seen([plan], 2000, folder)
    assert max(map(columns_of, lines)) <= width < max(map(columns_of, whole))
    assert "    views.margin  uniform [0.1, 0.6]" in lines
    words, asked = ([word for line in shown for word in line.split()] for shown in (lines, whole))
    assert {word for word in asked if columns_of(word) <= width - 6} <= set(words)
    assert "".join(words) == "".join(asked)
