"""How values show themselves in a notebook: HTML in which every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table; names of arms, cells and studies are users' text and may hold anything."""
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    title = f"<b>{escape(caption)}</b>" if caption else ""
    return f"{title}<table><tr>{head}</tr>{body}</table>"
