"""Weights & Biases with the real SDK, offline: what is written is read back and compared with the rows given."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from akdtune.running import tracking
from akdtune.running.tracking import Tracker, TrackingError, notice, resolve_mode, sync
from akdtune.running.tracking_record import RunRecord, has_key, read_record, write_record

# A long bound: starting the SDK takes seconds on a busy machine, and most tests read the finished run.
OFFLINE = {"wandb": {"project": "akdtune", "entity": None, "mode": "auto", "tags": ["pilot"]}, "finish_timeout_s": 60.0}
TRIAL = {
    "study": "toy",
    "trial_id": "0123456789ab-0",
    "cell_id": "0123456789ab",
    "arm": "angular/kd+crd",
    "role": "search",
    "seed": 0,
    "settings": {"views": {"name": "angular", "margin": 0.3}, "method": [{"name": "kd", "weight": 1.5}]},
    "params": {"views.margin": 0.3},
}
KEY = "0123456789abcdef0123456789abcdef01234567"


def rows(first: int, last: int, attempt: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": TRIAL["trial_id"],
            "attempt": attempt,
            "epoch": epoch,
            "val_accuracy": 10.0 * epoch,
            "loss.ce": 1.0 / epoch,
            "test_accuracy": None,
        }
        for epoch in range(first, last + 1)
    ]


def curve(given: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """What the history must hold: step -> its numbers."""
    return {row["epoch"]: {name: row[name] for name in ("epoch", "val_accuracy", "loss.ce")} for row in given}


def transaction_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: 7 bytes of header, then 32 KiB blocks of (crc 4, length 2, type 1, data)."""
    content = path.read_bytes()
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


class Stored:
    """An offline run as it stands on disk."""

    def __init__(self, path: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        self.history: dict[int, dict[str, float]] = {}
        self.summary: dict[str, Any] = {}
        self.run: Any = None
        self.exit_code: int | None = None
        for data in transaction_records(path):
            record = wandb_internal_pb2.Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
            elif kind == "history":
                items = {key(item): json.loads(item.value_json) for item in record.history.item}
                step = int(items["_step"])
                assert step not in self.history, f"step {step} twice"
                self.history[step] = {name: value for name, value in items.items() if not name.startswith("_")}
            elif kind == "summary":
                self.summary.update({key(item): json.loads(item.value_json) for item in record.summary.update})
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}


def key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def stored_runs(root: Path) -> list[Path]:
    return sorted(root.glob("wandb/offline-run-*/*.wandb"))


def tracked(root: Path, given: list[dict[str, Any]], attempt: int = 1, replay: int = 0, **settings: Any) -> None:
    tracker = Tracker({**OFFLINE, **settings}, TRIAL, root, attempt)
    tracker.start(given[:replay])
    for row in given[replay:]:
        tracker.log(row)
    tracker.finish("done", given[-1])


@pytest.fixture(autouse=True)
def reachable() -> Iterator[None]:
    yield
    tracking.unreachable.clear()


def test_an_offline_run_holds_what_was_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = rows(1, 5)
    tracked(tmp_path, given)
    (path,) = stored_runs(tmp_path)
    stored = Stored(path)
    assert stored.history == curve(given)
    assert stored.summary["val_accuracy"] == 50.0
    assert stored.summary["status"] == "done"
    assert stored.exit_code == 0
    run = stored.run
    assert (run.run_id, run.display_name, run.run_group) == ("0123456789ab-0-a1", "0123456789ab-0", "angular/kd+crd")
    assert (run.job_type, run.project, list(run.tags)) == ("search", "akdtune", ["pilot"])
    assert stored.config["views"] == TRIAL["settings"]["views"]
    assert stored.config["method"] == TRIAL["settings"]["method"]
    assert stored.config["params"] == {"views.margin": 0.3}
    assert stored.config["trial"]["seed"] == 0
    (record,) = read_record(tmp_path / "trials" / TRIAL["trial_id"])
    assert record.finished
    assert record.log_file(tmp_path) == path
    assert capfd.readouterr() == ("", "")


