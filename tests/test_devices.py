"""What a trial says of the machine that trained it."""

from __future__ import annotations

import platform
import subprocess
import sys

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


def test_seeds_of_a_device_are_those_that_torch_sets() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    devices.seed_draws(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    queued = len(torch.cuda._queued_calls)  # each a stack, as long as no GPU was used
    devices.seed_draws(8, torch.device("cpu"))
    assert len(torch.cuda._queued_calls) == queued
