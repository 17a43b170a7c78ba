"""Text cut, wrapped and aligned by the columns that it takes, and tables laid out in any width."""

from __future__ import annotations

import pytest

from akdtune.cli.terminal import layout
from akdtune.cli.terminal.layout import Column, Sheet
from akdtune.reports import fitting
from tests.cli.pseudo_terminal import columns_of


def test_numbers_stand_below_each_other_by_their_points() -> None:
    shown = fitting.aligned(["1.5", "10", "-0.25", "1e-05", "nan", "", "1,234.5"])
    assert shown == ["    1.5  ", "   10    ", "   -0.25 ", "    1e-05", "      nan", "         ", "1,234.5  "]


def test_words_are_cut_by_columns_and_stay_different() -> None:
    assert fitting.cut("abcdef", 4) == "abc…" and fitting.cut("abcd", 4) == "abcd"
    assert fitting.cut("很长的名字", 5) == "很长…" and columns_of(fitting.cut("很长的名字", 4)) <= 4
    assert fitting.told_apart(["none/kd[w=1]", "none/kd[w=2]"], 8) == ["none…=1]", "none…=2]"]
    assert fitting.cut_between_words("a=1 bbb=2 c=3", 11) == "a=1 bbb=2 …"
    assert fitting.on_one_line("a\tb\x1b[0m\u202ec") == r"a\tb\x1b[0m\u202ec"


@pytest.mark.parametrize("width", [1, 2, 7, 20, 80])
def test_paragraphs_are_broken_to_the_width(width: int) -> None:
    words = "best of 60 trials in /a/very/long/path/that/has/no/space: 很长的名字 and more"
    lines = fitting.wrapped(words, width)
    assert all(columns_of(line) <= max(width, 2) for line in lines)
    assert "".join("".join(lines).split()) == "".join(words.split())


def sheet(rows: int) -> Sheet:
    columns = [
        Column("trial", [f"t{number:05d}" for number in range(rows)], whole=True),
        Column("arm", ["none/kd" * (1 + number % 5) for number in range(rows)]),
        Column("role", ["search"] * rows),
        Column("val %", [f"{number % 97}.25" for number in range(rows)], numbers=True),
    ]
    settings = [{"views.margin": number / 7, "training.lr": 0.1} for number in range(rows)]
    return Sheet(columns, settings, {"training.lr": "lr", "views.margin": "margin"})


@pytest.mark.parametrize("width", [1, 5, 10, 30, 40, 80, 200])
def test_no_width_is_too_small(width: int) -> None:
    assert all(columns_of(line) <= width for line in layout.lines(sheet(20), width, 15))


def test_rows_beyond_the_limit_are_counted() -> None:
    lines = layout.lines(sheet(10_000), 80, 15)
    assert lines[0] == "all 10,000: role search, lr=0.1"
    assert len(lines) == 18 and lines[-1] == "… 9,985 more (--all)"
    assert len(layout.lines(sheet(10_000), 80)) == 10_002
    assert layout.lines(sheet(15), 80, 15)[-1].startswith("t00014")
    assert layout.lines(sheet(0), 80, 15) == []
    assert layout.lines(sheet(1), 80)[0].split() == ["trial", "arm", "role", "val", "%", "lr", "margin"]