def test_numbers_that_closing_adds_belong_to_the_last_epoch(tmp_path: Path) -> None:
    given = rows(1, 3)
    tracker = Tracker(OFFLINE, TRIAL, tmp_path, 1)
    tracker.start([])
    for row in given:
        tracker.log(row)
    tracker.finish("done", {**given[-1], "test_accuracy": 71.5})
    stored = Stored(*stored_runs(tmp_path))
    expected = curve(given)
    expected[3]["test_accuracy"] = 71.5
    assert stored.history == expected
    assert stored.summary["test_accuracy"] == 71.5


def test_a_new_attempt_holds_the_whole_curve_and_supersedes(tmp_path: Path) -> None:
    tracked(tmp_path, rows(1, 3))
    second = rows(1, 3) + rows(4, 5, attempt=2)
    tracked(tmp_path, second, attempt=2, replay=3)
    histories = {Stored(path).run.run_id: Stored(path).history for path in stored_runs(tmp_path)}
    assert histories == {"0123456789ab-0-a1": curve(rows(1, 3)), "0123456789ab-0-a2": curve(second)}
    first, last = read_record(tmp_path / "trials" / TRIAL["trial_id"])
    assert (first.superseded_by, last.superseded_by) == ("0123456789ab-0-a2", None)


def test_a_row_that_was_logged_already_is_skipped(tmp_path: Path) -> None:
    given = rows(1, 2)
    tracked(tmp_path, [*given, given[1], *rows(3, 3)])
    assert Stored(*stored_runs(tmp_path)).history == curve(rows(1, 3))


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_trial_that_did_not_end_well_is_marked(status: str, tmp_path: Path) -> None:
    tracker = Tracker(OFFLINE, TRIAL, tmp_path, 1)
    tracker.start([])
    tracker.log(rows(1, 1)[0])
    tracker.finish(status, rows(1, 1)[0])
    stored = Stored(*stored_runs(tmp_path))
    assert stored.exit_code == 1
    assert stored.summary["status"] == status


@pytest.mark.parametrize("settings", [{"wandb": None}, {"wandb": {"project": "akdtune", "mode": "disabled"}}])
def test_disabled_writes_and_imports_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from akdtune.running.tracking import Tracker
tracker = Tracker({settings!r}, {TRIAL!r}, Path({str(tmp_path)!r}), 1)
tracker.start([]); tracker.log({{"epoch": 1}}); tracker.finish("done", {{"epoch": 1}})
assert "wandb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_close_is_bounded_and_still_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import wandb

    real = wandb.sdk.wandb_run.Run.finish

    def slow(self: Any, *args: Any, **named: Any) -> None:
        time.sleep(12)
        real(self, *args, **named)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "finish", slow)
    tracker = Tracker({**OFFLINE, "finish_timeout_s": 0.5}, TRIAL, tmp_path, 1)
    tracker.start([])
    tracker.log(rows(1, 1)[0])
    started = time.monotonic()
    tracker.finish("done", rows(1, 1)[0])
    assert 0.4 < time.monotonic() - started < 10  # of 12; a loaded machine may add seconds of its own
    assert "did not close within 0.5 s" in capfd.readouterr().err
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("wandb 0123")]
    thread.join(40)
    assert Stored(*stored_runs(tmp_path)).exit_code == 0


