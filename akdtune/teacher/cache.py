"""The exact teacher cache on disk: what frozen teachers say about every crop of every image, shared by all trials.

A store belongs to one teacher on one set of images; its key is a hash of everything that the numbers depend on. A row
is one image in one crop. Each row carries a check word over its bytes, its number and the key, and counts as present
only while the word fits. A row that was half written (kill -9, full disk, power failure), overwritten, cut off, or that
belongs to another store therefore reads as missing and is computed again. So writers hold no lock and keep no order:
two that write the same row write the same bytes.

Files: `<location>/<key>/header.json`, which says what the store is, and `<block>.rows`: sparse, one mark for each row
(written after the row; a hint where to look, and what `akdtune cache list` counts), then the rows. Blocks are mapped
for reading and written with `pwrite`, which reports a full disk as an error where a write through the map would kill.

Shapes: B rows asked for, W numbers a row.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune import atomic
from akdtune.teacher.cache_files import (
    FORMAT,
    HEADER,
    PAGE,
    SUFFIX,
    CacheBlock,
    CacheLimits,
    Flags,
    Rows,
    Shape,
    Values,
    block_files,
    copy_sparse,
    drop_idle,
    header_hash,
    key_of,
    read_header,
    taken,
)

CHUNK = 4096


class Store:
    """The rows of one teacher on one set of images.

    Reading and writing never raise for what is wrong with disk or files: what cannot be read is missing, what cannot
    be written is not kept, and `trouble` says why.

    Args:
        location: folder of all stores.
        facts: plain JSON, everything that the numbers depend on; `rows`, `width` and `dtype` among it.
        about: plain JSON for people: names of network and data.
        max_bytes: room for all stores of the location together; None: no bound.
        seed_from: another location, from which blocks are copied that are not here yet.
        limits: of room and blocks.
    """

    def __init__(
        self,
        location: Path,
        facts: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        max_bytes: int | None = None,
        seed_from: Path | None = None,
        limits: CacheLimits | None = None,
    ) -> None:
        self.location, self.facts, self.about = location, dict(facts), dict(about or {})
        self.max_bytes, self.seed_from, self.limits = max_bytes, seed_from, limits or CacheLimits()
        self.shape = Shape.of(facts, self.limits)
        self.key = key_of(facts)
        self.folder = location / self.key
        self.trouble = ""
        self._blocks: dict[int, CacheBlock | None] = {}
        self._budget, self._stopped_until = 0, 0.0
        drawn = np.random.Philox(key=int(self.key[:16], 16)).random_raw((self.shape.record - 8) // 4 + 2)
        self._salt, self._row_factor, self._factors = drawn[0], drawn[1] | np.uint64(1), drawn[2:] | np.uint64(1)

    def known(self) -> bool:
        """Whether the store was begun, by whomever."""
        return read_header(self.folder) is not None

    def find(self, rows_B: Rows) -> tuple[Flags, Values]:
        """Which rows are there, [B], and their numbers, [B, W] (zeros where a row is missing)."""
        records_BX = np.zeros((len(rows_B), self.shape.record), np.uint8)
        marked_B = np.zeros(len(rows_B), bool)
        for block, at, place in self._opened(rows_B):
            there = block.marks_R[place] != 0
            marked_B[at[there]] = True
            records_BX[at[there]] = block.records_RX[place[there]]
        found_B = marked_B & self._fits(records_BX, rows_B)
        records_BX[~found_B] = 0
        return found_B, records_BX.view(self.shape.dtype)[:, : self.shape.width]

    def marked(self, rows_B: Rows) -> Flags:
        """Which rows are probably there, [B]: their check words are not read."""
        marked_B = np.zeros(len(rows_B), bool)
        for block, at, place in self._opened(rows_B):
            marked_B[at] = block.marks_R[place] != 0
        return marked_B

    def put(self, rows_B: Rows, values_BW: Values) -> None:
        """Keeps rows, as far as there is room."""
        if not len(rows_B) or not self._room(len(rows_B)):
            return
        records_BX = np.zeros((len(rows_B), self.shape.record), np.uint8)
        records_BX.view(self.shape.dtype)[:, : self.shape.width] = values_BW
        records_BX.view(np.uint64)[:, -1] = self._check_words(records_BX, rows_B)
        try:
            for block, at, place in self._opened(rows_B, create=True):
                if not block.writable:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                block.write(place, records_BX[at])
        except OSError as error:
            self._stop(f"{self.folder}: {error.strerror or error}")

    def filled(self) -> int:
        """How many rows are marked as present."""
        return sum(
            int(np.count_nonzero(block.marks_R))
            for index in range(self.shape.blocks)
            if (block := self._block(index)) is not None
        )

    def refresh(self) -> None:
        """Between epochs: notes that the blocks are in use, and looks again for those that were not there."""
        for index, block in list(self._blocks.items()):
            if block is None or not block.alive():
                del self._blocks[index]
            elif block.writable:
                with contextlib.suppress(OSError):
                    os.utime(block.fd)

    def verify(self) -> Iterator[tuple[Path, int, int, str]]:
        """Reads every row of every block: (file, marked rows, damaged ones, what is wrong with the file as a whole).

        Damaged rows lose their marks; they, and files of a wrong size, are written anew when they are next needed.
        """
        for index in range(self.shape.blocks):
            path = self._path(index)
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                block = self._block(index) if size == self.shape.block_bytes else None
                if block is None:
                    yield path, 0, 0, f"{size:,} bytes instead of {self.shape.block_bytes:,}" if size else ""
                    continue
                places = np.flatnonzero(block.marks_R)
                damaged = [place for chunk in _chunks(places) for place in self._damaged(block, index, chunk)]
                for place in damaged:
                    block.unmark(place)
                yield path, len(places), len(damaged), ""

    def _damaged(self, block: CacheBlock, index: int, places: Rows) -> list[int]:
        rows = index * self.shape.block_rows + places
        fits = self._fits(np.ascontiguousarray(block.records_RX[places]), rows)
        bad: list[int] = places[~fits].tolist()
        return bad

    def _check_words(self, records_BX: npt.NDArray[np.uint8], rows_B: Rows) -> npt.NDArray[np.uint64]:
        """Multilinear hash (Carter & Wegman 1979) of each row's bytes, number and key, modulo 2**64."""
        words_BY = records_BX.view(np.uint32)[:, :-2].astype(np.uint64)
        of_bytes_B = (words_BY * self._factors).sum(axis=1, dtype=np.uint64)
        words_B: npt.NDArray[np.uint64] = of_bytes_B + rows_B.astype(np.uint64) * self._row_factor + self._salt
        return words_B

    def _fits(self, records_BX: npt.NDArray[np.uint8], rows_B: Rows) -> Flags:
        fits: Flags = records_BX.view(np.uint64)[:, -1] == self._check_words(records_BX, rows_B)
        return fits

    def _opened(self, rows_B: Rows, create: bool = False) -> Iterator[tuple[CacheBlock, Rows, Rows]]:
        """Each block that holds some of the rows, which of them, and their places in it; absent blocks are left out."""
        block_B = rows_B // self.shape.block_rows
        order = np.argsort(block_B, kind="stable")
        starts = np.flatnonzero(np.diff(block_B[order], prepend=-1))
        for at in np.split(order, starts[1:]) if len(order) else []:
            index = int(block_B[at[0]])
            block = self._block(index, create)
            if block is not None:
                yield block, at, rows_B[at] - index * self.shape.block_rows

    def _block(self, index: int, create: bool = False) -> CacheBlock | None:
        known = self._blocks.get(index)
        if known is not None and known.alive():
            return known
        if index in self._blocks and known is None and not create:
            return None
        self._blocks[index] = None
        try:
            self._blocks[index] = self._open(index, create)
        except OSError as error:
            if create:
                raise
            if error.errno != errno.ENOENT:
                self.trouble = f"{self.folder}: {error.strerror or error}"
        return self._blocks[index]

    def _open(self, index: int, create: bool) -> CacheBlock | None:
        path = self._path(index)
        if not path.exists() and not self._seeded(path):
            if not create:
                return None
            self._begin()
        try:
            fd, writable = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644), True
        except (PermissionError, IsADirectoryError):
            fd, writable = os.open(path, os.O_RDONLY), False
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            fd, writable = os.open(path, os.O_RDONLY), False
        try:
            size = os.fstat(fd).st_size
            if size == 0 and create:
                os.ftruncate(fd, self.shape.block_bytes)
                # No holes where marks are: in a full memory file system, reading one kills.
                os.pwrite(fd, bytes(self.shape.data_offset), 0)
            elif size != self.shape.block_bytes:  # of size 0: another process is about to give it its size
                if size and writable:
                    path.unlink(missing_ok=True)
                os.close(fd)
                return self._open(index, create) if size and writable else None
        except OSError:
            os.close(fd)
            raise
        try:
            return CacheBlock(fd, self.shape, writable)
        except ValueError:  # cut off this very moment
            return None

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}{SUFFIX}"

    def _begin(self) -> None:
        """Makes the folder and writes what it is, unless that is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if read_header(self.folder) is not None:
            return
        content = {"format": FORMAT, "facts": self.facts, "about": self.about, "created": time.time()}
        atomic.write(self.folder / HEADER, json.dumps(content | {"hash": header_hash(content)}, indent=1))

    def _seeded(self, path: Path) -> bool:
        """Copies a block from shared storage, where it is there and fits; whether it did."""
        if self.seed_from is None:
            return False
        source = self.seed_from / self.key / path.name
        try:
            facts = source.stat()
            if facts.st_size != self.shape.block_bytes or not self._fits_in(taken(facts)):
                return False
            self._begin()
            with atomic.beside(path) as temporary:
                copy_sparse(source, temporary)
        except OSError:
            return False
        return True

    # ---------------------------------------------------------------------------------------------------- room

    def _room(self, rows: int) -> bool:
        """Whether so many more rows may be written; makes room by dropping what nobody uses."""
        if time.monotonic() < self._stopped_until:
            return False
        needed = rows * (self.shape.record + PAGE)
        if self._budget < needed:
            if not self._fits_in(needed):
                return False
            self._budget = max(needed, min(self.limits.measure_bytes, self._left()))
        self._budget -= needed
        return True

    def _fits_in(self, needed: int) -> bool:
        try:
            if self._left() < needed:
                more = max(needed, self.limits.measure_bytes) - self._left()
                drop_idle(self.location, self.folder, more, self.limits.idle_s)
            left = self._left()
        except OSError as error:
            self._stop(f"{self.location}: {error.strerror or error}")
            return False
        if left < needed:
            self._stop(f"{self.location}: no room left (teacher_cache.max_mib, or the disk)")
        return left >= needed

    def _left(self) -> int:
        """Bytes that may still be written: of the bound, and of the disk."""
        there = self.location
        while not there.exists():
            there = there.parent
        facts = os.statvfs(there)
        left = facts.f_bavail * facts.f_frsize - self.limits.spare_bytes
        if self.max_bytes is None:
            return left
        return min(left, self.max_bytes - sum(taken(facts) for _, facts in block_files(self.location)))

    def _stop(self, reason: str) -> None:
        self.trouble, self._budget = reason, 0
        self._stopped_until = time.monotonic() + self.limits.retry_s


def _chunks(places: Rows) -> Iterator[Rows]:
    for start in range(0, len(places), CHUNK):
        yield places[start : start + CHUNK]
