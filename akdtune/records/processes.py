"""Whether a process of this machine lives."""

from __future__ import annotations

import psutil

CLOCK_SLACK_S = 2.0
"""Process start times come in clock ticks since a boot time in whole seconds."""


def is_alive(pid: int, started: float | None = None) -> bool:
    """Whether process `pid` exists and runs.

    Args:
        pid: a process id of this machine.
        started: unix seconds at which it was seen alive; a younger process only inherited the number.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return started is None or process.create_time() <= started + CLOCK_SLACK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
