"""The rule of imports (.importlinter), what loads nothing heavy, and that late imports are so on purpose."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

PACKAGE_FILES = "akdtune/**/*.py"
HEAVY = [
    "torch",
    "torchvision",
    "ray",
    "pandas",
    "wandb",
    "optuna",
    "matplotlib",
    "scipy",
    "sklearn",
    "statsmodels",
    "timm",
    "transformers",
    "datasets",
]
# The command line, and what the commands that only read stand on.
LIGHT = [
    "cli", "cli.browse", "study.spec", "settings.space", "records.files", "records.tables", "statistics.association",
    "statistics.resampling",
    "statistics.paired", "reports.ablation.tables", "reports.figures", "tracking.tracker",
]  # fmt: skip
LATE = {*HEAVY, "PIL", "pydoc_data", "snntorch", "wandb_workspaces"}
"""Libraries that a function may load."""
LOADERS = {
    "akdtune.designs.controls": {"akdtune", "akdtune.contexts", "akdtune.signals"},
    "akdtune.reports.importance.shares": {"akdtune.statistics", "akdtune.statistics.importance"},
    "akdtune.reports.results": {"akdtune.training.students"},
    "akdtune.running.from_python": {"akdtune.running"},
    "akdtune.reports.figures": {"akdtune.reports.styled"},
}
"""What of ours a function may load, as it brings one of these with it: torch, Optuna, Ray, matplotlib."""
WITHOUT_TORCH = ["settings", "records", "statistics", "reports"]
"""Packages each file of which loads nothing of torch, Ray and Optuna."""


def test_the_rule_of_imports(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository)
    status = lint_imports(config_filename=".importlinter", no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def late_imports(file: Path) -> Iterator[list[ast.Import | ast.ImportFrom]]:
    """Blocks of imports that run in a function."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found: list[list[ast.Import | ast.ImportFrom]] = []

    def visit(node: ast.AST, late: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                if not late:
                    continue
                if found and not "".join(lines[found[-1][-1].end_lineno : child.lineno - 1]).strip():
                    found[-1].append(child)
                else:
                    found.append([child])
            else:
                visit(child, late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse("\n".join(lines)), late=False)
    yield from found


def may_be_late(node: ast.Import | ast.ImportFrom, module: str) -> bool:
    """Whether what a function of `module` imports is heavy."""
    loaded = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return all(name.split(".")[0] in LATE or name in LOADERS.get(module, set()) for name in loaded)


def test_imports_in_functions_say_why(repository: Path) -> None:
    """Below the command line, only a heavy library (or what of ours loads one) is imported late, and a line says so."""
    silent = []
    for file in sorted(repository.glob(PACKAGE_FILES)):
        if file.is_relative_to(repository / "akdtune" / "cli"):
            continue
        lines = file.read_text(encoding="utf-8").splitlines()
        for block in late_imports(file):
            above = lines[block[0].lineno - 2].strip()
            said = above.startswith("# late: ") or any("# late: " in lines[(of.end_lineno or 0) - 1] for of in block)
            module = ".".join(file.relative_to(repository).with_suffix("").parts)
            light = [ast.unparse(node) for node in block if not may_be_late(node, module)]
            if light or not said:
                silent.append(f"{file.relative_to(repository)}:{block[0].lineno}: {light or ast.unparse(block[0])}")
    assert not silent, "\n".join(silent)


def run(code: str, repository: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=repository)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str, repository: Path) -> None:
    code = f"import sys, akdtune.{module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    assert run(code, repository).split() == [], f"import akdtune.{module}"


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_a_package_that_reads_loads_no_torch(package: str, repository: Path) -> None:
    modules = [
        f"akdtune.{package}.{file.stem}"
        for file in sorted((repository / "akdtune" / package).glob("*.py"))
        if file.stem != "__init__"
    ]
    # importance judges with Optuna, and says so in the rule of imports
    modules = [module for module in modules if module != "akdtune.statistics.importance"]
    code = f"import sys, {', '.join(modules)}; print(*[m for m in ('torch', 'ray', 'optuna') if m in sys.modules])"
    assert run(code, repository).split() == []


def test_analyses_print_what_reports_say(repository: Path) -> None:
    """A command of analysis/ knows detection, reports, records, statistics, errors, progress, and no other analysis."""
    rooms = "detection errors progress records reports statistics"
    allowed = {f"akdtune.{room}" for room in rooms.split()}
    wrong = []
    for file in sorted((repository / "analysis").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("akdtune", "analysis"):
                room = ".".join((node.module or "").split(".")[:2])
                if room not in allowed:
                    wrong.append(f"{file.name}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def test_a_trial_runs_on_a_bare_box(repository: Path) -> None:
    """`akdtune.training` and every component import where ray, optuna and wandb are not installed."""
    code = """
import sys
for name in ("ray", "optuna", "wandb"):
    sys.modules[name] = None
import akdtune.training.trial
import akdtune.cli.one_trial
from akdtune import registry
print(*registry.names("views"), *registry.names("methods"), *registry.names("networks"), *registry.names("data"))
"""
    assert {"kd", "dkd", "crd", "angular", "tekap", "none", "digits", "parquet"} <= set(run(code, repository).split())
