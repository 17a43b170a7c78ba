"""Two drivers of one study, a clock that is set back, and other users' processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import judge, studies
from tests.faults.studies import Study
from tests.faults.trouble import Trouble

pytestmark = [pytest.mark.ray, pytest.mark.long]

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root may run processes as another user"
)

CLOCK = """
import time
_now, _now_ns = time.time, time.time_ns
time.time = lambda: _now() + {shift}
time.time_ns = lambda: _now_ns() + {shift} * 10**9
"""


@pytest.mark.parametrize("lock", ["held", "removed"])
def test_two_drivers(trouble: Trouble, lock: str) -> None:
    """The second is refused, or the first leaves: never do both train."""
    study = trouble.study()
    first = trouble.begin(study)
    assert first.epochs(5)
    if lock == "removed":
        (study.root / ".lock").unlink(missing_ok=True)
    trouble.inject(f"second driver, lock {lock}")
    second = trouble.begin(study)
    codes = [trouble.ended(command, study)[0] for command in (second, first)]
    begun = studies.count(study.root, "study_started")
    if codes.count(0) != 1 and begun != 1:  # where the first had ended already, the second finds nothing to do
        trouble.found.append(f"twice: second and first driver ended with {codes}")
    if lock == "held" and begun != 1:
        trouble.found.append(f"twice: {begun} drivers began to train")
    if 0 not in codes:
        trouble.goes_on(study)
    trouble.settle(study)


@pytest.mark.parametrize("shift", [-86_400, 86_400])
def test_clock_set_between_two_runs(trouble: Trouble, interrupted: Callable[[str], Path], shift: int) -> None:
    study = trouble.study(begun=interrupted("grid"))
    (hooks := trouble.folder / "hooks").mkdir()
    (hooks / "sitecustomize.py").write_text(CLOCK.format(shift=shift))
    trouble.inject(f"clock set {'back' if shift < 0 else 'forth'} by a day")
    ended = judge.ended(study.root)
    trouble.goes_on(study, PYTHONPATH=os.pathsep.join([str(hooks), str(studies.ROOT)]))
    trouble.settle(study, attempts=ended)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's; its path is short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="akf"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def owned(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


@needs_root
def test_directory_of_another_user(trouble: Trouble, interrupted: Callable[[str], Path], open_folder: Path) -> None:
    study = trouble.study(begun=interrupted("grid"))
    root = open_folder / "run"
    shutil.copytree(study.root, root)
    shutil.copytree(study.environment["AKDTUNE_CACHE"], open_folder / "cache")
    owned(open_folder / "cache", NOBODY)
    shutil.copy(study.file, open_folder / study.file.name)
    environment = {"AKDTUNE_CACHE": str(open_folder / "cache"), "HOME": str(open_folder / "cache")}
    theirs = Study(open_folder / study.file.name, root, study.undisturbed, environment, study.overrides, AS_NOBODY)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    trouble.inject("directory of another user")
    code, output = trouble.ended(trouble.begin(theirs), theirs)
    if code != 2 or str(root) not in output:
        trouble.found.append(f"unsaid: {code}, {output[-300:]}")
    if {path: path.stat().st_mtime_ns for path in root.rglob("*")} != before:
        trouble.found.append("temporary: something was written")
    mine = Study(study.file, root, study.undisturbed, study.environment, study.overrides)
    trouble.goes_on(mine)
    trouble.settle(mine)


def their_python() -> str:
    """An interpreter that the other user may run: this one may lie in a folder that only root enters."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [*AS_NOBODY, "/bin/sh", "-c", f"exec '{python}' -c pass"]  # run twice, as akdtune runs itself again
        if subprocess.run(command, capture_output=True, cwd="/").returncode == 0:
            return python
    pytest.skip("the other user may run no Python of this version")


@needs_root
def test_user_without_a_home(trouble: Trouble, open_folder: Path) -> None:
    reference = trouble.reference("grid")
    shutil.copytree(reference.environment["AKDTUNE_CACHE"], open_folder / "cache")
    shutil.copy(reference.file, open_folder / reference.file.name)
    owned(open_folder, NOBODY)
    environment = {
        "AKDTUNE_CACHE": str(open_folder / "cache"), "HOME": "/nonexistent", "RAY_TMPDIR": str(open_folder),
        "NETRC": "/nonexistent/netrc",
        "PYTHONPATH": os.pathsep.join([str(studies.ROOT), sysconfig.get_path("purelib")]),
    }  # fmt: skip
    root = open_folder / "run"
    study = Study(open_folder / reference.file.name, root, reference.root, environment, (), AS_NOBODY, their_python())
    trouble.inject("HOME that cannot be written")
    trouble.goes_on(study)
    trouble.settle(study)
