"""What a trial says of the machine that trained it."""

from __future__ import annotations

import platform

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
