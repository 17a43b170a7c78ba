"""Weights & Biases with the real SDK against real servers on this machine that refuse, hang, answer wrongly or die."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from akdtune.records.trial_directory import TrialDirectory
from akdtune.tracking import child
from akdtune.tracking import sync as syncing
from akdtune.tracking.arrangement import Arranged
from akdtune.tracking.child import Probe
from akdtune.tracking.missing import missing_runs, write_missing
from akdtune.tracking.mode import read_decision
from akdtune.tracking.record import RunRecord, read_record, write_record
from akdtune.tracking.study import StudyTracking
from akdtune.tracking.sync import TrackingError, sync
from tests.study_fixture import StudyBuilder
from tests.wandb_log import Stored
from tests.wandb_server import WandbServer

KEY = "0123456789abcdef0123456789abcdef01234567"
TRIALS = ("t00000", "t00001", "t00002")

# Trials as a worker runs them, one after the other; between the first and the second it waits for the test.
WORKER = """
import sys
from pathlib import Path
from akdtune.records.trial_directory import TrialDirectory
from akdtune.tracking.tracker import Tracker
root = Path(sys.argv[1])
for trial in sys.argv[2:]:
    directory = TrialDirectory(root / "trials" / trial)
    directory.take_attempt()
    slow = trial == "t00001"
    settings = {"wandb": {"project": "akdtune", "mode": "online"}, "finish_timeout_s": 1.0 if slow else 60.0}
    given = {"study": "toy", "study_uid": "u", "trial_id": trial, "arm": "none/kd", "role": "search", "settings": {}}
    tracker = Tracker(settings, given, root, 1)
    tracker.start()
    rows = directory.read_rows()
    for row in rows:
        tracker.log(row)
    tracker.finish("done", rows[-1])
    print(trial, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    running = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", running.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield running
    running.close()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three trials that are done, with their rows and nothing of Weights & Biases."""
    builder = StudyBuilder(tmp_path / "toy")
    for number in range(len(TRIALS)):
        builder.add("none/kd", 50.0 + number, None, role="search", epochs=3)
    tracking = {"wandb": {"project": "akdtune", "mode": "auto", "entity": None, "tags": []}, "finish_timeout_s": 5.0}
    builder.lock = {"uid": "u", "settings": {"study": "toy", "tracking": tracking}}
    return builder.write()


def numbers(root: Path, trial: str) -> dict[int, dict[str, float]]:
    """What a run's history must hold: step -> its numbers."""
    rows = TrialDirectory(root / "trials" / trial).read_rows()
    arranged = Arranged()
    return {row["epoch"]: arranged.metrics(row) for row in rows}


def test_servers_that_take_no_run_are_found_out_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    expected = {
        "ok": None, "closed": "did not answer within 5 s", "hang": "did not answer within 5 s",
        "500": "did not answer within 5 s", "401": "refused: returned error 401",
    }  # fmt: skip
    servers = {name: WandbServer(name) for name in expected}
    servers["closed"].close()
    probes = {}
    for name, running in servers.items():
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        probes[name] = running.url, Probe()
    for name, (url, probe) in probes.items():
        monkeypatch.setenv("WANDB_BASE_URL", url)
        refusal = probe.refusal()
        if (part := expected[name]) is None:
            assert refusal is None
        else:
            assert str(refusal).startswith(f"{url} {part}")
    for running in servers.values():
        running.close()


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_of_a_study_costs_no_run(
    server: WandbServer, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", WORKER, str(study), *TRIALS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        assert worker.stdout.readline() == "t00000\n"
        server.behaviour = "hang"
        for trial in TRIALS[1:]:
            worker.stdin.write("\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == f"{trial}\n"
        worker.kill()
    modes = {trial: [run.mode for run in read_record(study / "trials" / trial)] for trial in TRIALS}
    assert modes == {"t00000": ["online"], "t00001": [], "t00002": ["offline"]}
    decided = read_decision(study)
    assert decided is not None
    assert (decided[0].mode, decided[0].why) == ("offline", f"{server.url}: it did not take a run within 1 s")

    monkeypatch.setenv("WANDB_MODE", "offline")  # the study's driver asked for nothing else than `auto`
    lines = StudyTracking({"wandb": {"project": "akdtune", "mode": "auto"}}, study).closing()
    assert lines == [
        f"warning: Weights & Biases: 3 runs are on this disk alone: {server.url}: it did not take a run within 1 s; "
        f"`akdtune wandb sync {study}` uploads them"
    ]
    assert missing_runs(study, others_write=False) == {}
    for trial in TRIALS[1:]:
        (run,) = read_record(study / "trials" / trial)
        stored = Stored(run.log_file(study))
        assert stored.history == numbers(study, trial)
        assert stored.summary["status"] == "done"
    assert not [path for path in study.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    _sync_and_again(server, study, monkeypatch)


def _sync_and_again(server: WandbServer, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a server that hangs, one that dies while it takes runs, and one that takes them; then once more."""
    monkeypatch.setattr(child, "ANSWER_S", 1.0)
    with pytest.raises(
        TrackingError, match=r"3 runs wait for upload, but .* did not answer within 1 s; nothing is lost"
    ):
        sync(study)
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(syncing, "STALL_S", 4.0)
    server.behaviour, server.hangs_for = "ok", {"UpsertBucket"}
    report = sync(study)
    assert (report.uploaded, len(report.failed), report.complete) == ([], 3, False)
    server.hangs_for = set()
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    report = sync(study)
    assert (sorted(report.uploaded), report.failed) == (["u-study", "u-t00001-a1", "u-t00002-a1"], [])
    assert report.sentence().splitlines()[-1] == f"{server.url}/me/akdtune"
    assert {artifact["input"]["artifactTypeName"] for artifact in server.artifacts} == {"study", "run_table"}
    assert [view["displayName"] for view in server.views] == ["akdtune: toy"]
    for trial in TRIALS:
        sent = {
            row["_step"]: {name: row[name] for name in row if name[0] != "_"} for row in server.history[f"u-{trial}-a1"]
        }
        assert sent == numbers(study, trial)
    server.close()
    report = sync(study)  # there is nothing left to ask a server for
    assert (report.uploaded, len(report.already), report.complete) == ([], 3, True)


def test_sync_makes_runs_of_trials_that_left_none_and_names_them(study: Path) -> None:
    for trial in TRIALS:
        TrialDirectory(study / "trials" / trial).take_attempt()
    (study / "trials" / "t00002" / "epochs.parquet").write_bytes(b"damaged")
    (study / "wandb" / "run-20260101_000000-u-t00000-a1").mkdir(parents=True)  # what an online attempt left
    with pytest.raises(TrackingError, match=r"3 runs wait for upload, but there is no API key"):
        sync(study)
    assert [len(read_record(study / "trials" / trial)) for trial in TRIALS] == [1, 1, 0]
    assert not (study / "wandb" / "run-20260101_000000-u-t00000-a1").exists()
    left = missing_runs(study, others_write=False)
    assert left == {"t00002": "its process ended before the run was closed"}
    assert "t00002" in str(write_missing(study, left))
    stored = Stored(read_record(study / "trials" / "t00001")[0].log_file(study))
    assert (stored.run.run_group, stored.run.job_type, stored.exit_code) == ("toy/none/kd", "search", 0)


def test_a_study_that_never_was_tracked_gets_no_runs(study: Path) -> None:
    TrialDirectory(study / "trials" / "t00000").take_attempt()
    lock = json.loads((study / "study.lock.yaml").read_text())
    lock["settings"]["tracking"] = {"wandb": None}
    (study / "study.lock.yaml").write_text(json.dumps(lock))
    with pytest.raises(TrackingError, match=r"tracking\.wandb is null or disabled"):
        sync(study)
    assert not (study / "wandb").exists()


@pytest.mark.slow
def test_online_the_projects_page_is_said_and_the_studys_run_and_view_are_there(
    server: WandbServer, study: Path
) -> None:
    own = {"wandb": {"project": "akdtune", "mode": "auto"}}
    tracking = StudyTracking(own, study, lambda: ["views.margin"])
    assert tracking.settle() == f"Weights & Biases: {server.url}/me/akdtune"
    assert tracking.for_trials["wandb"]["mode"] == "online"
    assert tracking.for_trials["names"] == {"views.margin": "margin"}
    assert tracking.closing() == [f"Weights & Biases: {server.url}/me/akdtune"]
    assert server.groups == {"u-study": "toy"}
    assert [run.mode for run in read_record(study)] == ["online"]
    assert (study / "wandb" / "view.url").read_text().startswith(f"{server.url}/me/akdtune?nw=")
    asked = len(server.operations)
    assert tracking.closing() == [f"Weights & Biases: {server.url}/me/akdtune"]
    assert (len(server.operations), len(server.views)) == (asked, 1), "nothing is new"
    (study / "reports").mkdir()
    (study / "reports" / "report.html").write_text("<p>new</p>")
    assert tracking.closing() == [f"Weights & Biases: {server.url}/me/akdtune"]
    assert len(server.operations) > asked
    assert len(server.views) == 1
    tracking.end()


def test_a_study_whose_runs_are_all_there_asks_for_no_key(study: Path) -> None:
    """An earlier version uploaded them, and made no run of the study itself."""
    for trial in TRIALS:
        log = study / "wandb" / f"offline-run-{trial}" / f"run-u-{trial}-a1.wandb"
        log.parent.mkdir(parents=True)
        log.write_bytes(b"a run of then")
        log.with_name(f"{log.name}.synced").touch()
        TrialDirectory(study / "trials" / trial).take_attempt()
        run = RunRecord(f"u-{trial}-a1", 1, "offline", f"wandb/offline-run-{trial}", "akdtune", finished=True)
        write_record(study / "trials" / trial, [run])
    report = sync(study)
    assert (len(report.already), report.complete, report.own) == (3, True, None)
    assert read_record(study) == []
