"""What the lock says of source, versions and arms; a lock or a plan that is not what the study began with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from akdtune import __version__
from akdtune.errors import StudyError
from akdtune.records.ledger.events import TrialStarted
from akdtune.records.lock_file import check_lock
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.running import driver, lock
from akdtune.running.lock import source_code
from akdtune.running.mending import check_ids, refuse_lost_plan
from akdtune.study import spec
from akdtune.study.proposals import Outline

AUTHOR = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, **AUTHOR}
    run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, env=environment)
    return run.stdout.strip()


def test_it_knows_the_commit_of_this_checkout(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("no checkout")
    known = source_code()
    assert known is not None and known["commit"] == git(repository, "rev-parse", "HEAD")


def test_it_knows_what_differs_from_the_commit_and_of_installed_packages_nothing(tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "akdtune"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("version = 1\n")
    git(tmp_path / "checkout", "init", "--quiet")
    assert source_code(package) is None, "not tracked: an environment inside somebody's checkout"
    git(package, "add", ".")
    git(package, "commit", "--quiet", "--message", "one")
    assert source_code(package) == {"commit": git(package, "rev-parse", "HEAD"), "diff": ""}
    (package / "__init__.py").write_text("version = 2\n")
    changed = source_code(package)
    assert changed is not None and "+version = 2" in changed["diff"]
    assert source_code(tmp_path) is None


ALIKE = """\
study: alike
data: {name: digits, validation: 300}
teacher: {network: {name: cnn, widths: [4, 4]}, epochs: 2}
student: {network: {name: cnn, widths: [2, 2]}}
views: none
method: {choice: [{name: kd, weight: {uniform: [0.1, 1]}}, {name: kd, weight: {uniform: [1, 4]}}]}
training: {epochs: 4}
search: {algorithm: random, trials: 6}
"""


@pytest.mark.parametrize(
    ("locked", "names"),
    [
        ({}, ["none/kd", "none/kd#2"]),
        (
            {"arms": ["none/kd[weight=0.1..1]", "none/kd[weight=1..4]"]},
            ["none/kd[weight=0.1..1]", "none/kd[weight=1..4]"],
        ),
    ],
)
def test_a_study_goes_on_under_the_names_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: dict[str, list[str]], names: list[str]
) -> None:
    """A lock from before arms were named by their settings says nothing of them."""
    file = tmp_path / "alike.yaml"
    file.write_text(ALIKE)
    study, root = spec.load(file), tmp_path / "run"
    root.mkdir()
    StudyDirectory(root).write_lock({"settings": study.resolved(), "data": {}, "teacher": {}, **locked})
    driven: list[Outline] = []
    monkeypatch.setattr(driver._Driver, "_go", lambda self, lock: driven.append(self.outline) or 0)
    assert driver.run(study, root) == 0
    assert list(driven[0].brackets) == names
    assert list(dict.fromkeys(proposal.arm for _, proposal in driven[0].proposals)) == names
    assert [p.params for _, p in driven[0].proposals] == [p.params for _, p in Outline(study).proposals]


def test_other_versions_than_those_that_a_study_began_with_are_named() -> None:
    now = lock.package_versions()
    began = {"akdtune": "0.0.1", "packages": {**now, "torch": "1.0", "ray": "1.0"}}
    changes = lock.version_changes(began)
    assert changes == {"akdtune": ["0.0.1", __version__], "torch": ["1.0", now["torch"]]}, "ray computes no number"
    said = (
        f"this study began with akdtune 0.0.1, torch 1.0 and goes on with akdtune {__version__}, torch {now['torch']}:"
    )
    assert lock.versions_warning(changes).startswith(said)
    assert lock.version_changes({"akdtune": __version__, "packages": now}) == lock.version_changes({}) == {}


def test_a_row_that_is_not_what_its_id_says_is_refused(tmp_path: Path) -> None:
    identity = cast(Any, SimpleNamespace(cell_id=lambda settings, role: "c" if settings == {"a": 1} else "d"))
    row: dict[str, Any] = {"trial_id": "c-s1", "cell_id": "c", "seed": 1, "role": "search", "settings": {"a": 1}}
    directory = StudyDirectory(tmp_path)
    directory.records = {"c-s1": TrialRecord(row)}
    check_ids(directory, identity)
    row["settings"] = {"a": 2}
    with pytest.raises(
        StudyError, match=r"trial c-s1 is not what it is named after: its settings make cell d; its row"
    ):
        check_ids(directory, identity)
    row |= {"settings": {"a": 1}, "seed": 2}
    with pytest.raises(StudyError, match="its seed is 2"):
        check_ids(directory, identity)


def test_a_lost_plan_is_made_again_only_if_all_that_had_begun_follows_from_the_settings(tmp_path: Path) -> None:
    directory = StudyDirectory(tmp_path)
    directory.events = [TrialStarted(trial_id="a-s0"), TrialStarted(trial_id="b-s0")]
    refuse_lost_plan(directory, [{"trial_id": "a-s0"}, {"trial_id": "b-s0"}])
    with pytest.raises(StudyError, match=r"is lost, and 1 of 2 trials that had begun do not follow .* e\.g\. b-s0"):
        refuse_lost_plan(directory, [{"trial_id": "a-s0"}])


def test_a_lock_names_the_key_that_is_missing_or_of_another_type(tmp_path: Path) -> None:
    directory = StudyDirectory(tmp_path)
    directory.write_lock({"settings": {"study": "s"}, "data": {}, "teacher": {}})
    held = directory.read_lock() or {}
    with pytest.raises(StudyError, match=r"study\.lock\.yaml: damaged, settings\.search is missing; restore it"):
        check_lock(tmp_path, held)
    directory.write_lock({"settings": {"study": "s", "search": []}, "data": {}, "teacher": {}})
    with pytest.raises(StudyError, match=r"settings\.search must be a mapping, is a list"):
        directory.read_lock()


def test_another_record_may_be_asked_for_and_is_said(tmp_path: Path) -> None:
    file = tmp_path / "alike.yaml"
    file.write_text(ALIKE)
    begun = spec.load(str(file))
    held = {"settings": begun.resolved()}
    assert lock.other_record(begun, held) == ""
    now = spec.load(str(file), ["record={predictions: float16, attention: {images: 3}}"])
    assert lock.refuse_changes(now, held, tmp_path) == []
    assert lock.other_record(now, held) == (
        "record is not what the study began with, and holds for trials that end from now on "
        "(predictions: 'float32' -> 'float16', attention: 0 -> 3)"
    )
    assert "attention: 3 -> 0" in lock.other_record(begun, {"settings": now.resolved()})
