"""What a command and everything that it starts use: CPU seconds, memory, and what is left of it.

Each process below this one is looked at every few hundredths of a second in /proc, and what was last seen of it counts
after it has ended, however it ended: workers that Ray kills are not lost, as they are to a parent that does not wait
for them. This process adopts orphans (PR_SET_CHILD_SUBREAPER), so that daemons stay below it. What a process uses
between the last look and its end is missing: at most the time between two looks for each process. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LOOK_S, MEMORY_S, ENDING_S = 0.04, 1.0, 10.0
"""Between two looks at CPU time, and at memory; how long the processes of a command that has ended may take to end."""

PR_SET_CHILD_SUBREAPER = 36
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Used:
    """What a command and all processes below it used.

    Attributes:
        cpu_s: user and system time of all threads of all processes.
        wall_s: until the command itself had ended.
        peak_mib: the highest sum of the processes' proportional sets (PSS: shared pages are split among their users).
        processes: how many there were.
        left: how many still ran ten seconds after the command had ended; they are then killed.
        code: the command's exit code, negative for a signal.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_mib: float = 0.0
    processes: int = 0
    left: int = 0
    code: int = 0


@dataclass(frozen=True)
class Seen:
    """A process at one look."""

    pid: int
    parent: int
    started: int
    cpu_s: float
    ended: bool


@dataclass
class Tree:
    """The processes below this one, but for those that were there before."""

    own: int = field(default_factory=os.getpid)
    before: frozenset[tuple[int, int]] = frozenset()
    cpu_s: dict[tuple[int, int], float] = field(default_factory=dict)

    @classmethod
    def beginning(cls) -> Tree:
        """From now on; orphans come to this process."""
        if sys.platform != "linux":
            raise SystemExit("process_tree counts in /proc, which only Linux has")
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot adopt orphans")
        tree = cls()
        tree.before = frozenset((seen.pid, seen.started) for seen in tree._below())
        return tree

    def look(self) -> list[Seen]:
        """The processes that run now; notes their CPU time."""
        new = [seen for seen in self._below() if (seen.pid, seen.started) not in self.before]
        for seen in new:
            key = seen.pid, seen.started
            self.cpu_s[key] = max(seen.cpu_s, self.cpu_s.get(key, 0.0))
        return [seen for seen in new if not seen.ended]

    def _below(self) -> list[Seen]:
        every = {seen.pid: seen for name in os.listdir("/proc") if name.isdigit() and (seen := _seen(int(name)))}
        below: dict[int, bool] = {self.own: True}

        def is_below(pid: int) -> bool:
            if pid not in below:
                below[pid] = pid in every and is_below(every[pid].parent)
            return below[pid]

        return [seen for pid, seen in every.items() if pid != self.own and is_below(pid)]


def _seen(pid: int) -> Seen | None:
    """One process; None when it is gone. A zombie still has its times."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) * TICK_S
    return Seen(pid, int(fields[1]), int(fields[19]), cpu_s, fields[0] in "ZX")


def proportional_mib(pid: int) -> float:
    """The proportional set of a process; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def used_by(
    command: Sequence[str], log: Path, environment: Mapping[str, str], kill_when: Callable[[], bool] = lambda: False
) -> Used:
    """Runs a command to its end and counts.

    Args:
        command: with its arguments.
        log: its output is added there.
        environment: variables beside those of this process.
        kill_when: asked ten times a second; once it says so, the command itself is killed (SIGKILL).
    """
    tree, used, began = Tree.beginning(), Used(), time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    memory_at = ask_at = 0.0
    while process.poll() is None:
        now, running = time.monotonic(), tree.look()
        if now >= memory_at:
            used.peak_mib = max(used.peak_mib, sum(proportional_mib(seen.pid) for seen in running))
            memory_at = now + MEMORY_S
        if now >= ask_at:
            ask_at = now + 0.1
            if kill_when():
                process.kill()
        time.sleep(LOOK_S)
    used.wall_s, used.code = time.monotonic() - began, process.returncode
    used.left = _ended(tree)
    used.cpu_s, used.processes = sum(tree.cpu_s.values()), len(tree.cpu_s)
    return used


def _ended(tree: Tree) -> int:
    """Waits for a tree to end, kills what does not, and says how many those were."""
    until = time.monotonic() + ENDING_S
    while running := tree.look():
        _reap(tree)
        if time.monotonic() > until:
            break
        time.sleep(LOOK_S)
    left = len(running)
    while running:
        for seen in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(seen.pid, signal.SIGKILL)
        time.sleep(LOOK_S)
        _reap(tree)
        running = tree.look()
    _reap(tree)
    return left


def _reap(tree: Tree) -> None:
    """Takes leave of orphans that have ended."""
    for pid, _ in list(tree.cpu_s):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
