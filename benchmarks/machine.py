"""The machine on which something was measured, in the words that every benchmark prints. Loads no torch."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from akdtune import __version__
from akdtune.processors import available_cpus, processor

VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
"""Instruction sets that decide what float32 and bfloat16 cost."""

NO_BFLOAT16 = "no instructions for bfloat16"


def facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Processor, how many, instruction sets, versions, and how busy the machine is (runnable processes, one minute)."""
    return {
        "processor": processor(cpuinfo),
        "processors": available_cpus(),
        "flags": ", ".join(flags(cpuinfo)),
        "torch": _version("torch"),
        "ray": _version("ray"),
        "python": platform.python_version(),
        "akdtune": __version__,
        "load": round(os.getloadavg()[0], 1),
    }


def flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instruction sets among `VECTORS` that the processor has, and what is said where none is for bfloat16."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ["flags unknown"]
    there = next(
        (set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set()
    )
    found = [name for name in VECTORS if name in there]
    return found if any("bf16" in name for name in found) else [*found, NO_BFLOAT16]


def sentence() -> str:
    """The facts in two lines that fit a terminal."""
    of = facts()
    count = f"{of['processors']} processor{'s' * (of['processors'] > 1)}"
    versions = f"torch {of['torch']}, Ray {of['ray']}, Python {of['python']}, akdtune {of['akdtune']}"
    return f"{of['processor']}, {count}: {of['flags']}\n{versions}; load {of['load']}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
