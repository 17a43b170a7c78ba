"""MPLBACKEND may hold a notebook's backend, or nonsense: figures are made, and the user's backend stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_unchanged import beside_the_reference

FIGURES = """
import os, sys
from akdtune import cli
asked = os.environ["MPLBACKEND"]
assert cli.main(["analyze", "ablation", "reference"]) == 0
import akdtune, matplotlib
figure = akdtune.load("reference").curves().figure()
assert figure._repr_png_().startswith(b"\\x89PNG")
assert "matplotlib.pyplot" not in sys.modules
assert os.environ["MPLBACKEND"] == asked
assert asked == "nonsense" or matplotlib.rcParams._get("backend") == asked
"""


@pytest.mark.parametrize("asked", ["module://not_installed.backend_inline", "nonsense"])
def test_figures_are_made_whatever_backend_is_asked_for(asked: str, tmp_path: Path) -> None:
    with beside_the_reference(tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", FIGURES], capture_output=True, text=True, env={**os.environ, "MPLBACKEND": asked}
        )
        assert done.returncode == 0, done.stderr
        assert list(Path("runs/reference/reports").glob("*.png"))
