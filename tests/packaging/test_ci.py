"""What a change must pass is what the README says, and then what that leaves out."""

from __future__ import annotations

import configparser
from pathlib import Path


def test_ci_runs_the_readmes_command_and_what_that_leaves_out(repository: Path) -> None:
    commands = [line for line in (repository / ".ci" / "run").read_text().splitlines() if not line.startswith("#")]
    assert 'pip install -e ".[test]" && pytest`' in (repository / "README.md").read_text(encoding="utf-8")
    assert commands[-3:] == ['pip install --quiet -e ".[test]"', "pytest", "pytest -m slow"]
    assert "set -euo pipefail" in commands
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg")
    assert '-m "not slow"' in config["tool:pytest"]["addopts"]
