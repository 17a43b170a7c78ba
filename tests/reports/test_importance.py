"""analysis/importance.py: the setting that matters is found, pruned trials do not count, small samples are refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

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
        study.add("angular/kd", score, None, role="search" if index % 3 else "probe", status=status, params=params)
    return study


def report(study: StudyBuilder, *options: str) -> dict[str, Any]:
    assert analysis.main([str(study.write()), "--draws", "20", "--trees", "4", *options]) == 0
    content: dict[str, Any] = json.loads((study.path / "reports" / "importance.json").read_text())
    return content


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures: what is tested is what is told, not how well."""
    monkeypatch.setattr(analysis, "draw", lambda judged, name: {})


def test_the_setting_that_matters_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arm = report(search(tmp_path, 30), "--trees", "32")["arms"]["angular/kd"]
    assert arm["configurations"] == 30
    for evaluator in ("ped_anova", "fanova"):
        shares = {name: setting[evaluator] for name, setting in arm["settings"].items()}
        assert sum(share["share"] for share in shares.values()) == pytest.approx(1)
        assert max(shares, key=lambda name: shares[name]["share"]) == "views.margin"
        assert shares["views.margin"]["share"] > shares["views.margin"]["chance"]
        assert all(0 <= share["low"] <= share["high"] <= 1 for share in shares.values())
    means = [bin_["mean"] for bin_ in arm["settings"]["views.margin"]["marginal"]]
    assert means == sorted(means)
    assert sum(bin_["n"] for bin_ in arm["settings"]["views.margin"]["marginal"]) == 30
    text = " ".join(capsys.readouterr().out.split())
    assert "fANOVA: above chance: views.margin" in text
    assert "pruning" not in text
    for stem in ("importance", "importance_marginals"):
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


@pytest.mark.usefixtures("small")
def test_seeds_of_a_configuration_are_one(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    for index in range(10):
        for seed, value in ((1, 60.0), (2, 62.0)):
            params = {"views.margin": 0.1 + index / 50, "views.num_views": 1 + 2 * (index % 2)}
            study.add("angular/kd", value + index, None, role="search", cell=f"c{index}", seed=seed, params=params)
    arm = report(study)["arms"]["angular/kd"]
    assert arm["configurations"] == 10
    assert arm["trials"] == {"search": 20}
    assert arm["settings"]["views.num_views"]["marginal"][0]["mean"] == pytest.approx(61 + 4)


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


@pytest.mark.usefixtures("small")
def test_mistakes_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(search(tmp_path / "run", 10).write())
    assert analysis.main([run, "--draws", "3"]) == 2
    assert "--draws: 3 is too few for an interval (allowed: 20 or more)" in capsys.readouterr().err
    assert analysis.main([run, "--trees", "1"]) == 2
    assert "--trees: 1 are no forest (allowed: 2 or more)" in capsys.readouterr().err
    study = StudyBuilder(tmp_path / "other")
    study.cell("base", [70.0])
    assert analysis.main([str(study.write())]) == 2
    assert "has no search or probe trial" in capsys.readouterr().err
