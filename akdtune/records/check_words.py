"""Check words: the last key of a line of JSON, by which a digit that became another one is found."""

from __future__ import annotations

import re
import zlib

CHECK = "check"
"""The key; files of earlier versions do not have it."""

_END = re.compile(rb', "check": "([0-9a-f]{8})"\}\s*$')


def with_check(text: str) -> str:
    """A JSON object of one line, not empty, with the check word of all that stands before it as its last key."""
    body = text[:-1]
    return f'{body}, "{CHECK}": "{zlib.crc32(body.encode()):08x}"}}'


def holds(line: bytes) -> bool | None:
    """Whether a line is what its check word was made from; None where it has none."""
    end = _END.search(line, max(0, len(line) - 40))
    return None if end is None else zlib.crc32(line[: end.start()]) == int(end[1], 16)
