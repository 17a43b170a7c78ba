"""Whether a process of this machine lives."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the latter two: no number of a process
        return False
    except psutil.AccessDenied:
        return True


def born(pid: int) -> str | None:
    """When a process of this machine began, counted by a clock that nobody sets, and since which boot.

    None where it is gone, or the system does not say; a process that took over its number was born later.
    """
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (OSError, IndexError):
        return None
    return f"{boot[:8]}.{ticks}"


def living(record: Mapping[str, Any], started: float | None = None) -> int | None:
    """The process that wrote this of itself, if it lives on this machine.

    Args:
        record: `pid`, `host`, and `born` where that was known; anything that lacks one of the first two is nobody's.
        started: unix seconds at which it wrote; only asked where `born` is not known, as clocks may have been set.
    """
    pid, host, birth = record.get("pid"), record.get("host"), record.get("born")
    if not isinstance(pid, int) or isinstance(pid, bool) or host != socket.gethostname():
        return None
    if birth is not None and (now := born(pid)) is not None:
        return pid if now == birth and is_alive(pid) else None
    return pid if is_alive(pid, started) else None
