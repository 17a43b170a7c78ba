"""analysis/importance.py: the setting that matters is found, pruned trials do not count, small samples are refused."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from PIL import Image

from akdtune.reports.importance import figures
from akdtune.statistics.importance import distribution, domains_of
from tests.study_fixture import StudyBuilder

analysis = importlib.import_module("akdtune.analysis.importance")
SETTINGS = {
    "student": {"network": "resnet8x4"},
    "views": {"name": "angular", "margin": {"uniform": [0.1, 0.6]}, "num_views": {"choice": [1, 3, 5]}},
    "method": {
        "choice": [{"name": "kd", "weight": {"log_uniform": [0.5, 4.0]}}, {"name": "dkd", "beta": {"choice": [2, 6]}}]
    },
    "training": {"lr": 0.05},
}


def search(path: Path, count: int, *, pruned: int = 0, seed: int = 0, lock: bool = True) -> StudyBuilder:
    """Accuracy follows the margin alone."""
    study = StudyBuilder(path)
    study.lock = {"settings": SETTINGS} if lock else None
    rng = np.random.default_rng(seed)
    for index in range(count + pruned):
        margin = float(rng.uniform(0.1, 0.6))
        params = {
            "views.margin": margin, "views.num_views": int(rng.choice([1, 3, 5])),
            "method.kd.weight": float(np.exp(rng.uniform(np.log(0.5), np.log(4)))),
        }  # fmt: skip
        status = "pruned" if index >= count else "done"
        score = 70 + 10 * margin + 0.1 * rng.normal() if status == "done" else 1.0
        study.add("angular/kd", score, None, role="search", status=status, params=params)
    return study


def report(study: StudyBuilder, *options: str) -> dict[str, Any]:
    assert analysis.main([str(study.write()), "--draws", "20", "--trees", "4", *options]) == 0
    content: dict[str, Any] = json.loads((study.path / "reports" / "importance.json").read_text())
    return content


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures: what is tested is what is told, not how well."""
    monkeypatch.setattr(analysis, "draw", lambda judged, name, kinds: {})


def test_the_setting_that_matters_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arm = report(search(tmp_path, 30), "--trees", "32")["arms"]["angular/kd"]
    assert arm["configurations"] == 30
    for evaluator in ("ped_anova", "fanova"):
        shares = {name: setting[evaluator] for name, setting in arm["settings"].items()}
        assert sum(share["share"] for share in shares.values()) == pytest.approx(1)
        assert max(shares, key=lambda name: shares[name]["share"]) == "views.margin"
        assert shares["views.margin"]["share"] > shares["views.margin"]["chance"]
        assert all(0 <= share["low"] <= share["share"] <= share["high"] <= 1 for share in shares.values())
    means = [bin_["mean"] for bin_ in arm["settings"]["views.margin"]["marginal"]]
    assert means == sorted(means)
    assert sum(bin_["n"] for bin_ in arm["settings"]["views.margin"]["marginal"]) == 30
    first, _, text = capsys.readouterr().out.partition("\n")
    assert first == f"importance of searched settings in {tmp_path}: search trials"
    text = " ".join(text.split())
    assert "30 finished configurations, one trial each (trials: 30 search)" in text
    assert "fANOVA: above chance: views.margin" in text
    assert "pruning" not in text
    for stem in ("importance", "importance_slices"):
        for kind in ("png", "svg"):
            assert (tmp_path / "reports" / f"{stem}.{kind}").stat().st_size > 1000


@pytest.mark.usefixtures("small")
def test_pruned_trials_do_not_count_and_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_them = report(search(tmp_path / "with", 12, pruned=6))["arms"]["angular/kd"]
    text = " ".join(capsys.readouterr().out.split())
    without = report(search(tmp_path / "without", 12))["arms"]["angular/kd"]
    assert with_them["settings"] == without["settings"]
    assert with_them["excluded"] == {"pruned": 6}
    assert "pruning ended 6 of 18 trials early; those that finished are no random sample" in text
    assert "probe trials are never pruned" in text


