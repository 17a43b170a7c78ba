"""Where and in which precision numbers are computed: device, processors, TF32, bfloat16."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator, Sequence

import torch

from akdtune import __version__
from akdtune.processors import processor

ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that hold oneDNN below what the processor can; torch's own limit shows in its capability."""


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**31 - 1


def ready_to_train(cpu: float) -> None:
    """Sets up a process that trains: a thread a processor, and memory that one step frees stays for the next one.

    By itself the C library hands large blocks back to the system, which clears them again page by page in every step,
    for 5 to 15 % of a step in bfloat16.

    Args:
        cpu: processors of a trial.
    """
    torch.set_num_threads(max(1, int(cpu)))
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes with one thread: as a trial does, and in one order whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seed_draws(seed: int, device: torch.device) -> None:
    """Sets torch's global generators that draw on a device.

    `torch.manual_seed` sets those of every kind of device, and writes down its caller's stack for each kind that was
    never used: .2 to .5 ms, more than a tenth of a small epoch's preparation.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def resolve_device(setting: str) -> torch.device:
    """`auto` is the first visible GPU, else the CPU."""
    return torch.device("cuda" if setting == "cuda" or (setting == "auto" and torch.cuda.is_available()) else "cpu")


@contextlib.contextmanager
def float32_as_set(device: torch.device, tf32: bool) -> Iterator[None]:
    """Within it, float32 products and convolutions on CUDA are in full, or in TF32; afterwards they are as before.

    What torch does unasked is neither: products in full, convolutions in TF32. On other devices nothing changes.

    Args:
        device: where the numbers are computed.
        tf32: keep 10 bits of each factor's fraction instead of 23.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    # torch's older switches: its newer ones make the older ones unreadable where the two disagree
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 itself; torch else imitates it at a tenth of float32's speed."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def warn_of_bfloat16(device: torch.device, asked_by: Sequence[str]) -> None:
    """Prints that bfloat16 is slow on this device, where it is.

    Args:
        device: where it is to be computed in.
        asked_by: settings that ask for it.
    """
    if asked_by and device.type == "cpu" and not has_bfloat16():
        print(f"warning: {asked_by[0]}: this processor has no bfloat16, bf16 is many times slower here than fp32")


def trained_on(device: torch.device) -> dict[str, str | int]:
    """What the last digits of a trial depend on, beside its settings and seed: as this process stands now.

    Args:
        device: that the trial is trained on.

    Returns:
        `processor`, `capability` (the instruction set that torch takes), `onednn_max_cpu_isa` where one is set,
        `threads`, `device`, and the versions `torch`, `akdtune` and `python`.
    """
    limits = [os.environ[name] for name in ISA_LIMITS if os.environ.get(name)]
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **({"onednn_max_cpu_isa": limits[0]} if limits else {}),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "akdtune": __version__,
        "python": platform.python_version(),
    }
