"""`akdtune best`: every role, means over seeds, studies without a search, and any trial or cell by its name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from akdtune import cli
from akdtune.errors import AkdtuneError
from akdtune.records.files import LOCK
from akdtune.records.plan_file import read_plan
from akdtune.reports.trials.best import bests
from akdtune.reports.trials.chosen import chosen
from akdtune.study import spec
from tests.study_fixture import StudyBuilder, cell_id

BESIDE = "Whoever chooses among these chooses by the test set"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def build(home: Path) -> StudyBuilder:
    return StudyBuilder(home / "runs" / "study")


def call(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What `akdtune best study` prints; the message where it is refused."""
    returned = cli.main(["best", "study", *arguments])
    captured = capsys.readouterr()
    assert returned == code, captured.err
    return captured.err if code else captured.out


def row(trial_id: str, **given: Any) -> dict[str, Any]:
    return {
        "trial_id": trial_id, "cell_id": trial_id, "cell": None, "arm": "none/kd", "role": "search", "seed": 0,
        "status": "done", "epochs": 2, "val_accuracy": None, "test_accuracy": None, **given,
    }  # fmt: skip


class TestWhichIsBest:
    def test_a_probe_is_not_passed_over(self, build: StudyBuilder, capsys: pytest.CaptureFixture[str]) -> None:
        build.add("angular/kd", 71.67, None, role="search", seed=0)
        build.add("angular/kd", 77.33, None, role="probe", seed=3)
        build.write()
        lines = call(capsys).splitlines()
        assert lines[0].endswith(
            "best of 2 trials: 2 done (search, probe); the highest of noisy numbers, so optimistic"
        )
        assert lines[2].split() == ["t00001", "angular/kd", "probe", "3", "done", "2", "77.33"]
        assert lines[4] == (
            "A probe is better than the search: t00001 (angular/kd, seed 3) has 77.33 %, the search's best t00000 "
            "(angular/kd, seed 0) 71.67 %. Confirmation and ablation go by the search's."
        )

    def test_nothing_is_said_of_a_probe_that_is_no_better(
        self, build: StudyBuilder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        build.add("angular/kd", 71.0, None, role="search", seed=0)
        build.add("angular/dkd", 71.0, None, role="probe", seed=3)
        build.write()
        assert "better" not in call(capsys)

    def test_a_study_without_a_search(self, build: StudyBuilder, capsys: pytest.CaptureFixture[str]) -> None:
        build.cell("base", [70.0, 72.0])
        build.cell("inter=false", [71.0, 71.5])
        build.cell("student_only", [60.0, None], role="control", arm="none/student_only")
        build.write()
        text = call(capsys)
        assert text.startswith(f"{Path('runs/study')}: best of 5 trials: 5 done (ablation); chosen by the test set\n")
        table, means, last = text.partition("\n")[2].split("\n\n")
        assert [line.split()[:5] for line in table.splitlines()[1:]] == [
            ["t00001", "base", "angular/kd", "ablation", "1"],
            ["t00004", "student_only", "none/student_only", "control", "0"],
        ]
        assert [line.split()[:5] for line in means.splitlines()[2:]] == [
            ["inter=false", "ablation", "2", "71.25", "0.35"]
        ]
        assert last.startswith(BESIDE)

    def test_the_test_set_is_not_compared_with_validation_images(
        self, build: StudyBuilder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        build.add("none/kd", 60.0, None, role="search")
        for seed in (100, 101):
            build.add("none/kd", 90.0, None, role="confirm", seed=seed, cell="c")
        build.write()
        validation, test = call(capsys).split(f"\n\n{Path('runs/study')}: ")
        assert "60" in validation and "90" not in validation and "better" not in validation
        assert test.startswith("best of 2 trials: 2 done (confirmation); chosen by the test set")

    def test_several_seeds_are_judged_by_their_mean(
        self, build: StudyBuilder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for cell, values in {"lucky": (80.0, 50.0), "steady": (75.0, 76.0), "single": (79.0,)}.items():
            for seed, value in enumerate(values):
                build.add("none/kd", value, None, role="search", cell=cell, seed=seed)
        build.write()
        table, means = call(capsys).rstrip().split("\n\n")
        assert table.splitlines()[2].split()[0] == "t00000"
        assert means.splitlines()[2].split() == ["none/kd", "search", "2", "75.50", "0.71"]

    def test_a_pruned_trial_only_where_there_is_nothing_else(self) -> None:
        rows = [
            row("a", val_accuracy=50.0), row("b", val_accuracy=90.0, status="pruned"),
            row("c", arm="x/kd", val_accuracy=70.0, status="pruned", epochs=1),
            row("d", arm="x/kd", val_accuracy=80.0, status="running"),
            row("e", arm="y/kd", status="running"), row("f", arm="y/kd", val_accuracy=math.nan),
        ]  # fmt: skip
        (best,) = bests(rows)
        assert [trial["trial_id"] for trial in best.trials] == ["a", "c"], "done first, then pruned ones"
        assert best.sentences == [
            "A pruned trial stands here where none of its arm has reached its last epoch: x/kd (c after 1 epoch).",
            "No trial has reached its last epoch yet, or with a value, of y/kd.",
        ]

    def test_rows_that_are_odd(self) -> None:
        rows = [row("a", val_accuracy=1.0, role=None, arm=None, seed=None), row("b", val_accuracy=2.0, role="new")]
        (best,) = bests(rows)
        assert [trial["trial_id"] for trial in best.trials] == ["b", "a"]
        assert best.phases == ["None", "new"]

    def test_none_yet(self, build: StudyBuilder, capsys: pytest.CaptureFixture[str]) -> None:
        build.add("none/kd", 5.0, None, role="search", status="running")
        build.add("none/kd", None, None, role="probe", status="planned")
        build.write(finished=False)
        message = "no search or probe trial has reached its last epoch yet (2 trials: 1 planned, 1 running)"
        assert message in call(capsys, code=2)


class TestNames:
    ROWS = (
        row("aaa1-s0", cell_id="aaa1"), row("aaa1-s1", cell_id="aaa1", seed=1), row("aab2-s0", cell_id="aab2"),
        row("ccc3-s7", cell_id="ccc3", cell="base", role="ablation", seed=7),
        row("ccc3-s5", cell_id="ccc3", cell="base", role="ablation", seed=5, status="failed"),
        row("ccc3-s6", cell_id="ccc3", cell="base", role="ablation", seed=6),
        row("ddd4-s0", cell_id="ddd4", cell="aab2-s0"),
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "expected", "is_cell"),
        [
            ("aaa1-s1", ["aaa1-s1"], False),
            ("aaa1", ["aaa1-s0", "aaa1-s1"], True),
            ("aaa", ["aaa1-s0", "aaa1-s1"], True),
            ("aab", ["aab2-s0"], False),
            ("aab2-s0", ["aab2-s0"], False),
            ("base", ["ccc3-s5", "ccc3-s6", "ccc3-s7"], True),
            ("ccc3-s", ["ccc3-s7", "ccc3-s5", "ccc3-s6"], None),
            ("ddd4", ["ddd4-s0"], True),
        ],
    )  # fmt: skip
    def test_what_a_name_means(self, name: str, expected: list[str], is_cell: bool | None) -> None:
        if is_cell is None:
            with pytest.raises(AkdtuneError, match=f"'{name}' is ambiguous: {', '.join(expected)}"):
                chosen(self.ROWS, name)
            return
        meant = chosen(self.ROWS, name)
        assert ([of["trial_id"] for of in meant.rows], meant.is_cell) == (expected, is_cell)

    def test_a_cell_gives_its_first_finished_trial(self) -> None:
        meant = chosen(self.ROWS, "base")
        assert (meant.trial["trial_id"], meant.seeds) == ("ccc3-s6", [5, 6, 7])

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("aa", "'aa' is ambiguous: aaa1-s0, aaa1-s1, aab2-s0"),
            ("bse", "no trial or cell 'bse'; did you mean 'base'?"),
            ("none/kd", "'none/kd' is an arm, not a trial or a cell"),
            ("", "no trial or cell ''"),
        ],
    )
    def test_what_it_cannot_mean(self, name: str, message: str) -> None:
        with pytest.raises(AkdtuneError, match=message.replace("?", r"\?")):
            chosen(self.ROWS, name)

    def test_a_pilot_has_cells_of_the_same_names(self) -> None:
        rows = [*self.ROWS, row("eee5-s0", cell_id="eee5", cell="base", role="pilot")]
        with pytest.raises(AkdtuneError, match=r"cell 'base' is ambiguous: ccc3 \(ablation, .*\), eee5 \(pilot, .*\)"):
            chosen(rows, "base")


