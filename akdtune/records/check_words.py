"""Check words: the last key of a line of JSON, by which a digit that became another one is found."""

from __future__ import annotations

import re
import zlib

CHECK = "check"
"""The key; files of earlier versions do not have it."""

_BEFORE, _BEHIND = b', "check": "', b'"}\n'
_AT_END = len(_BEFORE) + 8 + len(_BEHIND)
_END = re.compile(rb', "check": "([0-9a-f]{8})"\}\s*$')


def with_check(text: str) -> str:
    """A JSON object of one line, not empty, with the check word of all that stands before it as its last key."""
    body = text[:-1]
    return f'{body}, "{CHECK}": "{zlib.crc32(body.encode()):08x}"}}'


def holds(line: bytes) -> bool | None:
    """Whether a line is what its check word was made from; None where it has none."""
    end = _END.search(line, max(0, len(line) - 40))
    return None if end is None else zlib.crc32(line[: end.start()]) == int(end[1], 16)


def body_of(line: bytes) -> bytes | None:
    """What stands before the check word of a line of a file; None for one that has none, or another."""
    body, end = line[:-_AT_END], line[-_AT_END:]
    if end[:-11] != _BEFORE or end[-3:] != _BEHIND or b"%08x" % zlib.crc32(body) != end[-11:-3]:
        return None
    return body
