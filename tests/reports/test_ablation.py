"""analysis/ablation.py: cells of design.json joined with trials, what is said of them, and the files it leaves."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from akdtune import errors
from akdtune.cli import main as akdtune
from akdtune.records.files import read_rows, read_table, write_rows, write_table
from akdtune.reports.ablation import seed_words
from akdtune.reports.ablation.findings import level_means
from akdtune.reports.ablation.measured import phases_of
from akdtune.reports.ablation.predictions import StoredPredictions
from akdtune.reports.text import save, tex_escape
from akdtune.statistics import paired
from akdtune.statistics.power import detectable, more_seeds
from tests.study_fixture import StudyBuilder

analysis = importlib.import_module("akdtune.analysis.ablation")
SEEDS = 6
NOISE = np.random.default_rng(1).normal(0, 0.15, (8, SEEDS))
SEED_EFFECT = np.random.default_rng(2).normal(0, 0.5, SEEDS)


@pytest.fixture
def drawn() -> None:
    """Asked for by tests that look at figures."""


@pytest.fixture(autouse=True)
def without_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, so that only tests that look at figures draw."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(analysis, "draw", lambda result, name, kinds: {})


def values(mean: float, place: int, n: int = SEEDS) -> list[float]:
    return list((mean + SEED_EFFECT + NOISE[place])[:n])


def leave_one_out(path: Path, **options: Any) -> StudyBuilder:
    """Base 72; without `inter` 1.5 lower, without `intra` the same up to noise; one control."""
    study = StudyBuilder(path)
    study.cell("base", values(72, 0), **options)
    study.cell("base~inter", values(70.5, 1), changes={"views.inter": False}, **options)
    study.cell("base~intra", values(72, 2), merged=["views.margin=0.3: has no effect without intra"], **options)
    study.cell("weight_matched", values(71, 3), role="control", explanation="same weights, no views", **options)
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base", "alpha": 0.05, "families": None}
    study.design["ablation"] |= {"equivalence_margin": 0.3}
    return study


def factorial(path: Path) -> StudyBuilder:
    """a: 1.0, b: 0.5, a x b: 0.4 (as a difference of differences), each where on."""
    study = StudyBuilder(path)
    for place, (a, b) in enumerate(itertools.product([True, False], repeat=2)):
        mean = 70 + a + 0.5 * b + 0.4 * (a and b)
        study.cell(f"a{a:d}b{b:d}", values(mean, place), levels={"views.a": a, "views.b": b})
    study.design["ablation"] |= {"design": "full_factorial", "reference": "a1b1", "families": None}
    return study


def report(study: StudyBuilder, *options: str) -> dict[str, Any]:
    assert analysis.main([str(study.write()), *options]) == 0
    content: dict[str, Any] = json.loads((study.path / "reports" / "ablation.json").read_text())
    return content


def by_cell(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {difference["cell"]: difference for difference in content["differences"]}


def test_numbers_are_those_of_the_paired_comparison(tmp_path: Path) -> None:
    content = report(leave_one_out(tmp_path))
    base, inter = (dict(enumerate(values(mean, place))) for mean, place in ((72, 0), (70.5, 1)))
    expected = paired.paired_difference(inter, base)
    difference = by_cell(content)["base~inter"]
    assert difference["reference"] == "base"
    assert difference["n_pairs"] == SEEDS
    for key in ("difference", "ci_low", "ci_high", "p", "correlation", "permutation_p"):
        assert difference[key] == pytest.approx(getattr(expected, key)), key
    others = [dict(enumerate(values(mean, place))) for mean, place in ((70.5, 1), (72, 2), (71, 3))]
    family = paired.holm_family([paired.paired_difference(other, base) for other in others])
    assert [member["p_holm"] for member in content["differences"]] == pytest.approx(
        [member.p_holm for member in family]
    )
    assert [member["ci_family_low"] for member in content["differences"]] == pytest.approx(
        [member.ci_family_low for member in family]
    )
    assert difference["verdict"] == "lower"
    assert difference["family"] == 3
    cells = {cell["name"]: cell for cell in content["cells"]}
    summary = paired.cell_summary(values(72, 0))
    assert [cells["base"][key] for key in ("n", "mean", "sd", "ci_low", "ci_high")] == pytest.approx(
        [summary.n, summary.mean, summary.sd, summary.ci_low, summary.ci_high]
    )
    assert cells["weight_matched"]["explanation"] == "same weights, no views"
    assert content["merged"] == ["views.margin=0.3: has no effect without intra"]
    assert content["equivalence_margin"] == 0.3


def test_the_console_says_what_is_and_is_not_resolved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(leave_one_out(tmp_path))
    printed = capsys.readouterr().out
    assert all(len(line) <= 100 for line in printed.split("\nwritten")[0].splitlines())
    text = " ".join(printed.split())
    assert "base~inter: lower than base by" in text
    assert "base~intra: equivalent to base within 0.3 points" in text or "base~intra: not resolved" in text
    assert text.count("conditional on this teacher, this split and this test set") == 1
    assert re.search(r"pairing by seed removes \d+ %, \[\S+, \d+\] of the variance of differences - int", text)
    assert "no replica control: the noise floor is not known (ablation.controls: [replica])" in text
    assert "smallest difference that these seeds show with power .8 by the rule that judges" in text
    assert "control weight_matched: same weights, no views" in text
    assert "merged: views.margin=0.3: has no effect without intra" in text


def test_not_resolved_names_further_seeds(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    study.cell("base", [70.0, 71.0, 72.0])
    study.cell("base~x", [70.5, 70.4, 72.3])
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    difference = by_cell(report(study))["base~x"]
    assert difference["verdict"] == "not resolved"
    sd = float(np.std([0.5, -0.6, 0.3], ddof=1))
    assert (difference["more_seeds_low"], difference["more_seeds_high"]) == more_seeds(sd, 3, resolve=0.3, alpha=0.05)
    assert (difference["more_seeds_low"], difference["more_seeds_high"]) == (29, 134), "statsmodels: 31.9 and 136.1"
    assert difference["sentence"].endswith("needs about 30 to 140 more seeds to resolve 0.3 points with power .8")
    shows = detectable(sd, 3, alpha=0.05)
    assert (difference["minimum_detectable_low"], difference["minimum_detectable_high"]) == pytest.approx(shows)
    assert "n = 3 shows only 1.91 to 4.05 points or more; needs" in difference["sentence"]


def test_what_seeds_need_follows_the_rule_that_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three comparisons judged by Holm: alpha / 3, for what seeds show, too."""
    differences = by_cell(report(leave_one_out(tmp_path)))
    for difference in differences.values():
        sd, shows = difference["sd"], (difference["minimum_detectable_low"], difference["minimum_detectable_high"])
        assert shows == pytest.approx(detectable(sd, SEEDS, alpha=0.05 / 3))
        needs = (difference["more_seeds_low"], difference["more_seeds_high"])
        assert needs == more_seeds(sd, SEEDS, resolve=0.3, alpha=0.05 / 3)
    low, high = (pick(d[f"minimum_detectable_{end}"] for d in differences.values())
                 for pick, end in ((min, "low"), (max, "high")))  # fmt: skip
    text = " ".join(capsys.readouterr().out.split())
    assert f"by the rule that judges (alpha over the size of the family): {low:.2f} to {high:.2f}" in text
    assert "with the larger number of seeds four of five studies reach that power" in text
    assert "seeds that are added after this look are a second look at the same alpha" in text


