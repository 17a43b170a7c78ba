"""What the lock says about the source it was written by, and about the names of arms."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from akdtune.records.study_directory import StudyDirectory
from akdtune.running import driver
from akdtune.running.lock import source_code
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
    monkeypatch.setattr(driver._Driver, "go", lambda self, lock: driven.append(self.outline) or 0)
    assert driver.run(study, root) == 0
    assert list(driven[0].brackets) == names
    assert list(dict.fromkeys(proposal.arm for _, proposal in driven[0].proposals)) == names
    assert [p.params for _, p in driven[0].proposals] == [p.params for _, p in Outline(study).proposals]