@pytest.mark.usefixtures("small")
def test_small_samples_and_fixed_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = search(tmp_path, 9, pruned=20)
    for index in range(12):
        study.add("none/kd", 60.0 + index, None, role="search")
    arms = report(study)["arms"]
    assert arms["angular/kd"]["refused"] == "refused: 9 finished configurations, 10 needed"
    assert arms["none/kd"]["refused"].startswith("refused: no searched setting differs")
    assert arms["angular/kd"]["settings"] == {}
    assert "10 needed" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_one_setting_has_no_share_but_a_marginal(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    for index in range(12):
        study.add("angular/kd", 60.0 + index % 3, None, role="search", params={"views.num_views": (1, 3, 5)[index % 3]})
    arm = report(study)["arms"]["angular/kd"]
    assert arm["settings"]["views.num_views"]["ped_anova"] is None
    assert [bin_["mean"] for bin_ in arm["settings"]["views.num_views"]["marginal"]] == [60, 61, 62]
    assert "PED-ANOVA: none (one setting alone has no share)" in arm["notes"]


def configurations(study: StudyBuilder, count: int, seeds: Sequence[int], *, role: str = "search") -> None:
    """Configurations whose accuracy is 60 + place + seed."""
    for index in range(count):
        for seed in seeds:
            params = {"views.margin": 0.1 + index / 50, "views.num_views": 1 + 2 * (index % 2)}
            study.add(
                "angular/kd", 60.0 + index + seed, None, role=role, cell=f"{role}{index}", seed=seed, params=params
            )


@pytest.mark.usefixtures("small")
def test_a_configuration_counts_once_with_the_mean_of_its_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = StudyBuilder(tmp_path)
    configurations(study, 10, (1, 3))
    arm = report(study)["arms"]["angular/kd"]
    assert arm["configurations"] == 10
    assert (arm["trials"], arm["seeds"], arm["further_seeds"]) == ({"search": 20}, [1, 3], 0)
    assert arm["settings"]["views.num_views"]["marginal"][0]["mean"] == pytest.approx(62 + 4)
    assert "10 finished configurations, each the mean over seeds 1, 3 (trials" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_seeds_that_not_all_have_count_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = StudyBuilder(tmp_path)
    configurations(study, 12, (1,))
    configurations(study, 4, (3,))  # a race went on with four
    arm = report(study)["arms"]["angular/kd"]
    assert (arm["seeds"], arm["trials"], arm["further_seeds"]) == ([1], {"search": 12}, 4)
    means = [bin_["mean"] for bin_ in arm["settings"]["views.num_views"]["marginal"]]
    assert means == pytest.approx([61 + 5, 61 + 6])
    text = " ".join(capsys.readouterr().out.split())
    assert "4 trials of seeds that not all configurations have finished do not count: --pool seeds" in text
    arm = report(study, "--pool", "seeds")["arms"]["angular/kd"]
    assert (arm["seeds"], arm["trials"], arm["further_seeds"]) == (None, {"search": 16}, 0)
    means = [bin_["mean"] for bin_ in arm["settings"]["views.num_views"]["marginal"]]
    assert means == pytest.approx([61 + 5 + 2 / 6, 61 + 6 + 2 / 6]), "four configurations have 1 point more"
    text = " ".join(capsys.readouterr().out.split())
    assert "each the mean over its 1 to 2 seeds" in text
    assert "values over more seeds are more exact" in text


@pytest.mark.usefixtures("small")
def test_roles_are_pooled_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    configurations(study, 8, (1,))
    configurations(study, 6, (2, 3), role="probe")
    found = report(study)
    assert found["roles"] == ["search"]
    assert found["arms"]["angular/kd"]["refused"] == (
        "refused: 8 finished configurations, 10 needed; --pool roles gives 14"
    )
    assert capsys.readouterr().out.startswith(f"importance of searched settings in {tmp_path}: search trials\n")
    arm = report(study, "--role", "probe")["arms"]["angular/kd"]
    assert (arm["configurations"], arm["seeds"]) == (6, [2, 3])
    capsys.readouterr()
    found = report(study, "--pool", "roles")
    assert capsys.readouterr().out.partition("\n")[0].endswith(": search and probe trials together")
    assert found["roles"] == ["search", "probe"]
    arm = found["arms"]["angular/kd"]
    assert (arm["configurations"], arm["trials"]) == (14, {"search": 8, "probe": 12})


@pytest.mark.usefixtures("small")
def test_probes_count_where_nothing_was_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    configurations(study, 10, (1,), role="probe")
    assert report(study)["roles"] == ["probe"]
    assert "probe trials (there are no search trials)" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_a_study_without_its_settings_takes_the_range_of_the_values(tmp_path: Path) -> None:
    arm = report(search(tmp_path, 10, lock=False))["arms"]["angular/kd"]
    assert arm["settings"]["views.margin"]["from_the_values"] is True
    assert any("do not say what these were drawn from" in note for note in arm["notes"])


def test_distributions_come_from_the_settings() -> None:
    known = domains_of(SETTINGS)
    assert set(known) == {"views.margin", "views.num_views", "method", "method.kd.weight", "method.dkd.beta"} - {
        "method"
    }
    margin, certain = distribution([0.2, 0.3], known["views.margin"])
    assert certain
    assert margin == FloatDistribution(0.1, 0.6)
    assert distribution([1.0], known["method.kd.weight"])[0] == FloatDistribution(0.5, 4.0, log=True)
    assert distribution([1, 5], known["views.num_views"])[0] == CategoricalDistribution(["1", "3", "5"])
    assert distribution([0.7], known["views.margin"]) == (FloatDistribution(0.7, 0.7), False)
    assert distribution([2, 7], []) == (IntDistribution(2, 7), False)


def test_a_factor_of_ten_is_taken_for_a_logarithmic_range_where_the_settings_are_silent() -> None:
    assert distribution([0.01, 0.1], []) == (FloatDistribution(0.01, 0.1, log=True), False)
    assert distribution([0.011, 0.1], []) == (FloatDistribution(0.011, 0.1), False)
    assert distribution([0.0, 0.1], []) == (FloatDistribution(0.0, 0.1), False)
    assert distribution([1, 10], []) == (IntDistribution(1, 10, log=True), False)


@pytest.mark.usefixtures("small")
def test_mistakes_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(search(tmp_path / "run", 10).write())
    assert analysis.main([run, "--draws", "3"]) == 2
    assert "--draws: 3 is too few for an interval (allowed: 20 or more)" in capsys.readouterr().err
    assert analysis.main([run, "--trees", "1"]) == 2
    assert "--trees: 1 are no forest (allowed: 2 or more)" in capsys.readouterr().err
    assert analysis.main([run, "--role", "probe", "--pool", "roles"]) == 2
    assert "--role probe and --pool roles say different things" in capsys.readouterr().err
    study = StudyBuilder(tmp_path / "other")
    study.cell("base", [70.0])
    assert analysis.main([str(study.write())]) == 2
    assert "has no search or probe trial" in capsys.readouterr().err


def drawn(monkeypatch: pytest.MonkeyPatch, study: StudyBuilder) -> dict[str, figures.Slice]:
    """What the slices of the only arm are drawn from, by setting."""
    seen: list[figures.Slice] = []
    monkeypatch.setattr(figures, "slice_panels", lambda arms, **_: seen.extend(*arms.values()))
    monkeypatch.setattr(figures, "image_files", lambda *_: {})
    report(study)
    return {one.setting: one for one in seen}


def test_numbers_stand_on_an_axis_of_numbers_however_few_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = StudyBuilder(tmp_path)
    study.lock = {"settings": SETTINGS}
    for index in range(12):
        params = {
            "views.margin": (0.2, 0.5)[index % 2], "method.kd.weight": (0.5, 1.0, 4.0)[index % 3],
            "views.num_views": (1, 3, 5)[index % 3],
        }  # fmt: skip
        study.add("angular/kd", 60.0 + index, None, role="search", params=params)
    slices = drawn(monkeypatch, study)
    margin, weight, views = slices["views.margin"], slices["method.kd.weight"], slices["views.num_views"]
    assert (margin.options, margin.log, margin.places) == ([], False, [0.2, 0.5])
    assert (weight.options, weight.log, weight.places) == ([], True, [0.5, 1.0, 4.0])
    assert weight.x == [0.5, 1.0, 4.0] * 4
    assert views.options == ["1", "3", "5"]
    assert margin.numbers == list(range(12))
    assert margin.scores == [60.0 + index for index in range(12)]
    assert None not in margin.lows, "six values a place"
    assert weight.lows == [None] * 3, "four values have no interval"


def test_slices_are_drawn_for_many_settings_and_long_options(tmp_path: Path) -> None:
    options = ["an_option_with_a_long_name", "another_option_with_a_long_name", "none"]
    one = figures.Slice(
        "method.a_method_of_a_long_name.its_setting", [0, 1, 2], [60.0, 61.0, 62.0], [0, 4, 9], [0, 1, 2],
        [60.0, 61.0, 62.0], [None] * 3, [None] * 3, options, False,
    )  # fmt: skip
    number = dataclasses.replace(one, x=[0.001, 0.1, 10.0], places=[0.01, 1.0], means=[60, 61], lows=[59, None],
                                 highs=[61, None], options=[], log=True)  # fmt: skip
    sizes = {}
    for count in (3, 20):
        files = figures.slice_panels(
            {"angular/kd": [one, number] * (count // 2) + [one] * (count % 2)}, title="t", ylabel="accuracy (%)"
        ).files
        sizes[count] = Image.open(io.BytesIO(files["png"])).size
        assert b"place in the plan" in files["svg"]
        assert "an_option_wit…".encode() in files["svg"]
        assert "…of_a_long_name.its_setting" in files["svg"].decode()
    assert sizes[20][1] > 3 * sizes[3][1], "five rows of panels"
