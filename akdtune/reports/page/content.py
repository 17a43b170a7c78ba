"""What a page consists of, whichever form it takes: sections with sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from markupsafe import Markup

from akdtune.reports.page.drawing.looks import Look


@dataclass(frozen=True)
class Sentences:
    """A paragraph, or a list where each sentence stands for itself.

    Attributes:
        said: the sentences.
        listed: as a list.
        folded: heading under which they are folded away; empty for sentences that stand open.
        heading: above them; empty for none.
        lead: the answer that a reader came for.
    """

    said: Sequence[str]
    listed: bool = False
    folded: str = ""
    heading: str = ""
    lead: bool = False


@dataclass(frozen=True)
class Code:
    """Something to be copied: a command."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each of its columns.

    Attributes:
        caption: what it shows.
        headings: one per column.
        rows: a text per column; the first names the row.
        right: columns of numbers, by index.
        looks: of the arms that rows are about, by the first text of the row.
        folded: whether it is long and opened by a click.
        words: whether it names things and says what they are, without headings and without an order.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    looks: Mapping[str, Look] = field(default_factory=dict)
    folded: bool = False
    words: bool = False


@dataclass(frozen=True)
class Panel:
    """A drawing.

    Attributes:
        wide: the drawing.
        narrow: another one for narrow screens, where the first is too wide to be read there.
        broad: whether it takes the page's width and is moved sideways on narrow screens.
    """

    wide: Markup
    narrow: Markup | None = None
    broad: bool = False


@dataclass(frozen=True)
class Figure:
    """One or more drawings under one caption.

    Attributes:
        title: what it shows.
        panels: drawings that stand beside each other as far as there is room.
        caption: how to read it.
        legend: arms with their looks.
        levels: what the colours for numbers go from and to; empty where there are none.
    """

    title: str
    panels: Sequence[Panel]
    caption: str = ""
    legend: Mapping[str, Look] = field(default_factory=dict)
    levels: tuple[str, str] | None = None


Part: TypeAlias = Sentences | Code | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its name in addresses.
        title: its heading.
        parts: in order.
    """

    key: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class LeftOut:
    """A section that this study has nothing for, and why."""

    title: str
    why: str


@dataclass(frozen=True)
class Page:
    """Everything about a study.

    Attributes:
        study: its name.
        about: what it is, in a line below its name.
        facts: short numbers by what they count.
        sections: those with content.
        left_out: the others.
        warnings: what was wrong with files, a sentence each.
        made: when and with which version the page was written.
    """

    study: str
    about: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    left_out: Sequence[LeftOut]
    warnings: Sequence[str]
    made: str

    @property
    def leads(self) -> list[str]:
        """The answers that stand out."""
        return [
            said
            for section in self.sections
            for part in section.parts
            if isinstance(part, Sentences) and part.lead
            for said in part.said
        ]