@pytest.fixture
def exportable(build: StudyBuilder) -> Path:
    """A search, a probe and an ablation, with settings that can be exported."""
    study = spec.load("digits_angular")
    proposals = [study.arms[0].random(seed) for seed in range(3)]
    build.add("angular/kd", 60.0, None, role="search", seed=4)
    build.add("angular/kd", 70.0, None, role="probe", seed=5)
    build.cell("inter=false", [50.0, 51.0, 52.0], seeds=[100, 101, 102])
    for plan, proposal in zip(build.plan, [*proposals, proposals[2], proposals[2]], strict=True):
        plan["settings"] = proposal.settings
    directory = build.write()
    (directory / LOCK).write_text(yaml.safe_dump({"settings": study.resolved()}))
    return directory


@pytest.mark.parametrize(
    ("arguments", "place", "seeds", "said"),
    [
        ([], 1, [5], "trial t00001: probe of angular/kd, seed 5, val accuracy 70.00 %"),
        (["--role", "search"], 0, [4], "trial t00000: search of angular/kd, seed 4, val accuracy 60.00 %"),
        (["t00000"], 0, [4], "trial t00000: search of angular/kd, seed 4, val accuracy 60.00 %"),
        (["t00003"], 3, [101], "trial t00003: ablation of angular/kd, seed 101, test accuracy 51.00 %"),
        (["inter=false"], 2, [100, 101, 102], "cell inter=false: ablation of angular/kd, 3 seeds"),
        ([cell_id("inter=false")[:6]], 2, [100, 101, 102], "cell inter=false: ablation of angular/kd, 3 seeds"),
    ],
)
def test_any_trial_and_cell_can_be_exported(
    exportable: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], place: int, seeds: list[int], said: str
) -> None:
    text = call(capsys, *arguments, "--export", "one.yaml")
    assert f"written: one.yaml ({said})\n" in text
    assert ("note: it was judged on the test set" in text) == (place > 1)
    study = spec.load("one.yaml")
    (arm,) = study.arms
    assert arm.random(0).settings == read_plan(exportable)[place]["settings"]
    assert list(study.search.training_seeds) == seeds
    assert "exists already" in call(capsys, *arguments, "--export", "one.yaml", code=2)


def test_a_name_that_nothing_has_writes_nothing(exportable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'inter=false'?" in call(capsys, "inter=flase", "--export", "one.yaml", code=2)
    assert not Path("one.yaml").exists()
