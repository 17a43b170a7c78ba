"""A study's own run, offline, read back; and its saved view, as wandb-workspaces would send it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from akdtune.records.trial_directory import TrialDirectory
from akdtune.tracking.missing import save_view, study_run_is_due, write_study_run
from akdtune.tracking.mode import Decision, write_decision
from akdtune.tracking.record import RunRecord, read_record, write_record
from akdtune.tracking.study import StudyTracking
from akdtune.tracking.view import saved, view_of
from tests.study_fixture import StudyBuilder
from tests.wandb_log import Stored

WANDB = {"project": "akdtune", "mode": "offline", "entity": None, "tags": ["pilot"]}
PAGE = "<html><head><meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\"></head>page</html>"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three trials with a figure and a page."""
    builder = StudyBuilder(tmp_path / "toy")
    for number in range(3):
        builder.add("none/kd", 50.0 + number, None, role="search", params={"views.margin": 0.1 * number})
    builder.lock = {"uid": "u", "settings": {"study": "toy", "tracking": {"wandb": WANDB, "finish_timeout_s": 5.0}}}
    root = builder.write()
    (root / "reports").mkdir()
    Image.new("L", (2, 2)).save(root / "reports" / "curves.png")
    (root / "reports" / "damaged.png").write_bytes(b"no picture")
    (root / "reports" / "report.html").write_text(PAGE)
    write_decision(root, Decision("offline", "said"), WANDB, {"views.margin": "margin"})
    return root


def stored_runs(root: Path) -> list[Path]:
    return sorted(root.glob("wandb/offline-run-*-u-study/*.wandb"))


def test_a_study_has_one_run_with_table_figures_page_and_artefact(study: Path) -> None:
    assert study_run_is_due(study)
    assert write_study_run(study, "offline") is None
    assert not study_run_is_due(study)
    (path,) = stored_runs(study)
    stored = Stored(path)
    assert (stored.run.job_type, stored.run.run_group, stored.run.display_name) == ("study", "toy", "toy")
    assert list(stored.run.tags) == ["pilot", "study", "toy"]
    assert json.loads(stored.config["settings"])["study"] == "toy"
    media = stored.history[0]
    table = json.loads((path.parent / "files" / media["trials"]["path"]).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["trial_id"], row["margin"], row["val_accuracy"]) for row in rows] == [
        ("t00000", 0.0, 50.0), ("t00001", 0.1, 51.0), ("t00002", 0.2, 52.0),
    ]  # fmt: skip
    assert (path.parent / "files" / media["figures/curves"]["path"]).read_bytes() == (
        study / "reports" / "curves.png"
    ).read_bytes()
    assert "figures/damaged" not in media
    assert (path.parent / "files" / media["reports/report"]["path"]).read_text() == PAGE, "as it was, nothing put in"
    held = {"study.lock.yaml", "plan.parquet", "reports/curves.png", "reports/damaged.png", "reports/report.html"}
    assert stored.artifacts["study"] == held
    summary = {name: stored.summary[name] for name in ("trials_planned", "trials_done", "best_val_accuracy")}
    assert summary == {"trials_planned": 3, "trials_done": 3, "best_val_accuracy": 52.0}
    assert stored.summary["best_val_accuracy_trial"] == "t00002"
    assert not list((Path.home() / ".local" / "share" / "wandb").glob("artifacts/staging/*"))


@pytest.mark.slow
def test_it_is_replaced_when_the_study_goes_on_or_a_report_is_new(study: Path) -> None:
    assert write_study_run(study, "offline") is None
    (first,) = stored_runs(study)
    (study / "reports" / "report.html").write_text(PAGE.replace("page", "another page"))
    assert study_run_is_due(study)
    assert write_study_run(study, "offline") is None
    (second,) = stored_runs(study)
    assert second != first
    (run,) = read_record(study)
    assert (run.id, run.log_file(study)) == ("u-study", second)
    assert {path.name for path in second.parent.glob("files/media/html/reports/*")} != set()


def test_a_study_that_cannot_write_it_says_so_in_one_warning(study: Path) -> None:
    for trial in ("t00000", "t00001", "t00002"):
        TrialDirectory(study / "trials" / trial)  # never attempted: no run is missing
    (study / "wandb").write_text("a file where the runs' folder should be")
    (line,) = StudyTracking({"wandb": WANDB}, study).closing()
    assert line.startswith("warning: Weights & Biases: the study's own run: ")
    assert line.endswith(f"; `akdtune wandb sync {study}` uploads them")


def view() -> dict[str, Any]:
    pytest.importorskip("wandb_workspaces")
    of = view_of("me", "akdtune", "toy", ["margin", "kd_weight"], ["views/inter_cosine"])
    plain: dict[str, Any] = of._to_model().model_dump(by_alias=True)
    return plain


def test_the_view_holds_curves_by_arm_settings_and_diversity() -> None:
    section = view()["spec"]["section"]
    panels = {part["name"]: part["panels"] for part in section["panelBankConfig"]["sections"]}
    (curves,), (settings,), (diversity,) = (panels[name] for name in ("Accuracy", "Settings", "Diversity and accuracy"))
    config = curves["config"]
    assert (config["xAxis"], config["metrics"], config["groupBy"]) == ("epoch", ["student/val_accuracy"], "arm.value")
    assert [column["accessor"] for column in settings["config"]["columns"]] == [
        "config:arm.value", "config:margin.value", "config:kd_weight.value", "summary:student/val_accuracy.last",
    ]  # fmt: skip
    assert (diversity["config"]["xAxis"], diversity["config"]["yAxis"]) == (
        "summary:views/inter_cosine", "summary:student/val_accuracy.last",
    )  # fmt: skip
    (filters,) = [runs["filters"]["filters"] for runs in section["runSets"]]
    assert [(of["key"]["name"], of["op"], of["value"]) for of in filters] == [
        ("study", "=", "toy"), ("jobType", "!=", "study"),
    ]  # fmt: skip


def test_the_view_of_a_study_without_views_has_no_panel_of_them() -> None:
    pytest.importorskip("wandb_workspaces")
    model = view_of("me", "akdtune", "toy", [], [])._to_model().model_dump(by_alias=True)
    names = [part["name"] for part in model["spec"]["section"]["panelBankConfig"]["sections"]]
    assert names == ["Accuracy", "Settings"]


def test_a_view_that_cannot_be_saved_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    answer = saved("me", "akdtune", "toy", [], [])
    assert answer["error"]
    assert "\n" not in answer["error"]


def test_a_run_that_is_not_on_the_server_has_no_view(study: Path) -> None:
    assert save_view(study) is None
    write_record(study, [RunRecord("u-study", 1, "offline", "wandb/x", "akdtune", None, True)])
    assert save_view(study, "me") is None
    assert not (study / "wandb" / "view.url").exists()
