"""The direction of imports: arrows only downward, heavy libraries only where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.checkout import ROOT

# One row a level, top to bottom; a module imports modules of lower rows only.
LEVELS = [
    ["cli", "standalone"],
    ["browse", "teacher_command", "cache_command", "components", "ablation_report", "importance_figures"],
    ["column_list"],
    ["ablation_findings", "figures"],
    ["ablation_data"],
    ["study"],
    ["trainable"],
    ["tracking"],
    ["tracking_record"],
    ["run_state"],
    ["scheduling", "display", "lockfile", "search", "importances", "phases", "reuse"],
    ["search_phase"],
    ["pilot"],
    ["ledger"],
    ["dry_run"],
    ["study_plan", "cell_report"],
    ["plan_cost"],
    ["identity"],
    ["prepared", "cell_factors"],
    ["proposals"],
    ["spec"],
    ["spec_check", "json_schema"],
    ["cells"],
    ["controls"],
    ["idle"],
    ["search_rules"],
    ["trial_settings"],
    ["space"],
    ["suggest"],
    ["factors"],
    ["domains", "extension"],
    ["settings_errors", "sections"],
    ["settings_file"],
    ["training"],
    ["evaluation", "trial_parts", "warmup", "graphs", "gradient_factor"],
    ["measures"],
    ["trial_config"],
    ["objective"],
    ["methods", "views"],
    ["teacher"],
    ["teacher_settings", "frozen_teacher"],
    ["device_rows"],
    ["teacher_rows"],
    ["checkpoints"],
    ["networks"],
    ["data"],
    ["folder_sources", "parquet_source"],
    ["data_sources"],
    ["splits"],
    ["parquet_images", "image_folders", "streaming", "mixing"],
    ["image_ops", "decoding", "teacher_cache"],
    ["data_store", "augmentation", "cache_files"],
    ["recipe"],
    ["diversity", "transfer"],
    ["signals"],
    ["comparisons"],
    ["contrasts", "power", "reports"],
    ["study_tables"],
    ["results", "stats", "racing", "pareto"],
    ["registry", "resampling", "columns"],
    ["folders"],
    ["errors", "processes", "time_budget", "atomic"],
]
LEVEL = {module: depth for depth, row in enumerate(LEVELS) for module in row}

# scheduling.py holds the subclass of Ray's scheduler that study.py hands to Tune.
HOMES = {"ray": {"study", "trainable", "scheduling"}, "optuna": {"search", "importances"}, "wandb": {"tracking"}}
NEVER = {
    **{
        module: {"torch", "ray"}
        for module in ("columns", "results", "study_tables", "stats", "comparisons", "contrasts", "power")
    },
    "resampling": {"torch", "ray", "scipy"},
}
ANALYSIS_MAY = {
    "results", "study_tables", "stats", "resampling", "comparisons", "spec", "errors", "reports", "figures",
    "ablation_data", "ablation_findings", "ablation_report", "importances", "importance_figures",
}  # fmt: skip
# The command line, and what the commands that only read stand on.
LIGHT = [
    "cli", "browse", "spec", "space", "results", "study_tables", "stats", "comparisons", "ablation_report", "figures",
    "tracking",
]  # fmt: skip
HEAVY = ["torch", "torchvision", "ray", "pandas", "wandb", "optuna", "matplotlib", "scipy", "sklearn", "statsmodels"]


class Edge(NamedTuple):
    """One import: where it stands, what it names, and whether it runs when the module is imported."""

    file: Path
    line: int
    target: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


def module_of(file: Path) -> str:
    """The room of the house a file belongs to: `methods/kd.py` belongs to `methods`."""
    parts = file.relative_to(ROOT / "akdtune").with_suffix("").parts
    return parts[0]


def edges(file: Path) -> list[Edge]:
    """Every import in a file, also inside functions; `from akdtune import results` counts as `akdtune.results`."""
    found: list[Edge] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            return  # what a file does as a script, nobody that imports it needs
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            lazy = True
        if isinstance(node, ast.Import):
            found.extend(Edge(file, node.lineno, alias.name, lazy) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            base = node.module or ""
            names = [f"akdtune.{alias.name}" for alias in node.names] if base == "akdtune" else [base]
            found.extend(Edge(file, node.lineno, name, lazy) for name in names)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(file.read_text(encoding="utf-8")), lazy=False)
    return found


def sources() -> list[Path]:
    return sorted(file for file in (ROOT / "akdtune").rglob("*.py") if module_of(file) != "__init__")


def own_target(edge: Edge) -> str | None:
    """The room that an edge leads to, None for anything outside akdtune (and for its version)."""
    parts = edge.target.split(".")
    return parts[1] if parts[0] == "akdtune" and len(parts) > 1 and parts[1] != "__version__" else None


def test_every_file_has_its_place() -> None:
    homeless = {module_of(file) for file in sources()} - set(LEVEL)
    assert not homeless, f"not in the order of imports: {sorted(homeless)}"


def test_arrows_point_downward() -> None:
    upward = []
    for file in sources():
        here = module_of(file)
        for edge in edges(file):
            there = own_target(edge)
            if there is None or there == here:
                continue
            if there not in LEVEL or LEVEL[there] <= LEVEL[here]:
                upward.append(str(edge))
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize("library", sorted(HOMES))
def test_heavy_libraries_stay_at_home(library: str) -> None:
    files = [*sources(), *(ROOT / "analysis").glob("*.py")]
    strangers = [
        str(edge)
        for file in files
        for edge in edges(file)
        if edge.target.split(".")[0] == library
        and not (file.is_relative_to(ROOT / "akdtune") and module_of(file) in HOMES[library])
    ]
    assert not strangers, "\n".join(strangers)


def test_results_and_stats_know_neither_torch_nor_ray() -> None:
    wrong = [
        str(edge)
        for file in sources()
        for edge in edges(file)
        if edge.target.split(".")[0] in NEVER.get(module_of(file), set())
    ]
    assert not wrong, "\n".join(wrong)


def test_analysis_imports_results_stats_and_spec_only() -> None:
    wrong = []
    for file in sorted((ROOT / "analysis").glob("*.py")):
        for edge in edges(file):
            outside = edge.target.split(".")[0] in {"torch", "analysis"}
            if outside or (edge.target.startswith("akdtune") and own_target(edge) not in ANALYSIS_MAY):
                wrong.append(str(edge))
    assert not wrong, "\n".join(wrong)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, akdtune.{module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [], f"import akdtune.{module} loads {result.stdout}"


def test_a_trial_runs_on_a_bare_box() -> None:
    """`akdtune.training` and every component import where ray, optuna and wandb are not installed."""
    code = """
import sys
for name in ("ray", "optuna", "wandb"):
    sys.modules[name] = None
import akdtune.training
from akdtune import registry
print(*registry.names("views"), *registry.names("methods"), *registry.names("networks"))
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert {"kd", "dkd", "crd", "angular", "tekap", "none"} <= set(result.stdout.split())
