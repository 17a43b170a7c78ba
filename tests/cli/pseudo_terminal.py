"""Commands in a pseudo-terminal of a size that is chosen, as somebody at a terminal sees them."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_END = "\x04end of command\x04"
_RUNS = f"""
import sys
from akdtune import cli
for line in sys.argv[1:]:
    code = cli.main(line.split("\\x1f"))
    print({_END!r}, code, flush=True)
"""


def seen(commands: Sequence[Sequence[str]], width: int, folder: Path, height: int = 40) -> list[list[str]]:
    """The lines that each command prints in a terminal of so many columns, in one process one after another.

    Args:
        commands: arguments of `akdtune`; each must end with exit code 0.
        width: columns of the terminal.
        folder: where they run.
        height: rows of the terminal.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", _RUNS, *("\x1f".join(command) for command in commands)],
        stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, cwd=folder, env=environment | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    printed = _all_of(ours)
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors
    *outputs, rest = printed.split(_END)
    assert len(outputs) == len(commands), printed + errors
    codes = [text.splitlines()[0].strip() for text in [*outputs[1:], rest]]
    assert codes == ["0"] * len(commands), (codes, errors)
    bodies = [outputs[0], *(text.partition("\n")[2] for text in outputs[1:])]
    return [body.replace("\r\n", "\n").splitlines() for body in bodies]


def _all_of(terminal: int) -> str:
    """Everything that is written until the last process has closed its side."""
    held = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # Linux says so where nobody holds the other side any more
            read = b""
        if not read:
            os.close(terminal)
            return held.decode()
        held += read


def columns_of(line: str) -> int:
    """Columns that a line takes, by Unicode's own tables."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in line
    )


if __name__ == "__main__":
    (lines,) = seen([sys.argv[2:]], int(sys.argv[1]), Path.cwd())
    print("\n".join(lines))
