"""A paper's table as Markdown, LaTeX and comma-separated text."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from akdtune.reports.paper.pairs import headings
from akdtune.reports.paper.table import TEACHER, PaperTable, one_line
from akdtune.reports.paper.words import teachers_of
from akdtune.reports.text import Strong, csv_text, markdown_table, tex_table
from akdtune.statistics.paired import cell_summary

FORMATS = {"terminal": None, "latex": ".tex", "markdown": ".md", "csv": ".csv"}
"""The forms of a table, and the suffix of their files."""

_MARKUP = re.compile(r"[\\`*<\[\]]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|~~")


def markdown(table: PaperTable) -> str:
    """The table with its notes as Markdown."""
    names = ["", *(_plain(" ".join(lines)) for lines in table.heads)]
    rows = [row for of_group in table.groups().values() for row in of_group]
    shown = [[text if isinstance(text, Strong) else _plain(text) for text in row] for row in rows]
    body = markdown_table(names, shown, range(1, len(names)))
    notes = "".join(f"- {_plain(note)}\n" for note in [*table.footnotes, *table.origins])
    return f"{_plain(table.title)}\n\n{body}\n{notes}"


def _plain(text: str) -> str:
    """Text that Markdown shows unchanged."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", text)


def latex(table: PaperTable) -> str:
    """The table with its notes as LaTeX with booktabs."""
    names = ["", *("\n".join(lines) for lines in table.heads)]
    body = tex_table(
        names, table.groups(), f"{table.title}.", "tab:methods", range(1, len(names)), notes=table.footnotes
    )
    return body + "".join(f"% {line}\n" for line in table.origins)


def csv(table: PaperTable) -> str:
    """One line per row and column with every number, unrounded, and how it compares with the best of its column."""
    return csv_text(_lines(table))


def _lines(table: PaperTable) -> list[dict[str, Any]]:
    columns = table.joined.columns
    names = {pair: one_line(lines) for pair, lines in zip(columns, headings(columns), strict=True)}
    teachers = teachers_of(table.studies)
    lines: list[dict[str, Any]] = []
    for pair in columns:
        head = {"pair": names[pair], "data": pair.data_name, "images": pair.images}
        lines += [
            {**head, "group": TEACHER, "row": TEACHER, "studies": study, "mean": accuracy}
            for accuracy, study in teachers.get(pair, [])
        ]
        lead = table.leads[pair]
        rivals = {rival.row: rival for rival in lead.rivals}
        for place, row in enumerate(table.joined.rows):
            if (cell := row.cells.get(pair)) is None:
                continue
            rival = rivals.get(place)
            lines.append(
                {
                    **head, "group": row.group, "row": row.label,
                    "studies": " ".join(table.studies[study].name for study in cell.studies),
                    "cell_id": " ".join(dict.fromkeys(entry.cell_id for _, entry in cell.entries)),
                    **asdict(cell_summary(list(cell.values.values()))), "asked": cell.asked,
                    "seeds": " ".join(map(str, sorted(cell.values))),
                    "lost": " ".join(f"{seed}:{why}" for seed, why in sorted(cell.lost.items())),
                    "chosen_from": cell.chosen_from, "best": place == lead.best,
                    "bold": lead.settled and place == lead.best, "tied": place in lead.tied,
                    "best_minus_this": rival and rival.difference, "pairs": rival and rival.pairs,
                    "test": rival and ("paired t" if rival.pairs else "Welch t"),
                    "p": rival and rival.p, "p_holm": rival and rival.p_holm,
                }
            )  # fmt: skip
    return lines