def test_trouble_is_one_line_and_never_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def broken(*args: Any, **named: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(wandb, "init", broken)
    tracked(tmp_path, rows(1, 3))
    assert capfd.readouterr().err.splitlines() == ["wandb: run 0123456789ab-0-a1 stopped: OSError: disk full"]


def test_a_server_that_does_not_answer_means_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import wandb

    real, asked = wandb.init, []

    def init(*args: Any, **named: Any) -> Any:
        asked.append(named["mode"])
        if named["mode"] == "online":
            raise wandb.errors.CommError("no route")
        return real(*args, **named)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    given = rows(1, 2)
    tracked(tmp_path, given)
    tracked(tmp_path, given, attempt=2)
    assert asked == ["online", "offline", "offline"]
    assert [Stored(path).history for path in stored_runs(tmp_path)] == [curve(given)] * 2
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_no_file_holds_the_key(tmp_path: Path) -> None:
    """In a process of its own, because the SDK reads the environment once."""
    code = f"""
from pathlib import Path
from akdtune.running.tracking import Tracker
settings = {{"wandb": {{"project": "akdtune", "mode": "offline"}}, "finish_timeout_s": 60}}
tracker = Tracker(settings, {TRIAL!r}, Path({str(tmp_path)!r}), 1)
tracker.start([]); tracker.log({{"epoch": 1}}); tracker.finish("done", {{"epoch": 1}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "WANDB_API_KEY": KEY})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_mode_follows_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_mode(OFFLINE) == "offline"
    assert resolve_mode({"wandb": {"mode": "online"}}) == "online"
    assert "no API key" in str(notice(OFFLINE))
    file = tmp_path / "netrc"
    file.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert has_key()
    assert resolve_mode(OFFLINE) == "online"
    assert notice(OFFLINE) is None
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode(OFFLINE) == "disabled"


class Server:
    """Stands for `wandb sync` and for the public API: marks what is uploaded, keeps tags."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import wandb

        self.uploaded: list[str] = []
        self.tags: dict[str, list[str]] = {}
        self.refuses: set[str] = set()
        monkeypatch.setattr(tracking.subprocess, "run", self.upload)
        monkeypatch.setattr(wandb, "Api", lambda: self)

    def upload(self, command: list[str], check: bool) -> None:
        assert command[:4] == [sys.executable, "-m", "wandb", "sync"] and not check
        for directory in command[4:]:
            (log,) = Path(directory).glob("*.wandb")
            if log.stem not in self.refuses:
                self.uploaded.append(log.stem.removeprefix("run-"))
                log.with_name(log.name + ".synced").touch()

    def run(self, path: str) -> Any:
        server, name = self, path.split("/")[-1]
        assert path == f"akdtune/{name}"

        class Remote:
            tags = server.tags.setdefault(name, ["pilot"])

            def update(self) -> None:
                server.tags[name] = self.tags

        return Remote()


def test_sync_uploads_once_and_tags_superseded_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked(tmp_path, rows(1, 2))
    tracked(tmp_path, rows(1, 3), attempt=2, replay=2)
    with pytest.raises(TrackingError, match=r"2 runs wait for upload, but there is no API key: set WANDB_API_KEY"):
        sync(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    server = Server(monkeypatch)
    server.refuses = {"run-0123456789ab-0-a2"}
    report = sync(tmp_path)
    assert (report.uploaded, report.failed) == (["0123456789ab-0-a1"], ["0123456789ab-0-a2"])
    assert "1 failed" in report.sentence()
    server.refuses.clear()
    report = sync(tmp_path)
    assert (report.uploaded, report.already) == (["0123456789ab-0-a2"], ["0123456789ab-0-a1"])
    assert server.uploaded == ["0123456789ab-0-a1", "0123456789ab-0-a2"]
    assert server.tags == {"0123456789ab-0-a1": ["pilot", "superseded"]}
    monkeypatch.delenv("WANDB_API_KEY")
    report = sync(tmp_path)
    assert (report.uploaded, len(report.already), report.tagged) == ([], 2, [])


def test_sync_leaves_a_running_trial_alone(tmp_path: Path) -> None:
    directory = tmp_path / "trials" / "t"
    run = RunRecord("t-a1", 1, "offline", "wandb/offline-run-t-a1", host="elsewhere")
    write_record(directory, [run])
    assert sync(tmp_path).running == ["t-a1"]


def test_sync_without_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no Weights & Biases runs here"):
        sync(tmp_path)


def test_the_upload_command_exists(tmp_path: Path) -> None:
    """The real `wandb sync` finds the run that the tracker wrote."""
    tracked(tmp_path, rows(1, 2))
    (path,) = stored_runs(tmp_path)
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(path.parent)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "Would sync 1 run" in result.stdout + result.stderr


def test_the_same_trial_of_two_studies_has_two_runs() -> None:
    ids = {Tracker(OFFLINE, {**TRIAL, "study_uid": uid}, Path("x"), 1).run_id for uid in ("aaaaaa", "bbbbbb")}
    assert ids == {"aaaaaa-0123456789ab-0-a1", "bbbbbb-0123456789ab-0-a1"}
