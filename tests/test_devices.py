"""What a trial says of the machine that trained it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from akdtune import __version__, devices


def test_processor_threads_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in devices.ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    where = devices.trained_on(torch.device("cpu"))
    assert where == {
        "processor": devices.processor(), "capability": torch.backends.cpu.get_cpu_capability(),
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
