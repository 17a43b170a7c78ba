"""How many processors there are for this process."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from akdtune import processors

V2 = "25 20 0:22 {shown} /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
V1 = "33 31 0:30 {shown} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def machine(root: Path, group: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder with this process's control groups, where they are mounted, and what stands in them."""
    for name, text in {"proc/self/cgroup": group, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "mounts", "files", "cpus"),
    [
        ("", "", {}, 8),
        ("0::/\n", V2.format(shown="/"), {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", "", {"cpu.max": "100000 100000\n"}, 1),  # no table of mounts
        ("0::/\n", V2.format(shown="/"), {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", V2.format(shown="/"), {"cpu.max": "350000 100000\n"}, 3),
        ("0::/\n", V2.format(shown="/"), {"cpu.max": "25000 100000\n"}, 1),  # a quarter is one, not none
        ("0::/\n", V2.format(shown="/"), {"cpu.max": "5000000 100000\n"}, 8),
        ("0::/\n", V2.format(shown="/"), {"cpu.max": "garbage"}, 8),
        ("0::/\n", V2.format(shown="/"), {"cpu.max": "1 0"}, 8),
        ("0::/\n", V2.format(shown="/"), {"cpuset.cpus.effective": "0-1,5\n"}, 3),
        # the least of a path: a group without a limit inside one with, and the other way round
        ("0::/a/b\n", V2.format(shown="/"), {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/a/b\n", V2.format(shown="/"), {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", V2.format(shown="/"), {"a/b/other/cpu.max": "100000 100000\n"}, 8),
        # a container that sees its own group as the top while its path still has the host's name
        ("0::/docker/x\n", V2.format(shown="/docker/x"), {"cpu.max": "200000 100000\n"}, 2),
        ("0::/../y\n", V2.format(shown="/"), {"cpu.max": "200000 100000\n"}, 2),
        # version 1
        (
            "4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n", V1.format(shown="/docker/x"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2,
        ),
        (
            "4:cpu,cpuacct:/\n", V1.format(shown="/"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 8,
        ),
        ("4:cpu:/\n", "", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 2),
    ],
)  # fmt: skip
def test_no_more_processors_than_the_container_has_time_for(
    group: str, mounts: str, files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    root = machine(tmp_path, group, mounts, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert processors.available_cpus(root) == cpus


def test_no_more_processors_than_this_process_may_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    files = {"sys/fs/cgroup/cpu.max": "600000 100000\n"}
    assert processors.available_cpus(machine(tmp_path, "0::/\n", V2.format(shown="/"), files)) == 2


def test_the_name_of_a_processor_is_what_the_system_says(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some  Processor @ 2.0GHz\nmodel name\t: another\n")
    assert processors.processor(cpuinfo) == "Some Processor @ 2.0GHz"
    other = processors.processor(tmp_path / "missing")
    assert other == (platform.processor() or platform.machine())
