"""What a frozen teacher says, kept where a GPU can gather it itself: no step then waits for the host.

Rows come from `TeacherRows`, found in the cache or computed, before the first step of an epoch, and only those that are
not on the device yet. The numbers are those of `TeacherRows`, to the last bit.

Shapes: N images of the split, B batch, R rows, W numbers a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from akdtune.signals import Signals
from akdtune.teacher.cache_files import Flags, Rows, Values
from akdtune.teacher.rows import TeacherRows

SHARE = 0.25
"""Of the device's free memory, how much the rows of a trial's teachers may take: other trials may share the device."""

CHUNK = 8192
"""Rows that go to the device at once, through one pinned buffer, unless told otherwise."""

Placement = Literal["resident", "epoch", "batch"]
"""resident: every image and crop has its place; epoch: one row an image, filled anew each time; batch: none is kept."""


def placement(resident_bytes: int, epoch_bytes: int, free_bytes: int) -> Placement:
    """Where the rows of all teachers of a trial lie.

    Args:
        resident_bytes: needed for every image and crop.
        epoch_bytes: needed for one crop of each image.
        free_bytes: of the device's memory.
    """
    room = SHARE * free_bytes
    if resident_bytes <= room:
        return "resident"
    return "epoch" if epoch_bytes <= room else "batch"


@dataclass(frozen=True)
class _Table:
    """Rows on the device, and, known on the host, which of them are there."""

    values_RW: Tensor
    there_R: Flags

    @classmethod
    def empty(cls, rows: int, like: TeacherRows, device: torch.device) -> _Table:
        return cls(torch.empty(rows, like.width, dtype=_dtype(like), device=device), np.zeros(rows, bool))


_resident: dict[str, _Table] = {}
"""The tables of this process's last trial, by what their rows are: the next trial of the study goes on with them."""


def forget_resident() -> None:
    """Frees the tables that this process keeps on its devices."""
    _resident.clear()


def device_rows(
    teachers: Sequence[TeacherRows],
    images: int,
    device: torch.device,
    free_bytes: int | None = None,
    chunk: int = CHUNK,
) -> list[DeviceRows]:
    """The rows of all teachers of a trial, where there is room for them on its device.

    Args:
        teachers: in order.
        images: N.
        device: where batches are asked for.
        free_bytes: of the device's memory; None: as the driver says, on a GPU.
        chunk: rows that go to the device at once.
    """
    keys = [f"{teacher.store.key}/{device}" for teacher in teachers]
    for key in _resident.keys() - set(keys):
        del _resident[key]
    if free_bytes is None:
        free_bytes = torch.cuda.mem_get_info(device)[0]
    widths = [teacher.width * _dtype(teacher).itemsize for teacher in teachers]
    needed = sum(
        teacher.rows * width for teacher, width, key in zip(teachers, widths, keys, strict=True) if key not in _resident
    )
    place = placement(needed, images * sum(widths), free_bytes)
    opened = []
    for teacher, key in zip(teachers, keys, strict=True):
        table = None
        if place == "epoch":
            table = _Table.empty(images, teacher, device)
        elif place == "resident":
            table = _resident[key] if key in _resident else _Table.empty(teacher.rows, teacher, device)
            _resident[key] = table
        opened.append(DeviceRows(teacher, place, table, device, chunk))
    return opened


class DeviceRows:
    """One teacher's rows on the device; made by `device_rows`.

    Args:
        rows: where they come from.
        place: see `Placement`.
        table: None where none are kept.
        device: where batches are asked for.
        chunk: rows that go there at once.
    """

    def __init__(
        self, rows: TeacherRows, place: Placement, table: _Table | None, device: torch.device, chunk: int = CHUNK
    ) -> None:
        self.place = place
        self._chunk = chunk
        self._rows, self._table, self._device = rows, table, device
        self._expected = False
        self._pinned_RW: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def expect(self, rows_N: Rows, order_R: Rows) -> None:
        """Brings to the device what an epoch is about to ask for.

        Args:
            rows_N: the row of each position's crop in this epoch.
            order_R: positions in the order in which they are asked for.
        """
        wanted_R, places_R = rows_N[order_R], order_R
        if self._table is not None and self.place == "resident":
            missing_R = ~self._table.there_R[wanted_R]
            self._rows.found += int((~missing_R).sum())
            wanted_R = places_R = wanted_R[missing_R]
        self._rows.expect(wanted_R)
        if self._table is None:
            return
        self._expected = True
        for start in range(0, len(places_R), self._chunk):
            places = places_R[start : start + self._chunk]
            values_RW = self._sent(self._rows.values(wanted_R[start : start + self._chunk]))
            self._table.values_RW.index_copy_(0, torch.from_numpy(places).to(self._device), values_RW)
            self._table.there_R[places] = True

    def signals(self, positions_B: Tensor, rows_B: Tensor) -> Signals:
        """What the teacher says about a batch of the expected epoch, float32 on the device.

        Args:
            positions_B: of the split.
            rows_B: the rows of their crops.
        """
        if self._table is None or not self._expected:
            return self._rows.said(self._sent(self._rows.values(rows_B.cpu().numpy())), rows_B)
        return self._rows.said(self._table.values_RW[rows_B if self.place == "resident" else positions_B], rows_B)

    def _sent(self, values_RW: Values) -> Tensor:
        """Rows on the device; on a GPU they travel while the host goes on."""
        if self._device.type != "cuda":
            return torch.from_numpy(values_RW)
        if len(values_RW) > self._chunk:
            return torch.from_numpy(values_RW).to(self._device)
        if self._pinned_RW is None:
            self._pinned_RW = torch.empty(self._chunk, self._rows.width, dtype=_dtype(self._rows), pin_memory=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        assert self._copied is not None
        self._copied.synchronize()  # the buffer's last content is on its way no more
        staged_RW = self._pinned_RW[: len(values_RW)]
        staged_RW.copy_(torch.from_numpy(values_RW))
        sent_RW = staged_RW.to(self._device, non_blocking=True)
        self._copied.record()
        return sent_RW


def _dtype(rows: TeacherRows) -> torch.dtype:
    return torch.from_numpy(np.empty(0, rows.store.shape.dtype)).dtype
