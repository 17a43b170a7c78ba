"""Text by the columns that it takes: measured, cut, wrapped, aligned at the decimal point."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len

MORE = "…"
"""Stands for what was cut."""

COMMAND = "akdtune "

_NUMBER = re.compile(r"([-+\u2212]?[\d,]+)((?:\.\d+)?(?:e[-+]?\d+)?)")


def taken(text: str) -> int:
    """Columns of a terminal that a text takes: letters of some scripts take two, accents none."""
    if text.isascii():
        return len(text)
    return cell_len(text)


def on_one_line(text: str) -> str:
    """The text with letters that move a terminal's cursor written out: a line break becomes two letters."""
    if text.isprintable():
        return text
    return "".join(repr(letter)[1:-1] if _moves(letter) else letter for letter in text)


def _moves(letter: str) -> bool:
    """Control characters, line separators, marks of direction; not the joiners that letters are made with."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in "\u200c\u200d"


def cut(text: str, width: int) -> str:
    """The text in at most `width` columns; the end of a longer one is lost."""
    return text if taken(text) <= width else _beginning(text, width - 1) + MORE[: max(0, width)]


def cut_between_words(text: str, width: int) -> str:
    """The same, ending with a whole word unless much would be lost by that."""
    if taken(text) <= width:
        return text
    words = _beginning(text, width - 1).rpartition(" ")[0]
    return f"{words} {MORE}" if 2 * taken(words) > width else cut(text, width)


def cut_inside(text: str, width: int) -> str:
    """The same, but the middle is lost."""
    if taken(text) <= width:
        return text
    end = _beginning(text[::-1], (width - 1) // 2)[::-1]
    return _beginning(text, width - 1 - taken(end)) + MORE + end


def cut_before(text: str, width: int) -> str:
    """The same, but the beginning is lost."""
    return text if taken(text) <= width else MORE + _beginning(text[::-1], width - 1)[::-1]


def _beginning(text: str, width: int) -> str:
    """As many letters as take no more columns than that."""
    if text.isascii():
        return text[: max(0, width)]
    held = 0
    for place, letter in enumerate(text):
        held += taken(letter)
        if held > width:
            return text[:place]
    return text


_CUTS: Sequence[Callable[[str, int], str]] = (cut_inside, cut, cut_before)


def told_apart(texts: Sequence[str], width: int) -> list[str]:
    """Texts of one column in at most `width` columns, cut where as many as possible stay different."""
    tried = [[cutting(text, width) for text in texts] for cutting in _CUTS]
    return max(tried, key=lambda of_cut: len(set(of_cut)))


def padded(text: str, width: int) -> str:
    """The text with spaces behind it."""
    return text + " " * (width - taken(text))


def aligned(texts: Sequence[str]) -> list[str]:
    """Numbers below each other by their decimal points, each as long as the longest; words stand on the right."""
    parts = [_at_the_point(text) for text in texts]
    before, behind = (max((len(part[place]) for part in parts), default=0) for place in (0, 1))
    return [
        f"{whole:>{before}}{rest:<{behind}}" if rest is not None else f"{whole:>{before + behind}}"
        for whole, rest in _with_words(parts, texts)
    ]


def _at_the_point(text: str) -> tuple[str, str]:
    match = _NUMBER.fullmatch(text)
    return (match[1], match[2]) if match else ("", "")


def _with_words(
    parts: Sequence[tuple[str, str]], texts: Sequence[str]
) -> Iterator[tuple[str, str | None]]:  # what is no number has no part behind the point
    for (whole, rest), text in zip(parts, texts, strict=True):
        yield (whole, rest) if whole else (text, None)


def wrapped(text: str, width: int, indent: str = "  ") -> list[str]:
    """A text in lines of at most `width` columns, broken between words; a longer word is broken anywhere.

    Args:
        text: one paragraph.
        width: of the terminal.
        indent: of every line but the first; less where the terminal has no room for it.
    """
    indent = indent if len(indent) < width // 2 else ""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1].strip() else lines[-1] + word
        if taken(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1].strip():
            lines.append(indent)
        lines[-1] += word
        while taken(lines[-1]) > width:
            held = _beginning(lines[-1], width) or lines[-1][:1]  # a letter of two columns may be wider than it
            lines[-1:] = [held, indent + lines[-1][len(held) :]]
    return [line.rstrip() for line in lines]


def fitted(text: str, width: int | None, hanging: int = 0) -> str:
    """Lines of at most so many columns, broken between words; as they are without a width, as in a pipe.

    Args:
        text: lines, each of which stays behind the spaces that it begins with. A command stays on one line, so that it
            can be copied.
        width: of the terminal.
        hanging: further spaces before what is broken off.
    """
    if width is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        words = line.lstrip(" ")
        if taken(line) <= width or words.startswith(COMMAND):
            lines.append(line)
            continue
        lead = line[: min(len(line) - len(words), width // 2)]
        lines += [lead + part for part in wrapped(words, width - len(lead), " " * hanging)]
    return "\n".join(lines)
