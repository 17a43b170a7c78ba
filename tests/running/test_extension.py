"""What `akdtune plan --dir --extend` says of a study that has begun; the command that `show` proposes works on it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from akdtune.cli.app import app
from akdtune.errors import AkdtuneError, StudyError
from akdtune.records import tables
from akdtune.records.ledger.events import StudyFinished
from akdtune.reports.standing.opening import standing
from akdtune.running import display, extension
from akdtune.running.lock import lock_content, refuse_changes
from akdtune.study import spec
from tests.search_world import Played, load


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def played(tmp_path: Path) -> Played:
    """A finished search of two arms with the lock that it would have."""
    study = load(tmp_path, "method={choice: [kd, dkd]}", "teacher.seed=6601")
    played = Played(study, tmp_path / "run").play()
    played.directory.append(StudyFinished(interrupted=False))
    played.directory.write_lock(lock_content(study, played.identity))
    return played


def plan(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments, "--no-timing"])


def proposed(root: Path) -> list[str]:
    step = standing(root, tables.read_trials(root).to_pylist()).next
    assert step is not None and step.trials == 2 * 5
    words = shlex.split(step.command)
    assert words[:2] == ["akdtune", "run"]
    return words[2:]


def test_the_command_that_is_proposed_works(played: Played) -> None:
    words = proposed(played.root)
    before = files(played.root)
    found = plan(*words)
    assert found.exit_code == 0, found.output
    assert f"extends {played.root}: confirm: added" in found.stdout
    assert "new: at most 10 trials (confirm 10); 6 trials exist already, 6 of them ended" in found.stdout
    assert "time for the new ones: about " in found.stdout
    assert files(played.root) == before, "nothing is written"


def test_the_closing_report_says_the_same(played: Played) -> None:
    found = standing(played.root, tables.read_trials(played.root).to_pylist())
    text = display.closing_report(played.study, played.directory)
    assert "\n".join(found.lines()) in text
    assert found.sentence in text and found.next is not None and found.next.command in text


@pytest.mark.parametrize(
    ("changes", "extend"),
    [(["training.epochs=7"], True), (["training.epochs=7"], False), (["search.trials=8"], False),
     (["search.trials=4"], True)],
)  # fmt: skip
def test_what_a_run_refuses_is_refused_with_its_sentence(played: Played, changes: list[str], extend: bool) -> None:
    study = spec.load(played.study.source, [*played.study.overrides, *changes])
    lock = played.directory.read_lock()
    assert lock is not None
    with pytest.raises(StudyError) as said:
        refuse_changes(study, lock, played.root, extend)
    before = files(played.root)
    words = [str(played.study.source), *played.study.overrides, *changes, "--dir", str(played.root)]
    found = plan(*words, *(["--extend"] if extend else []))
    assert isinstance(found.exception, AkdtuneError) and str(found.exception) == str(said.value)
    assert files(played.root) == before and found.stdout == ""


def test_other_folders_and_uris_are_refused_as_by_a_run(played: Played, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("x")
    for root, said in ((other, "not empty and not a study directory"), (Path("s3://x/y"), "must be a folder")):
        with pytest.raises(StudyError, match=said):
            extension.begun(played.study, root, extend=True)
    assert extension.begun(played.study, tmp_path / "none", extend=True) is None
    assert not (tmp_path / "none").exists()


def test_more_search_trials_are_counted_one_by_one(played: Played) -> None:
    """The teacher that the lock names stands in for one that is trained: ids are known."""
    study = spec.load(played.study.source, [*played.study.overrides, "search.trials=10"])
    begun = extension.begun(study, played.root, extend=True)
    assert begun is not None and list(begun.added) == ["search.trials: 6 -> 10"]
    before = files(played.root)
    more, _ = extension._planned(begun, Played(study, played.root).outline, Played(study, played.root).identity)
    assert more == {} and len(begun.directory.records) == 10
    assert files(played.root) == before, "planned in memory"
    assert begun.has_times


def test_an_unfinished_study_says_what_is_left(tmp_path: Path) -> None:
    study = load(tmp_path, "teacher.seed=6602")
    half = Played(study, tmp_path / "run").play(most=4)
    half.directory.write_lock(lock_content(study, half.identity))
    found = plan(str(study.source), *study.overrides, "--dir", str(half.root))
    assert found.exit_code == 0, found.output
    assert "nothing is added to its settings" in found.stdout
    assert "6 trials exist already, 4 of them ended" in found.stdout
    assert "time for the 2 unfinished trials: about " in found.stdout
