"""Report files: written as a whole or not at all, and tables in the forms that papers and spreadsheets take."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akdtune import atomic
from akdtune.errors import AkdtuneError, StudyError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDEST_TABLE = 200
"""Columns of a terminal that no table needs."""

MINUS = "\N{MINUS SIGN}"
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "−": r"$-$", "≥": r"$\geq$", "≤": r"$\leq$",
    "×": r"$\times$", "→": r"$\rightarrow$", "–": "--", "†": r"$^\dagger$",
    **{superscript: f"$^{digit}$" for digit, superscript in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}  # fmt: skip


class Strong(str):
    """The text of a cell that tables set in bold."""


def exit_code(
    read: Callable[[Sequence[str] | None], argparse.Namespace],
    run: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None,
) -> int:
    """Runs an analysis as a command: 0 when it ran, 2 and one message for a mistake of the user."""
    try:
        arguments = read(argv)
    except SystemExit as leaving:  # argparse has said why
        return int(leaving.code or 0)
    try:
        run(arguments)
    except AkdtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def save(path: Path, content: str | bytes) -> Path:
    """Writes a file in one step, and its folder where there is none; returns its path.

    Raises:
        StudyError: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content)
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def save_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes strict JSON (no NaN) as `save` does; returns its path."""
    return save(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def signed(value: float | None, digits: int = 2, minus: str = MINUS) -> str:
    """A difference with its sign, a true minus unless told otherwise; `n/a` where there is none."""
    return "n/a" if value is None else f"{value:+.{digits}f}".replace("-", minus)


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus; `n/a` where there is none."""
    return "n/a" if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """`[+0.10, +0.52]`; `[n/a]` where there is none; an end that rounds to 0 keeps its sign."""
    if low is None or high is None:
        return "[n/a]"
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def probability(p: float | None) -> str:
    """A p value with three digits, as journals write it: `.012`, `< .001`."""
    if p is None:
        return "n/a"
    return "< .001" if p < 0.0005 else f"{p:.3f}".removeprefix("0")


def counted(number: int, noun: str, thousands: str = ",") -> str:
    """`1 trial`, `2 trials`, `1,000 trials`; with `thousands` empty `1000 trials`."""
    return f"{number:{thousands}} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration in the unit a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tex_escape(text: str) -> str:
    """Plain text as LaTeX shows it unchanged."""
    return "".join(_TEX.get(letter, letter) for letter in text)


def tex_cell(text: str) -> str:
    """The text of a cell as LaTeX shows it, in bold where it is `Strong`."""
    escaped = tex_escape(text)
    if isinstance(text, Strong):
        return rf"\textbf{{{escaped}}}"
    # A row that begins with a bracket would be read as the argument of the \\ before it.
    return "{}" + escaped if escaped.startswith("[") else escaped


def _tex_heading(text: str) -> str:
    lines = [tex_escape(line) for line in text.split("\n")]
    stacked = r" \\ ".join(lines)
    return stacked if len(lines) == 1 else rf"\shortstack[r]{{{stacked}}}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A GitHub Markdown table.

    Args:
        headings: one per column; bars are escaped here, too.
        rows: one text per column, in bold where it is `Strong`; bars are escaped.
        right: columns that are aligned to the right, by index.
    """

    def cell(text: str) -> str:
        escaped = text.replace("|", r"\|")
        return f"**{escaped}**" if isinstance(text, Strong) else escaped

    rule = ["---:" if index in right else "---" for index in range(len(headings))]
    lines = [[cell(text) for text in headings], rule, *([cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def tex_table(
    headings: Sequence[str],
    groups: Mapping[str, Sequence[Sequence[str]]],
    caption: str,
    label: str,
    right: Sequence[int] = (),
    notes: Sequence[str] = (),
) -> str:
    r"""A LaTeX `table` in booktabs style; needs `\usepackage{booktabs}` and `\usepackage[T1]{fontenc}`.

    Args:
        headings: one per column, plain text; lines of one stand below each other.
        groups: rows of plain text under a heading each; an empty heading has no line of its own.
        caption: plain text.
        label: for references.
        right: columns that are aligned to the right, by index.
        notes: plain text below the table, a paragraph each.
    """
    align = "".join("r" if index in right else "l" for index in range(len(headings)))
    lines = [
        r"% \usepackage{booktabs}", r"\begin{table}", r"  \centering",
        rf"  \caption{{{tex_escape(caption)}}}", rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{@{{}}{align}@{{}}}}", r"    \toprule",
        "    " + " & ".join(map(_tex_heading, headings)) + r" \\",
    ]  # fmt: skip
    for heading, rows in groups.items():
        if not rows:
            continue
        lines.append(r"    \midrule")
        if heading:
            lines.append(rf"    \multicolumn{{{len(headings)}}}{{@{{}}l}}{{\emph{{{tex_escape(heading)}}}}} \\")
        lines += ["    " + " & ".join(map(tex_cell, row)) + r" \\" for row in rows]
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    if notes:
        lines += [r"  \par\medskip", r"  \begin{minipage}{\linewidth}\footnotesize"]
        lines += [f"    {tex_escape(note)}\\par" for note in notes]
        lines.append(r"  \end{minipage}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as comma-separated text with a header of every key; empty where there is no value."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def print_whole(console: Console, table: Table) -> None:
    """Prints a table at its own width: a terminal that is narrower breaks its lines, and no number is cut."""
    before = console.width
    console.width = max(before, WIDEST_TABLE)
    console.print(table)
    console.width = before
