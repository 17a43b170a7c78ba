"""Where and in which precision numbers are computed: device, TF32, bfloat16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


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
