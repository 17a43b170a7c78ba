"""Ray begins to start before anything heavy is loaded, where there is something left to do and no cluster is joined."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from akdtune.records.files import LEDGER
from akdtune.records.ledger.events import Event, StudyFinished, StudyStarted
from akdtune.running import ahead, ray_start
from akdtune.settings.sections import ResourcesSettings
from akdtune.study import spec


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What Ray is begun with; none is started."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ray_start, "begin", lambda *given: calls.append(given))
    return calls


def written(root: Path, *events: Event) -> Path:
    root.mkdir(exist_ok=True)
    (root / LEDGER).write_text("".join(event.line() for event in events))
    return root


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        ((), False),
        ((StudyStarted(time=1.0, pid=1),), False),
        ((StudyStarted(time=1.0, pid=1), StudyFinished(time=2.0, interrupted=True)), False),
        ((StudyStarted(time=1.0, pid=1), StudyFinished(time=2.0, interrupted=False)), True),
        ((StudyFinished(time=2.0, interrupted=False), StudyStarted(time=3.0, pid=1)), False),
    ],
)
def test_a_study_has_ended_where_that_is_the_last_it_noted_down(
    events: tuple[Event, ...], ended: bool, tmp_path: Path
) -> None:
    assert ahead.has_ended(written(tmp_path, *events)) == ended


def test_a_folder_that_is_not_there_and_a_damaged_ledger_have_not_ended(tmp_path: Path) -> None:
    assert not ahead.has_ended(tmp_path / "absent")
    (tmp_path / LEDGER).write_bytes(b"\x00" * 9000 + b"\n{half")
    assert not ahead.has_ended(tmp_path)


def test_ray_begins_for_what_is_left_to_do_and_for_no_cluster(tmp_path: Path, begun: list[tuple[Any, ...]]) -> None:
    study = spec.load("digits_angular", ["tracking.finish_timeout_s=7", "resources.concurrent=1"])
    finished = written(tmp_path / "run", StudyFinished(time=2.0, interrupted=False))
    for root, address in ((finished, None), (tmp_path / "new", "10.0.0.1:6379"), (tmp_path / "new", "auto")):
        with ahead.ray_ahead(study, root, address):
            assert begun == []
    with ahead.ray_ahead(study, tmp_path / "new", "local"):
        ((timeout_s, slots, loggers),) = begun
    assert (timeout_s, slots) == (7.0, 1)
    told = json.loads(loggers)
    assert told == {"tracking": study.tracking.model_dump(mode="json"), "root": str(tmp_path / "new")}


def test_a_signal_amid_the_start_waits_for_no_ray(
    tmp_path: Path, begun: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(ray_start, "abandon_ray", lambda: ended.append("abandoned"))
    monkeypatch.setattr(ray_start, "end_own", lambda: ended.append("ended"))

    def interrupted() -> None:
        with ahead.ray_ahead(spec.load("digits_angular", []), tmp_path / "new", None):
            assert begun
            raise SystemExit(130)

    with pytest.raises(SystemExit, match="130"):
        interrupted()
    assert ended == ["abandoned", "ended"]
    assert "nothing is lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("needed", "slots"),
    [({}, 6), ({"cpu": 4}, 1), ({"cpu": 2.5}, 2), ({"cpu": 0.5}, 12), ({"cpu": 64}, 1), ({"concurrent": 3}, 3)],
)
def test_as_many_workers_as_trials_that_run_at_once(
    needed: dict[str, Any], slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "available_cpus", lambda: 6)
    assert ahead.slots(ResourcesSettings(**needed)) == slots


def test_nothing_heavy_but_ray_is_loaded_for_it() -> None:
    script = "import sys, akdtune.running.ahead; print([name for name in ('torch', 'ray.tune', 'pandas', 'wandb')"
    script += " if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
