"""A page as Markdown: the same sentences and tables, without figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from akdtune.reports.page.content import Code, Figure, Page, Part, Sentences, Table
from akdtune.reports.text import markdown_table

_ESCAPED = str.maketrans({"\\": "\\\\", "`": "\\`", "*": "\\*", "&": "&amp;", "<": "&lt;", ">": "&gt;"})


def markdown_of(page: Page) -> str:
    """The page of a study."""
    text = [f"# {plain(page.study)}", plain(page.about)]
    text.append(", ".join(f"{plain(value)} {plain(what)}" for what, value in page.facts.items()))
    text += [f"> {plain(said)}" for said in page.warnings]
    for section in page.sections:
        text.append(f"## {plain(section.title)}")
        text += [block for part in section.parts for block in _blocks(part)]
    if page.left_out:
        text += ["## Left out", _list([f"{section.title}: {section.why}." for section in page.left_out])]
    return "\n\n".join(block for block in (*text, f"Written {page.made}.") if block) + "\n"


def _blocks(part: Part) -> Iterator[str]:
    if isinstance(part, Code):
        fence = "```"
        while fence in part.text:
            fence += "`"
        yield f"{fence}\n{part.text}\n{fence}"
    elif isinstance(part, Table):
        yield f"**{plain(part.caption)}**"
        rows = [[plain(cell) for cell in row] for row in part.rows]
        headings = [plain(heading) for heading in part.headings] or ["", ""]
        yield markdown_table(headings, rows, part.right).strip()
    elif isinstance(part, Sentences):
        if part.folded or part.heading:
            yield f"**{plain(part.folded or part.heading)}**"
        yield _list(part.said) if part.listed else "\n\n".join(_bold(said, part.lead) for said in part.said)
    elif isinstance(part, Figure):
        yield f"Figure, on the page alone: {plain(part.title)}."


def _bold(said: str, lead: bool) -> str:
    return f"**{plain(said)}**" if lead else _begun(plain(said))


def _list(said: Sequence[str]) -> str:
    return "\n".join(f"- {_begun(plain(sentence))}" for sentence in said)


def plain(text: str) -> str:
    """A text as Markdown shows it unchanged: no markup, no link, no HTML, one line."""
    return " ".join(text.split()).translate(_ESCAPED).replace("](", "]\\(")


def _begun(text: str) -> str:
    """The same at the beginning of a line, where some signs make a heading or a list."""
    return f"\\{text}" if text[:1] in ("#", "-", "+", "=", "|") else text
