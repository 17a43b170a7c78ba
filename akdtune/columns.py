"""What the columns of epoch rows hold: unit, meaning, and how the epochs of a trial become its one row.

A measure declares its columns beside the code that makes them: `COLUMNS` of a file, `columns` of a view augmenter or a
method. A trial's file carries them along, so that reading it needs neither that code nor the plugin it came with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal, get_args

from akdtune.errors import AkdtuneError, unknown_name

Summary = Literal["last", "max", "min", "mean", "sum", "none", "trial"]
"""A trial's value out of those of its epochs. `last`: that of its last epoch so far; `none`: only epochs have one;
`trial`: only trials have one."""

Teacher = Literal["unread", "needed", "judged"]
"""`unread`: does not depend on the teacher. `needed`: null without a teacher. `judged`: says how teacher and views do
on held-out images, null without a teacher and where the teacher has trained on those images."""

Section = Literal["student", "views", "loss", "teacher", "system"]
"""Where dashboards show a column."""

_KEY = "akdtune."
_OF_STUDENT = ("val_", "test_", "train_", "student_")
_UNITS_OF_SYSTEM = ("s", "MiB", "images/s")
_BEFORE_SECTIONS: Mapping[str, Section] = {
    "agreement": "student", "js_divergence": "student", "margin": "views", "matched_temperature": "views",
}  # fmt: skip
"""Of columns whose section does not follow from what files of earlier versions say about them."""


@dataclass(frozen=True)
class Column:
    """One column of numbers, or all whose names begin alike.

    Attributes:
        name: as in the row; a `*` at the end stands for any rest (`loss.*`).
        unit: `percent`, `share` (0 to 1), `s`, ...; empty for a number without a unit, and for text.
        sentence: what it holds, for people.
        summary: how the epochs of a trial become one value.
        teacher: whether it speaks of the teacher.
        section: where dashboards show it; empty: as `section_of` says.

    Raises:
        AkdtuneError: for a summary, a relation to the teacher or a section that does not exist.
    """

    name: str
    unit: str
    sentence: str
    summary: Summary = "last"
    teacher: Teacher = "unread"
    section: Section | Literal[""] = ""

    def __post_init__(self) -> None:
        for what, given, allowed in (
            ("summary", self.summary, get_args(Summary)),
            ("teacher", self.teacher, get_args(Teacher)),
            ("section", self.section, ("", *get_args(Section))),
        ):
            if given not in allowed:
                names = [name for name in allowed if name]
                raise AkdtuneError(f"column '{self.name}': {what}: {unknown_name(what, given, names)}")

    def metadata(self) -> dict[str, str]:
        """What a file says about the column besides its name, as text; what is empty or says nothing is left out."""
        said = {"unit": self.unit, "sentence": self.sentence, "summary": self.summary}
        said |= {"teacher": self.teacher} if self.teacher != "unread" else {}
        said |= {"section": self.section}
        return {f"{_KEY}{key}": value for key, value in said.items() if value or key == "sentence"}

    @classmethod
    def of_metadata(cls, name: str, metadata: Mapping[bytes, bytes] | None) -> Column | None:
        """The column that a file describes, None where it says nothing.

        A summary that this version does not know is read as `last`, a relation to the teacher as `unread`, a section
        as none.
        """
        held = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in (metadata or {}).items()}
        if f"{_KEY}sentence" not in held:
            return None
        unit, sentence, summary, teacher, section = (
            held.get(f"{_KEY}{k}", "") for k in ("unit", "sentence", "summary", "teacher", "section")
        )
        known: dict[str, Any] = {"summary": summary} if summary in get_args(Summary) else {}
        known |= {"teacher": teacher} if teacher in get_args(Teacher) else {}
        known |= {"section": section} if section in get_args(Section) else {}
        return cls(name, unit, sentence, **known)


def declarations(names: Iterable[str], columns: Iterable[Column]) -> dict[str, Column]:
    """What is declared about columns of these names, each under its own name; nothing about unknown ones.

    Of several declarations of a name, the one without a `*` counts, else the longest.
    """
    exact = {column.name: column for column in columns}
    longest_first = sorted((column for column in exact.values() if column.name.endswith("*")), key=_longest_first)
    known = {}
    for name in names:
        begins = (column for column in longest_first if name.startswith(column.name[:-1]))
        if (column := exact.get(name) or next(begins, None)) is not None:
            known[name] = column if column.name == name else replace(column, name=name)
    return known


def _longest_first(column: Column) -> int:
    return -len(column.name)


def declaration(name: str, columns: Iterable[Column]) -> Column | None:
    """The one of `declarations` for a name, None for an unknown one."""
    return declarations([name], columns).get(name)


def section_of(name: str, column: Column | None = None) -> Section:
    """Where dashboards show a column: as it says, else by unit and name; what speaks of the teacher is of the views.

    Args:
        name: as in the row.
        column: what is declared about it.
    """
    if column is not None and column.section:
        return column.section
    if name in _BEFORE_SECTIONS:
        return _BEFORE_SECTIONS[name]
    if name.startswith("loss.") or name == "train_loss":
        return "loss"
    if name.startswith("teacher_cache_") or (column is not None and column.unit in _UNITS_OF_SYSTEM):
        return "system"
    if name.startswith("teacher_"):
        return "teacher"
    of_views = column is not None and column.teacher != "unread" and not name.startswith(_OF_STUDENT)
    return "views" if of_views else "student"


def joined(*groups: Iterable[Column]) -> tuple[Column, ...]:
    """All columns in order, each once.

    Raises:
        AkdtuneError: when one is declared in two ways.
    """
    of_name: dict[str, Column] = {}
    for column in (column for group in groups for column in group):
        known = of_name.setdefault(column.name, column)
        if known != column:
            raise AkdtuneError(
                f"column '{column.name}' is declared in two ways: {known.sentence!r} ({known.unit}, {known.summary}) "
                f"and {column.sentence!r} ({column.unit}, {column.summary})"
            )
    return tuple(of_name.values())


def either(first: Column | None, second: Column | None) -> Column | None:
    """One of what two files say about a column, whichever is read first: trials of a study may differ in it, as a
    plugin was edited in between."""
    if first is None or second is None:
        return first or second
    return max(first, second, key=astuple)
