"""What a trial says of the machine that trained it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from akdtune import __version__, devices, processors


def test_processor_threads_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in devices.ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    where = devices.trained_on(torch.device("cpu"))
    assert where == {
        "processor": processors.processor(), "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(), "device": "cpu", "torch": torch.__version__, "akdtune": __version__,
        "python": platform.python_version(),
    }  # fmt: skip
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert devices.trained_on(torch.device("cpu")) == {**where, "onednn_max_cpu_isa": "AVX2"}


def test_the_name_of_a_processor_is_what_the_system_says(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some  Processor @ 2.0GHz\nmodel name\t: another\n")
    assert devices.processor(cpuinfo) == "Some Processor @ 2.0GHz"
    other = devices.processor(tmp_path / "missing")
    assert other == (platform.processor() or platform.machine())


STEPS = """
import resource, torch
from akdtune.devices import ready_to_train
ready_to_train({cpu})
def step():
    held = [torch.zeros(8 << 18) for _ in range(20)]  # 8 MiB each
for _ in range(4):  # aligned blocks find their places in a few steps
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(torch.get_num_threads(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory by rules of their own")
def test_what_a_step_frees_stays_for_the_next_one() -> None:
    ran = subprocess.run([sys.executable, "-c", STEPS.format(cpu=1.5)], capture_output=True, text=True, check=True)
    threads, faults = map(int, ran.stdout.split())
    assert threads == 1
    assert faults < 1000, "160 MiB are 40,960 pages"
