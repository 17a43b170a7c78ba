"""What the lock says about the source it was written by."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from akdtune.running.lock import source_code

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
