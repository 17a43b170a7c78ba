"""The wheel holds what stands beside the package too, and its entry points run; so does an editable install."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

TREES = ["akdtune", "analysis", "search_spaces"]
FILES = ["setup.cfg", "setup.py", "pyproject.toml", "LICENSE", "README.md"]
# Nothing is downloaded: the build and the run use the libraries this test runs with.
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]


def call(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command; its standard error becomes the test's message when it fails."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, timeout=120)
    assert result.returncode == 0, f"{command} exited {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def source(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, so that nothing is written into the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for tree in TREES:
        shutil.copytree(repository / tree, copy / tree, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(repository / file, copy / file)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", folder, ".", cwd=source)
    (built,) = folder.glob("akdtune-*.whl")
    return built


def environment(folder: Path, with_pip: bool) -> Path:
    """A fresh virtual environment that sees this one's libraries; returns its python."""
    call(sys.executable, "-m", "venv", *([] if with_pip else ["--without-pip"]), folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    if with_pip:  # older Pythons put an old setuptools beside pip; the build is to use the current one
        call(python, "-m", "pip", "uninstall", "--yes", "--quiet", "setuptools", cwd=folder.parent)
    purelib = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A plain path line: editable installs of this environment are not picked up, only its site-packages.
    (Path(purelib) / "zz_libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment in which the wheel is installed by a current pip."""
    python = environment(tmp_path_factory.mktemp("from-wheel") / "venv", with_pip=False)
    install = ["install", "--ignore-installed", *OFFLINE, wheel]
    call(sys.executable, "-m", "pip", "--python", python, *install, cwd=wheel.parent)
    return python


def packaged_files(root: Path) -> set[str]:
    """Names inside the wheel that the three folders on disk stand for."""
    own = {f"akdtune/{file.relative_to(root / 'akdtune')}" for file in (root / "akdtune").rglob("*.py")}
    analysis = {f"akdtune/analysis/{file.name}" for file in (root / "analysis").glob("*.py")}
    spaces = {f"akdtune/search_spaces/{file.name}" for file in (root / "search_spaces").glob("*.yaml")}
    page = root / "akdtune" / "reports" / "page"
    templates = {
        f"akdtune/reports/page/{file.name}" for file in page.iterdir() if file.suffix in (".j2", ".css", ".js")
    }
    return own | analysis | spaces | templates | {"akdtune/py.typed"}


def test_packages_listed_are_the_folders_on_disk(repository: Path) -> None:
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    folders = {file.parent.relative_to(repository) for file in (repository / "akdtune").rglob("*.py")}
    expected = {".".join(folder.parts) for folder in folders} | {"akdtune.analysis", "akdtune.search_spaces"}
    assert listed == expected


def test_search_spaces_hold_only_yaml(repository: Path) -> None:
    strangers = [file.name for file in (repository / "search_spaces").iterdir() if file.suffix != ".yaml"]
    assert not strangers


def test_the_wheel_holds_every_file_once(wheel: Path, source: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    content = [name for name in names if ".dist-info/" not in name]
    assert sorted(content) == sorted(packaged_files(source))
    assert any(name.endswith(("licenses/LICENSE", "dist-info/LICENSE")) for name in names)


def test_the_wheel_asks_for_lower_bounds_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        lines = archive.read(name).decode().splitlines()
    required = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist")]
    assert required
    wrong = [line for line in required if any(mark in line.partition(";")[0] for mark in ("==", "<", "~", "!="))]
    assert not wrong


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "akdtune run"),
        (["spaces"], "digits_angular"),
        (["schema"], '"properties"'),
        (["analyze", "diversity_accuracy", "--help"], "diversity"),
        (["report", "--help"], "one page"),
    ],
)
def test_entry_points_run_from_the_wheel(installed: Path, arguments: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in call(installed.parent / "akdtune", *arguments, cwd=tmp_path)


def test_a_page_is_made_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    run = tmp_path / "small"
    run.mkdir()
    (run / "study.lock.yaml").write_text("settings: {study: small}\n")
    call(installed.parent / "akdtune", "report", run, cwd=tmp_path)
    assert "<style>:root" in (run / "reports" / "report.html").read_text()


def test_the_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = "import akdtune.cli, akdtune.analysis as a; print(akdtune.cli.__file__); print(a.__file__)"
    for line in call(installed, "-c", code, cwd=tmp_path).split():
        assert Path(line).is_relative_to(installed.parents[1])


@pytest.mark.slow
@pytest.mark.parametrize("pip", ["bundled", "current"])
def test_an_editable_install_finds_what_stands_beside_the_package(pip: str, source: Path, tmp_path: Path) -> None:
    """By the pip bundled with this Python (23 for Python 3.11 and 3.12) and by the one installed here."""
    python = environment(tmp_path / "venv", with_pip=pip == "bundled")
    runner = [python, "-m", "pip"] if pip == "bundled" else [sys.executable, "-m", "pip", "--python", python]
    call(*runner, "install", "--ignore-installed", *OFFLINE, "--editable", source, cwd=tmp_path)
    assert "digits_angular" in call(python.parent / "akdtune", "spaces", cwd=tmp_path)
    assert "diversity" in call(python.parent / "akdtune", "analyze", "diversity_accuracy", "--help", cwd=tmp_path)
    code = "import akdtune.analysis as a; print(a.__file__)"
    assert Path(call(python, "-c", code, cwd=tmp_path).strip()).is_relative_to(source)
