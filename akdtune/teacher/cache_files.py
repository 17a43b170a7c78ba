"""The files of the exact teacher cache: their layout, one block of rows, the header, and how much room they take.

A store is a folder named after its key: `header.json` says what it is, `<block>.rows` hold its rows. See
`teacher_cache`, which is the only one to write them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune import atomic

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

FORMAT = 1
"""Part of every key: a change of what is stored makes old stores unused, not wrong."""

HEADER, SUFFIX = "header.json", ".rows"
PAGE = 4096


@dataclass(frozen=True)
class CacheLimits:
    """How much room stores take, and when that is looked at.

    Attributes:
        block_bytes: upper bound of a block's size when full; the same for all who use a location.
        spare_bytes: free disk space that filling leaves to others.
        measure_bytes: what a process writes before it looks again how much room there is.
        retry_s: after filling stopped, for lack of room or an error, it is tried again after so long.
        idle_s: blocks of other stores that nobody used for so long may be dropped to make room.
    """

    block_bytes: int = 256 * 2**20
    spare_bytes: int = 2**30
    measure_bytes: int = 16 * 2**20
    retry_s: float = 60.0
    idle_s: float = 3600.0


@dataclass(frozen=True)
class Shape:
    """How a store's rows are laid out; follows from its facts and the limits alone.

    Attributes:
        rows: images times crops.
        width: numbers a row.
        dtype: numpy's name of their type.
        limits: of the blocks.
    """

    rows: int
    width: int
    dtype: str
    limits: CacheLimits = CacheLimits()

    @classmethod
    def of(cls, facts: Mapping[str, Any], limits: CacheLimits = CacheLimits()) -> Shape:
        """The layout that belongs to some facts."""
        dtype = {"fp16": "<f2", "fp32": "<f4"}[facts["dtype"]]
        return cls(int(facts["rows"]), int(facts["width"]), dtype, limits)

    @cached_property
    def record(self) -> int:
        """Bytes a row, with padding and check word."""
        return -(-self.width * np.dtype(self.dtype).itemsize // 8) * 8 + 8

    @cached_property
    def block_rows(self) -> int:
        """Rows a block."""
        return max(1, min(self.rows, self.limits.block_bytes // (self.record + 1)))

    @cached_property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.rows // self.block_rows)

    @cached_property
    def data_offset(self) -> int:
        """Where in a block the rows begin, behind their marks."""
        return -(-self.block_rows // PAGE) * PAGE

    @cached_property
    def block_bytes(self) -> int:
        """Apparent size of every block file."""
        return self.data_offset + self.block_rows * self.record


def key_of(facts: Mapping[str, Any]) -> str:
    """The name of the store of these facts, 24 hex digits."""
    return hashlib.sha256(_canonical({"format": FORMAT, **facts})).hexdigest()[:24]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class CacheBlock:
    """One block file, mapped for reading."""

    def __init__(self, fd: int, shape: Shape, writable: bool) -> None:
        weakref.finalize(self, os.close, fd)
        self.fd, self.shape, self.writable = fd, shape, writable
        mapped = mmap.mmap(fd, shape.block_bytes, access=mmap.ACCESS_READ)
        self.marks_R = np.frombuffer(mapped, np.uint8, shape.block_rows)
        rows = np.frombuffer(mapped, np.uint8, shape.block_rows * shape.record, shape.data_offset)
        self.records_RX = rows.reshape(shape.block_rows, shape.record)

    def alive(self) -> bool:
        """Whether the file is still the one by this name, whole: another process may have dropped it."""
        facts = os.fstat(self.fd)
        return facts.st_nlink > 0 and facts.st_size == self.shape.block_bytes

    def write(self, place_B: Rows, records_BX: npt.NDArray[np.uint8]) -> None:
        """Writes rows, each before its mark; those that lie side by side in one go."""
        order = np.argsort(place_B)
        for run in np.split(order, np.flatnonzero(np.diff(place_B[order]) != 1) + 1):
            first = int(place_B[run[0]])
            content = records_BX[run[0]] if len(run) == 1 else records_BX[run]
            self._write(content.reshape(-1).data, self.shape.data_offset + first * self.shape.record)
            self._write(memoryview(b"\1" * len(run)), first)

    def unmark(self, place: int) -> None:
        """Takes a row's mark away."""
        self._write(memoryview(b"\0"), place)

    def _write(self, content: memoryview, offset: int) -> None:
        if os.pwrite(self.fd, content, offset) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def header_hash(content: Mapping[str, Any]) -> str:
    """Hash over a header's content, without the one it holds."""
    return hashlib.sha256(_canonical({k: v for k, v in content.items() if k != "hash"})).hexdigest()[:16]


def read_header(folder: Path) -> dict[str, Any] | None:
    """What a store is; None where that is missing, damaged, or not what the folder is named after."""
    try:
        held: dict[str, Any] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        whole = held["hash"] == header_hash(held) and key_of(held["facts"]) == folder.name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return held if whole else None


def taken(facts: os.stat_result) -> int:
    """Bytes of disk that a file takes; holes take none."""
    return int(getattr(facts, "st_blocks", -(-facts.st_size // 512))) * 512


def block_files(location: Path) -> list[tuple[Path, os.stat_result]]:
    """Every block of every store of a location, copies that are being made included."""
    blocks = []
    for path in location.glob("*/*"):
        if path.suffix in (SUFFIX, atomic.TEMPORARY):
            with contextlib.suppress(OSError):
                blocks.append((path, path.stat()))
    return blocks


def drop_idle(location: Path, own: Path, needed: int, idle_s: float) -> None:
    """Drops blocks of other stores that nobody used lately, the longest unused first, until enough is free.

    A store's own blocks are never dropped for its other blocks: an epoch visits all of them in turn, so the least
    recently used one is the one that is needed next.
    """
    before = time.time() - idle_s
    idle = [
        (path, facts)
        for path, facts in block_files(location)
        if facts.st_mtime < before and (path.parent != own or path.suffix == atomic.TEMPORARY)
    ]
    for path, facts in sorted(idle, key=lambda block: block[1].st_mtime):
        if needed <= 0:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            needed -= taken(facts)
        _remove_if_empty(path.parent)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if not any(folder.glob(f"*{SUFFIX}")):
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
            folder.rmdir()


def copy_sparse(source: Path, target: Path) -> None:
    """Copies a file and its holes."""
    with source.open("rb") as read, target.open("wb") as write:
        size = os.fstat(read.fileno()).st_size
        write.truncate(size)
        end = 0
        while end < size:
            try:
                start = os.lseek(read.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole remains
                    return
                raise
            end = os.lseek(read.fileno(), start, os.SEEK_HOLE)
            read.seek(start)
            write.seek(start)
            while start < end and (part := read.read(min(2**20, end - start))):
                write.write(part)
                start += len(part)
