"""A study that was trained once, and copies of it that may be spoiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.trained_study import trained_study


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study; for reading."""
    folder = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AKDTUNE_CACHE", str(folder / "cache"))
        return trained_study(folder / "runs" / "trained", folder)


@pytest.fixture
def study(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be spoiled."""
    monkeypatch.setenv("AKDTUNE_CACHE", str(trained.parent.parent / "cache"))
    shutil.copytree(trained, tmp_path / "trained")
    return tmp_path / "trained"
