"""The processors of this machine: their name, and how many a process may use, given its container's limits."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path


@functools.cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of this machine's processor, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return " ".join(name.split())
    return platform.processor() or platform.machine() or "unknown"


def available_cpus(root: Path = Path("/")) -> int:
    """Processors that this process may use: those it may run on, and no more than its container is given time for.

    Args:
        root: under which `proc` and `sys` lie.
    """
    running_on = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([running_on, *(int(limit) for limit in _cpu_limits(root))]))


def _cpu_limits(root: Path) -> Iterator[float]:
    """Processors' worth of time, and processors, that each control group of this process and those above it have."""
    for folder in _control_groups(root):
        quota, _, period = _first_line(folder / "cpu.max").partition(" ")  # version 2
        yield from _ratio(quota, period)
        yield from _ratio(_first_line(folder / "cpu.cfs_quota_us"), _first_line(folder / "cpu.cfs_period_us"))
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus"):
            if listed := _first_line(folder / name):
                yield from _counted(listed)


def _ratio(quota: str, period: str) -> Iterator[float]:
    with contextlib.suppress(ValueError, ZeroDivisionError):  # `max`, or no such file
        if int(quota) > 0:  # -1 is no limit
            yield int(quota) / int(period)


def _counted(listed: str) -> Iterator[int]:
    """How many processors `0-3,8` are."""
    with contextlib.suppress(ValueError):
        bounds = [part.partition("-") for part in listed.split(",")]
        yield sum(int(last or first) - int(first) + 1 for first, _, last in bounds)


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control groups, and those above them up to where they are mounted."""
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for of, top, mounted in mounts:
            if set(controllers.split(",")) & of:
                inside = Path("/" + path.removeprefix(top) if top != "/" and path.startswith(top) else path)
                places = [inside, *inside.parents]
                yield from (root / mounted.relative_to("/") / place.relative_to("/") for place in places)


def _mounts(root: Path) -> Iterator[tuple[set[str], str, Path]]:
    """Hierarchies of control groups: controllers (an empty name for version 2), the group shown, where."""
    found = False
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            found = True
            yield ({""} if kind[0] == "cgroup2" else set(kind[2].split(","))), fields[3], Path(fields[4])
    if not found:
        yield {""}, "/", Path("/sys/fs/cgroup")
        yield from (({name}, "/", Path("/sys/fs/cgroup") / name) for name in ("cpu", "cpuset"))


def _lines(file: Path) -> Iterable[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()


def _first_line(file: Path) -> str:
    return next(iter(_lines(file)), "").strip()
