"""Ends the Ray that a run has started, once the run has ended by whatever means.

`python -m akdtune.running.ray_watchdog FOLDER`: a process of its own, in a session of its own. On its standard input
come the process ids of Ray's processes, each the leader of a session; the input ends when the run has. Whatever runs in
these sessions is killed then, and the folder is taken away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

import psutil

PATIENCE_S = 20.0
"""How long processes are looked for that take their time to be gone, or start just now."""

QUIET_S = 0.5
"""None of them seen for so long: no more will come."""


def main() -> None:
    """Waits for the end of the run, and cleans up behind it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    sessions = {int(line) for line in sys.stdin.buffer if line.strip().isdigit()}
    end_sessions(sessions)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


def end_sessions(sessions: set[int]) -> None:
    """Kills every process of these sessions, also those that are started meanwhile."""
    until = time.monotonic() + PATIENCE_S
    seen = time.monotonic()
    while sessions and time.monotonic() < until and time.monotonic() - seen < QUIET_S:
        if members := [process for process in psutil.process_iter() if _session(process.pid) in sessions]:
            seen = time.monotonic()
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


if __name__ == "__main__":
    main()
