"""The user's mistakes: one family of exceptions, and the nearest valid name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace


class AkdtuneError(Exception):
    """A mistake the user can mend; the command line prints it as is and exits with `exit_code`."""

    exit_code = 2


class AkdtuneWarning(UserWarning):
    """Something the user should know and mend that stops nothing; the command line prints it as is."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name closest to a misspelt one, or None when nothing is close."""
    matches = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_name(what: str, name: str, names: Iterable[str]) -> str:
    """One sentence for a name that is not in a list: what was got, the nearest, what is allowed."""
    allowed = sorted(str(n) for n in names)
    if not allowed:
        return f"unknown {what} '{name}': " + (
            "it takes no settings" if what in ("key", "setting") else "there is none"
        )
    close = nearest(name, allowed)
    hint = f"; did you mean '{close}'?" if close else ""
    return f"unknown {what} '{name}'{hint} (allowed: {', '.join(allowed)})"


def printable(name: str) -> str:
    """A name of a file or a class in one line that every terminal takes: line breaks and stray bytes are escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a settings file.

    Attributes:
        key: dotted key path as written in the file, e.g. `method.temperature`.
        message: what was got and what is allowed, one sentence.
        line: 1-based line in the file, where known.
        file: the file, or `command line` for an override.
    """

    key: str
    message: str
    line: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return f"{place}: {self.key}: {self.message}" if place else f"{self.key}: {self.message}"

    def at(self, file: str | None, line: int | None) -> Problem:
        """The same problem with its place filled in."""
        return replace(self, file=file, line=line)


class SettingsError(AkdtuneError):
    """Everything wrong with one settings file, in one message."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "" if count == 1 else f"{count} problems:\n"
        super().__init__(head + "\n".join(str(problem) for problem in self.problems))


class DataError(AkdtuneError):
    """A data set that is missing, truncated or not what its settings say."""


class CheckpointError(AkdtuneError):
    """A checkpoint that cannot be read or belongs to another architecture."""


class StudyError(AkdtuneError):
    """A study directory that belongs to another study, is locked, or cannot be written."""


class NotRecorded(StudyError):
    """What a study does not hold because it was not asked to keep it, or because a trial did not reach its end."""


class RayError(AkdtuneError):
    """Ray could not be started or joined, or was lost while a study ran."""


class SurroundingsError(StudyError):
    """A study that stopped because of something outside it; once that is mended the same command goes on."""

    exit_code = 3