def test_without_spread_no_number_of_seeds_is_known(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    study.cell("base", values(72, 0))
    study.cell("base~x", [value + 1.0 for value in values(72, 0)])
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    difference = by_cell(report(study))["base~x"]
    known = [difference[f"{what}_{end}"] for what in ("more_seeds", "minimum_detectable") for end in ("low", "high")]
    assert known == [None] * 4
    assert "would have shown" not in difference["sentence"]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ((0, 0), "0.3 points would have shown with power .8"),
        ((0, 1), "needs up to about 1 more seed to resolve 0.3 points with power .8"),
        ((0, 12), "needs up to about 15 more seeds to resolve 0.3 points with power .8"),
        ((1, 1), "needs about 1 more seed to resolve 0.3 points with power .8"),
        ((7, 26), "needs about 7 to 30 more seeds to resolve 0.3 points with power .8"),
        ((11, 14), "needs about 15 more seeds to resolve 0.3 points with power .8"),
        ((437, 1055), "needs about 440 to 1,100 more seeds to resolve 0.3 points with power .8"),
        ((1001, 59170), "needs more than 1,000 more seeds to resolve 0.3 points with power .8"),
    ],
)
def test_numbers_of_seeds_are_rounded_up_to_what_they_are_worth(more: tuple[int, int], text: str) -> None:
    assert seed_words.needed(*more, "0.3 points") == text
    assert all(seed_words.rounded_up(count) >= count for count in range(3000))


