"""What a running study prints fits a terminal, and a log gets it whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from akdtune.reports.fitting import fitted
from akdtune.running.printed import say

SENTENCE = "  warning: study.yaml:9: scheduler.grace_period: 1 is not after the first milestone (2): they say little"
COMMAND = "  akdtune run spaces/digits_angular.yaml 'confirm.seeds=[100, 101, 102, 103, 104]' --dir runs/x --extend"


def test_lines_are_broken_between_words_behind_their_beginning() -> None:
    lines = fitted(f"a study\n{SENTENCE}\n{COMMAND}", 60).split("\n")
    assert lines[0] == "a study" and lines[-1] == COMMAND, "a command can be copied"
    assert max(map(len, lines[1:-1])) <= 60
    assert all(line.startswith("  ") for line in lines[1:-1])
    assert " ".join(" ".join(lines[1:-1]).split()) == SENTENCE.strip()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_log_gets_lines_whole(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=60, markup=False, force_terminal=terminal, color_system=None)
    say(console, SENTENCE)
    assert (console.file.getvalue() == f"{SENTENCE}\n") is not terminal  # type: ignore[attr-defined]
