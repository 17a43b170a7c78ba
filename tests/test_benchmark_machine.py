"""What benchmarks say of the machine."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT

sys.path.append(str(ROOT / "benchmarks"))
machine = importlib.import_module("machine")


@pytest.mark.parametrize(
    ("lines", "flags"),
    [
        ("flags\t\t: fpu sse avx2 avx512f avx512_bf16 amx_bf16 amx_tile\nflags\t\t: other\n",
         ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]),
        ("flags\t\t: fpu avx2\n", ["avx2", "no instructions for bfloat16"]),
        ("Features\t: fp asimd bf16\n", ["bf16"]),
        ("vendor_id\t: none\n", ["no instructions for bfloat16"]),
    ],
)  # fmt: skip
def test_flags_are_those_that_decide_what_a_step_costs(lines: str, flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(lines)
    assert machine.flags(tmp_path / "cpuinfo") == flags
    assert machine.flags(tmp_path / "missing") == ["flags unknown"]


def test_the_sentence_names_processor_flags_and_versions_without_torch() -> None:
    program = "import machine, sys; print(machine.sentence()); print('torch' in sys.modules)"
    folder = ROOT / "benchmarks"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    first, second, torch_loaded = said.splitlines()
    of = machine.facts()
    assert first == f"{of['processor']}, {of['processors']} processors: {of['flags']}".replace(
        " 1 processors", " 1 processor"
    )
    assert second.startswith(
        f"torch {of['torch']}, Ray {of['ray']}, Python {of['python']}, akdtune {of['akdtune']}; load "
    )
    assert torch_loaded == "False"