def test_tables_for_a_paper(tmp_path: Path) -> None:
    study = leave_one_out(tmp_path)
    study.cell("50% & x_y", values(71.5, 4))
    report(study)
    folder = tmp_path / "reports"
    tex = (folder / "ablation.tex").read_text()
    assert [rule in tex for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    assert r"50\% \& x\_y & 6 &" in tex
    body = [line for line in tex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count(" & ") for line in body} == {6}
    assert tex.index("base\\textasciitilde{}intra") < tex.index(r"\emph{Controls}") < tex.index(r"weight\_matched")
    with (folder / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["cell"] for row in rows] == ["base", "base~inter", "base~intra", "weight_matched", "50% & x_y"]
    assert float(rows[1]["difference"]) == pytest.approx(np.mean(values(70.5, 1)) - np.mean(values(72, 0)))
    assert rows[0]["p_holm"] == ""
    markdown = (folder / "ablation.md").read_text()
    assert "| base | 6 |" in markdown
    assert "- weight_matched: same weights, no views" in markdown


@pytest.mark.parametrize("text", ["a & b", r"\x", "50 %", "x_y", "{a}", "a~b^c", "#1 $"])
def test_tex_escapes(text: str) -> None:
    escaped = tex_escape(text)
    for letter in "&%$#_":
        assert escaped.replace(f"\\{letter}", "").count(letter) == 0


def test_an_unfinished_study_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    study.cell("base", values(72, 0))
    study.cell("base~x", values(71, 1), statuses={1: "running", 2: "planned", 3: "diverged", 4: "failed"})
    study.cell("base~y", [*values(71, 2, 5), None])
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    content = report(study)
    printed = capsys.readouterr().out
    # A running trial of a driver that has gone is interrupted.
    assert "not finished: 3 of 18 trials are missing (1 planned, 1 interrupted, 1 not planned)" in printed
    assert "excluded: base~x, seed 3: diverged" in printed
    assert "excluded: base~x, seed 4: failed" in printed
    assert "diverged trials are an outcome of their cell" in printed
    assert by_cell(content)["base~x"]["seeds"] == [0, 5]
    assert by_cell(content)["base~y"]["n_pairs"] == 5
    assert {trial["status"] for trial in content["excluded"]} == {
        "interrupted", "planned", "diverged", "failed", "not planned",
    }  # fmt: skip
    assert next(cell for cell in content["cells"] if cell["name"] == "base~x")["diverged"] == 1


def test_one_seed_has_no_interval(drawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    study.cell("base", [72.0])
    study.cell("base~x", [71.0])
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    difference = by_cell(report(study))["base~x"]
    assert (difference["difference"], difference["ci_low"], difference["p_holm"]) == (-1.0, None, None)
    assert difference["sentence"].endswith("with one seed: no interval, nothing can be concluded")
    assert (tmp_path / "reports" / "ablation.png").exists()
    assert "nan" not in capsys.readouterr().out


def test_nothing_finished_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    study.cell("base", [72.0], statuses={0: "planned"})
    study.cell("base~x", [71.0], statuses={0: "planned"})
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    content = report(study)
    assert [cell["mean"] for cell in content["cells"]] == [None, None]
    assert "no seed that base has finished too" in capsys.readouterr().out


def test_seeds_of_a_pilot_are_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = leave_one_out(tmp_path)
    pilot = study.add(
        "angular/kd", 10.0, None, role="ablation", cell=study.design["ablation"]["cells"][0]["cell_id"], seed=77
    )
    content = report(study)
    assert pilot not in content["cells"][0]["trials"].values()
    assert content["cells"][0]["n"] == SEEDS
    assert "1 finished trials with seeds outside the design" in capsys.readouterr().out


def test_a_confirm_trial_of_the_same_cell_joins_by_its_id(tmp_path: Path) -> None:
    study = leave_one_out(tmp_path)
    for row in study.plan[:2]:
        row["role"] = "confirm"
    assert report(study)["cells"][0]["n"] == SEEDS


def test_families_are_declared(tmp_path: Path) -> None:
    study = leave_one_out(tmp_path)
    study.design["ablation"]["families"] = [["base~inter"], ["base~intra"]]
    differences = by_cell(report(study))
    assert differences["base~inter"]["p_holm"] == pytest.approx(differences["base~inter"]["p"])
    assert differences["base~inter"]["family"] == 1
    assert differences["weight_matched"]["p_holm"] is None
    assert "in no declared family" in differences["weight_matched"]["sentence"]
    [row] = [line for line in (tmp_path / "reports" / "ablation.md").read_text().splitlines() if "| weight_m" in line]
    assert row.endswith("] |  |  |"), "its own interval is not simultaneous"


def test_a_footnote_where_holm_rejects_what_its_interval_covers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six differences 1 +- .6646 have p .02: Holm's second step takes it below .05, three intervals at once do not."""
    base = values(72, 0)
    study = StudyBuilder(tmp_path)
    study.cell("base", base)
    study.cell("base~a", [value - 10 + 0.1 * (-1) ** seed for seed, value in enumerate(base)])
    study.cell("base~b", [value - 1 + 0.6646 * (-1) ** seed for seed, value in enumerate(base)])
    study.cell("base~c", [value + (-1) ** seed for seed, value in enumerate(base)])
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    content = report(study)
    differences = by_cell(content)
    assert [differences[name]["holm_alone"] for name in ("base~a", "base~b", "base~c")] == [False, True, False]
    b = differences["base~b"]
    assert b["p"] == pytest.approx(0.02, abs=1e-4)
    assert b["p_holm"] == pytest.approx(0.04, abs=2e-4)
    assert b["ci_family_low"] < -2 < 0 < b["ci_family_high"] < 0.1
    marked = f"[{b['ci_family_low']:+.2f}, {b['ci_family_high']:+.2f}]†".replace("-", "−")
    assert f"base~b: lower than base by 1.00 points, simultaneous {marked}, Holm p = .040" in b["sentence"]
    note = "† Holm rejects base~b although its single-step interval covers 0: "
    assert [line for line in content["notes"] if "†" in line] == [line for line in content["notes"] if note in line]
    assert note in " ".join(capsys.readouterr().out.split())
    folder = tmp_path / "reports"
    assert (folder / "ablation.md").read_text().count("†") == 3, "table, sentence, footnote"
    tex = (folder / "ablation.tex").read_text()
    assert tex.count(r"$^\dagger$") == 2
    assert "†" not in tex


def test_effects_are_contrasts_within_seeds(drawn: None, tmp_path: Path) -> None:
    content = report(factorial(tmp_path))
    effects = {effect["term"]: effect for effect in content["effects"]}
    a = effects["views.a: off - on"]
    cells = {name: np.array(list(cell.values.values())) for name, cell in _cells(tmp_path).items()}
    per_seed = (cells["a0b1"] + cells["a0b0"] - cells["a1b1"] - cells["a1b0"]) / 2
    assert a["estimate"] == pytest.approx(per_seed.mean())
    assert a["n_seeds"] == SEEDS
    both = effects["views.a: off - on x views.b: off - on"]
    assert both["estimate"] == pytest.approx((cells["a0b0"] - cells["a1b0"] - cells["a0b1"] + cells["a1b1"]).mean())
    for stem in ("ablation", "ablation_factors", "ablation_interactions"):
        for kind in ("png", "svg"):
            assert (tmp_path / "reports" / f"{stem}.{kind}").stat().st_size > 1000


def _cells(run: Path) -> dict[str, Any]:
    (phase,) = phases_of(run)
    return {cell.name: cell for cell in phase.cells}


def test_level_means_leave_the_seed_out(tmp_path: Path) -> None:
    """The seed moves all cells alike: intervals of level means must not grow with it."""
    (phase,) = phases_of(factorial(tmp_path).write())
    before = level_means(phase, ["views.a"], level=0.95)
    assert [mean.levels for mean in before] == [("on",), ("off",)]
    for cell in phase.cells:
        for seed in cell.values:
            cell.values[seed] += 10.0 * seed
    after = level_means(phase, ["views.a"], level=0.95)
    for old, new in zip(before, after, strict=True):
        assert new.summary.sd == pytest.approx(old.summary.sd)
        assert new.summary.mean == pytest.approx(old.summary.mean + 10 * (SEEDS - 1) / 2)


def test_the_crossed_interval_needs_predictions(tmp_path: Path) -> None:
    with_them = by_cell(report(leave_one_out(tmp_path / "with", predictions=500)))["base~inter"]
    without = by_cell(report(leave_one_out(tmp_path / "without")))["base~inter"]
    assert with_them["crossed_low"] < with_them["difference"] < with_them["crossed_high"]
    assert without["crossed_low"] is None
    assert "left no predictions" in without["crossed_note"]


def test_predictions_are_put_in_one_order(tmp_path: Path) -> None:
    """Every trial's file has its rows in another order; the same image must be compared with itself."""
    (phase,) = phases_of(leave_one_out(tmp_path, predictions=500).write())
    pair = StoredPredictions(tmp_path).pair(phase.cell("base~inter"), phase.cell("base"))
    assert not isinstance(pair, str)
    accuracy = [100 * right_SN.mean(1) for right_SN in pair[:2]]
    assert accuracy[0] == pytest.approx(list(phase.cell("base~inter").values.values()))
    assert np.corrcoef(pair[0][0], pair[1][0])[0, 1] > 0.8


def test_images_of_one_group_are_drawn_together(tmp_path: Path) -> None:
    """Values and groups that a file holds count for the interval over images, and for nothing else."""
    study = leave_one_out(tmp_path, predictions=500)
    run = study.write()
    alone = by_cell(report(study))["base~inter"]
    for path in run.glob("trials/*/predictions.parquet"):
        table = read_table(path)
        groups = pa.array(np.asarray(table["sample_id"]) % 2, pa.int64())
        right_N = np.stack(table["logits"].to_numpy()).argmax(1) == np.asarray(table["label"])
        for name, column in (("value", pa.array(100.0 * right_N, pa.float32())), ("group", groups)):
            table = table.append_column(name, column)
        write_table(path, table)
    (phase,) = phases_of(run)
    pair = StoredPredictions(run).pair(phase.cell("base~inter"), phase.cell("base"))
    assert not isinstance(pair, str) and pair.groups_N is not None and set(pair.groups_N.tolist()) == {0, 1}
    assert pair.cell_SN.mean(1) == pytest.approx(list(phase.cell("base~inter").values.values()))
    together = by_cell(report(study))["base~inter"]
    assert together["difference"] == alone["difference"] and together["ci_low"] == alone["ci_low"]
    assert together["crossed_low"] != alone["crossed_low"] and together["crossed_note"] == ""


def test_predictions_of_another_accuracy_are_not_believed(tmp_path: Path) -> None:
    study = leave_one_out(tmp_path, predictions=500)
    run = study.write()
    (phase,) = phases_of(run)
    phase.cell("base").values[0] -= 5
    assert "are not those of its accuracy" in str(
        StoredPredictions(run).pair(phase.cell("base~inter"), phase.cell("base"))
    )


def confirmed(path: Path) -> StudyBuilder:
    study = StudyBuilder(path)
    for rank, score in enumerate((74.0, 73.5), 1):
        more = {"rank": rank, "search_trial": f"s{rank}", "search_score": score}
        study.cell(f"angular/kd #{rank}", values(72 - 0.2 * rank, rank), phase="confirm", **more)
    study.cell("kd", values(71, 3), phase="confirm", role="control", rank=None, search_score=None)
    study.design["confirm"] |= {"top": 2, "reference": "kd"}
    return study


def test_the_winners_curse_is_shown(drawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = report(confirmed(tmp_path))
    assert content["cells"] == content["differences"] == []
    first = content["confirm"]["cells"][0]
    assert (first["search_rank"], first["confirmed_rank"]) == (1, 1)
    assert content["confirm"]["cells"][2]["search_rank"] is None
    assert [difference["cell"] for difference in content["confirm"]["differences"]] == [
        "angular/kd #1",
        "angular/kd #2",
    ]
    text = " ".join(capsys.readouterr().out.split())
    assert "selection used validation images only" in text
    assert "search scores are of validation images" in text
    assert (tmp_path / "reports" / "winners_curse.png").exists()


def test_another_metric_or_reference_is_exploratory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = leave_one_out(tmp_path)
    for place, row in enumerate(study.plan):
        path = tmp_path / "trials" / row["trial_id"] / "epochs.parquet"
        rows = read_rows(path)
        rows[-1]["train_accuracy"] = 90.0 + place % 3 + 0.1 * (place % 7)
        write_rows(path, rows)
    content = report(study, "--metric", "train_accuracy", "--reference", "weight_matched", "--alpha", "0.1")
    assert content["equivalence_margin"] is None
    assert {difference["reference"] for difference in content["differences"]} == {"weight_matched"}
    assert content["level"] == 0.9
    text = " ".join(capsys.readouterr().out.split())
    assert "exploratory: the design declares test_accuracy and this is train_accuracy" in text
    assert "exploratory: the design declares the reference base" in text
    assert "exploratory: alpha is 0.1" in text
    assert "more seeds to resolve" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "test_acuracy"], "unknown metric 'test_acuracy'; did you mean 'test_accuracy'?"),
        (["--reference", "bsae"], "unknown cell 'bsae'; did you mean 'base'?"),
        (["--alpha", "7"], "--alpha: 7 is no error rate (allowed: above 0, below 0.5)"),
    ],
)
def test_mistakes_are_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert analysis.main([str(leave_one_out(tmp_path).write()), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_study_without_a_design_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    study.add("angular/kd", 70.0, 0.1)
    assert analysis.main([str(study.write())]) == 2
    assert "has no design.json" in capsys.readouterr().err
    (tmp_path / "design.json").write_text('{"ablation": {"cells": [')
    assert analysis.main([str(tmp_path)]) == 2
    assert "damaged, no JSON" in capsys.readouterr().err


def test_a_failed_write_leaves_the_former_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "report.md", "before")

    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(errors.StudyError, match="No space left"):
        save(path, "after")
    assert path.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_the_command_finds_it_and_loads_no_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = leave_one_out(tmp_path).write()
    code = f"""
import sys
from akdtune.cli import main
assert main(["analyze", "ablation", {str(run)!r}]) == 0
print([name for name in ("torch", "ray", "wandb") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("[]")
    assert akdtune(["analyze", "ablation", "--help"]) == 0
    assert "writes ablation.json, .md, .tex" in capsys.readouterr().out
