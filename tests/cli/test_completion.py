"""What a shell completes, asked as a shell asks: through the program, and without loading anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from akdtune.cli import completion
from akdtune.cli.known_names import DATA, NETWORKS
from akdtune.folders import packaged
from akdtune.registry import Kind, names
from tests.study_fixture import StudyBuilder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a study of three trials, and a settings file."""
    monkeypatch.chdir(tmp_path)
    build = StudyBuilder(tmp_path / "runs" / "toy")
    for accuracy in (60.0, 70.0, 80.0):
        build.add("none/kd", accuracy, 0.1)
    build.write(finished=False)
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "mine.yaml").write_text("study: mine\n")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def completed(line: str) -> list[str]:
    """What bash would offer behind a line; a space at its end begins a new word."""
    words = line.split(" ")
    known = {**os.environ, "_AKDTUNE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from akdtune.cli import main; sys.exit(main())"],
        env=known, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("kind", ["methods", "views", "selections", "networks", "data"])
def test_every_registered_name_is_completed(kind: Kind) -> None:
    """For networks and data sets, after a new one: `python -m tests.cli.test_completion` prints the lists."""
    ours = [name for name in names(kind) if not name.startswith("test")]
    assert sorted(getattr(completion, kind)("")) == ours
    assert getattr(completion, kind)("re") == [name for name in ours if name.startswith("re")]


def test_through_the_program(home: Path) -> None:
    assert completed("akdtune tea") == ["teacher"]
    assert completed("akdtune run digits_a") == ["digits_ablation", "digits_angular"]
    assert completed("akdtune logs toy ") == ["t00000", "t00001", "t00002"]
    assert completed("akdtune analyze abl") == ["ablation"]


def test_commands_runs_and_files(home: Path) -> None:
    assert completion.runs("") == ["toy", "runs/"]
    assert completion.runs("runs/t") == ["runs/toy/"]
    assert completion.studies("m") == ["mine.yaml"]
    assert completion.studies("./m") == ["./mine.yaml"]
    assert completion.studies("cifar_a") == [name for name in packaged() if name.startswith("cifar_a")]
    assert completion.analyses("") == [
        "ablation", "compare", "detection", "diversity_accuracy", "fidelity", "geometry", "importance", "transfer",
    ]  # fmt: skip
    assert completion.statuses("d") == ["done", "diverged"]


def test_nothing_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Context:
        params = {"run": "gone"}  # noqa: RUF012

    assert completion.runs("") == []
    assert completion.runs("~nobody/") == []
    assert completion.trials(Context(), "") == []


def test_it_loads_nothing_heavy(home: Path) -> None:
    code = (
        "import sys; from akdtune.cli import main\n"
        "try:\n    main()\nfinally:\n    print([name for name in ('torch', 'ray', 'pyarrow', 'numpy', 'wandb')"
        " if name in sys.modules], file=sys.stderr)"
    )
    known = {**os.environ, "_AKDTUNE_COMPLETE": "complete_bash", "COMP_WORDS": "akdtune methods d", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["dist", "dkd"]
    assert done.stderr.strip() == "[]"


if __name__ == "__main__":
    print(" ".join(names("networks")), " ".join(names("data")), NETWORKS, DATA, sep="\n")
