"""The undisturbed studies, the case of trouble of each test, and the table at the end."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.faults import judge, studies, table
from tests.faults.studies import Study
from tests.faults.trouble import Trouble

_cases: list[dict[str, Any]] = []
_file: list[Path] = []
"""Where the table goes, if it is asked for."""


def pytest_configure(config: pytest.Config) -> None:
    """One seed for all processes of a run."""
    if (given := config.getoption("fault_seed")) is not None:
        os.environ["AKDTUNE_FAULT_SEED"] = str(given)
    os.environ.setdefault("AKDTUNE_FAULT_SEED", str(secrets.randbelow(10**6)))
    if (given := config.getoption("fault_table")) is not None and not hasattr(config, "workerinput"):
        _file.append(Path(given).resolve())


@pytest.fixture(scope="session")
def fault_seed() -> int:
    """What everything random follows from."""
    return int(os.environ["AKDTUNE_FAULT_SEED"])


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one run share."""
    if (given := request.config.getoption("fault_studies")) is not None:
        Path(given).mkdir(parents=True, exist_ok=True)
        return Path(given).resolve()
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def undisturbed(shared: Path) -> Callable[[str], Study]:
    """The study of a name that nobody disturbs, run once for all processes."""

    def of(name: str) -> Study:
        folder = shared / name
        study = Study(studies.write(folder, name), folder / "run", None, {"AKDTUNE_CACHE": str(folder / "cache")})
        with FileLock(shared / f"{name}.lock"):
            if not (folder / "through").exists():
                code, output = study.start().end()
                assert code == 0, output
                assert not (found := judge.judge(study.root).found), found
                (folder / "through").touch()
        return study

    return of


@pytest.fixture(scope="session")
def interrupted(shared: Path, undisturbed: Callable[[str], Study]) -> Callable[[str], Path]:
    """The directory of a study that was interrupted when a trial was done and others had begun; not to be changed."""

    def of(name: str) -> Path:
        reference = undisturbed(name)
        root = shared / name / "interrupted"
        with FileLock(shared / f"{name}.interrupted.lock"):
            if not root.exists():
                making = Study(reference.file, shared / name / "making", None, reference.environment)
                command = making.start()
                command.wait_for(lambda: studies.count(making.root, "done") >= 1)
                command.epochs(1)
                studies.kill(command.pid, 2)
                command.end()
                assert judge.unfinished(making.root), "interrupted too late"
                shutil.copytree(making.root, root)
        return root

    return of


@pytest.fixture
def trouble(
    request: pytest.FixtureRequest, tmp_path: Path, fault_seed: int, undisturbed: Callable[[str], Study]
) -> Iterator[Trouble]:
    """A case of trouble, counted in the table."""
    case = Trouble(request.node.name, fault_seed, tmp_path, undisturbed)
    yield case
    case.clean()
    request.node.user_properties.append(("trouble", case.plain()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collects the cases, here or from the processes that ran them."""
    if report.when == "teardown":
        new = [value for name, value in report.user_properties if name == "trouble" and isinstance(value, dict)]
        _cases.extend(new)
        for file in _file if new else ():  # a run that is given up has counted what it did
            table.write(file, _cases)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the table."""
    if not _cases:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(f"seed {os.environ['AKDTUNE_FAULT_SEED']} (--fault-seed repeats it)")
    for line in table.lines(_cases):
        terminalreporter.write_line(line)
