"""Decoded data sets on disk: uint8 memory maps that every later start, and every process of a node, shares.

A set is keyed by the content of the files it was read from. Size and modification time of the files are a shortcut
to that key, so that an unchanged set is found without reading it. Encoded images of a set that streams are kept the
same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from akdtune import atomic, progress
from akdtune.errors import DataError
from akdtune.folders import cache_directory

Kept = TypeVar("Kept")
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

FORMAT = 1
"""Part of every key: a change of what is stored makes old stores unused, not wrong."""

READING = 2
"""Part of where a set is kept, but not of its content hash: how files become pixels (2: of more than 8 bits, too)."""


@dataclass(frozen=True)
class Stored:
    """A data set as stored, before any split or noise.

    Attributes:
        train_images, test_images: uint8 [N, C, H, W].
        train_labels, test_labels: int64 [N].
        num_classes: K; labels are 0..K-1.
        mean, std: per channel, on the scale 0..1.
        content_hash: of all images and labels.
        classes: what the labels 0..K-1 stand for, where files name it.
        notes: sentences on what was left out, or is odd.
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str
    classes: tuple[str | int, ...] | None = None
    notes: tuple[str, ...] = ()


def content_hash(arrays: Sequence[npt.NDArray[Any]], num_classes: int) -> str:
    """Hash of the arrays' shapes and bytes, 32 hex digits."""
    digest = hashlib.sha256(f"{FORMAT}/{num_classes}".encode())
    for array in arrays:
        digest.update(f"/{array.dtype.str}{array.shape}/".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def channel_statistics(images_NCHW: Images, chunk: int = 4096) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all images, on the scale 0..1; a flat channel has std 1."""
    count = len(images_NCHW) * images_NCHW.shape[2] * images_NCHW.shape[3]
    histogram = np.zeros((images_NCHW.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images_NCHW), chunk):
        for channel in range(images_NCHW.shape[1]):
            histogram[channel] += np.bincount(images_NCHW[start : start + chunk, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    mean = histogram @ values / count
    std = np.sqrt(np.maximum(histogram @ values**2 / count - mean**2, 0))
    return tuple(float(m) for m in mean), tuple(float(s) if s > 0 else 1.0 for s in std)


def stored(
    files: Sequence[Path],
    options: Mapping[str, Any],
    read: Callable[[Path], Mapping[str, Any]],
    facts: Sequence[Any] | None = None,
) -> Stored:
    """The decoded set of these files: found by content, or read once.

    Args:
        files: everything the set is read from.
        options: what else changes the result, as plain JSON.
        read: writes `{train,test}_{images,labels}.npy` into the given folder and returns num_classes, mean and std,
            and where there are any `classes` and `notes`.
        facts: size and modification time of all files, as plain JSON, where they are known; None: looked up.

    Raises:
        DataError: for a cache folder that cannot be written; `read` raises its own for bad files.
    """

    def build(folder: Path, contents: str) -> Mapping[str, Any]:
        meta = dict(read(folder))
        return meta | {"content_hash": content_hash(_arrays(folder), meta["num_classes"])}

    return kept(files, options, build, _open, facts)


def kept(
    files: Sequence[Path],
    options: Mapping[str, Any],
    build: Callable[[Path, str], Mapping[str, Any]],
    opened: Callable[[Path], Kept],
    facts: Sequence[Any] | None = None,
) -> Kept:
    """What lies in the folder of the cache that belongs to these files; the folder is built once.

    Args:
        files: everything the folder is built from.
        options: what else changes the result, as plain JSON.
        build: fills the folder it is given; its second argument is a hash of contents and options. What it returns
            stands in `meta.json`.
        opened: reads the folder; where it cannot, because files in it are damaged, the folder is built again.
        facts: as for `stored`.

    Raises:
        DataError: for a cache folder that cannot be written; `build` raises its own.
    """
    folder = _kept_folder(files, options, build, facts)
    try:
        return opened(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        shutil.rmtree(folder, ignore_errors=True)
    return opened(_kept_folder(files, options, build, facts))


def _kept_folder(
    files: Sequence[Path],
    options: Mapping[str, Any],
    build: Callable[[Path, str], Mapping[str, Any]],
    facts: Sequence[Any] | None,
) -> Path:
    root = cache_directory() / "data"
    try:
        shortcut = root / "index" / f"{_quick_key(files, options, facts)}.json"
        if (folder := _follow(shortcut, root)) is not None:
            return folder
        shortcut.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(root / "store.lock")):
            contents = _content_key(files, options)
            key = hashlib.sha256(f"{contents}/{READING}".encode()).hexdigest()[:32]
            if not (root / key / "meta.json").exists():
                with progress.stage(f"decoding {options.get('name', 'images')} (once, later starts open the result)"):
                    _build(root, key, lambda folder: build(folder, contents))
            atomic.write(shortcut, json.dumps({"key": key}))
        return root / key
    except OSError as error:
        raise DataError(f"cannot use the cache folder {root} ({error}); AKDTUNE_CACHE names another one") from error


def read_meta(folder: Path) -> dict[str, Any]:
    """What `build` returned for a folder of the cache."""
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return meta


def remembered(
    files: Sequence[Path], options: Mapping[str, Any], find_out: Callable[[], Any], parse: Callable[[Any], Kept]
) -> Kept:
    """What is known about these files, found out (as plain JSON) once as long as sizes and modification times stay.

    Raises:
        DataError: for a cache folder that cannot be written; `find_out` raises its own.
    """
    root = cache_directory() / "data"
    try:
        note = root / "index" / f"{_quick_key(files, options, None)}.json"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return parse(json.loads(note.read_text(encoding="utf-8")))
        facts = find_out()
        note.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(note, json.dumps(facts))
        return parse(facts)
    except OSError as error:
        raise DataError(f"cannot use the cache folder {root} ({error}); AKDTUNE_CACHE names another one") from error


def file_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def new_memory_map(target: Path, shape: tuple[int, ...]) -> Images:
    """A new .npy memory map with its disk space taken: writing to a hole on a full disk would kill the process."""
    images: Images = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with target.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, target.stat().st_size)
    return images


def _quick_key(files: Sequence[Path], options: Mapping[str, Any], facts: Sequence[Any] | None) -> str:
    if facts is None:
        facts = [_looked_up(file) for file in files]
    return hashlib.sha256(json.dumps([FORMAT, READING, facts, options], sort_keys=True).encode()).hexdigest()[:32]


def _looked_up(file: Path) -> tuple[str, int, int]:
    try:
        return str(file.resolve()), *file_stamp(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error


def _content_key(files: Sequence[Path], options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, options], sort_keys=True).encode())
    for file in files:
        of_file = hashlib.sha256()
        try:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    of_file.update(block)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
        digest.update(of_file.digest())
    return digest.hexdigest()[:32]


def _follow(shortcut: Path, root: Path) -> Path | None:
    try:
        folder = root / str(json.loads(shortcut.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if (folder / "meta.json").exists() else None


def _build(root: Path, key: str, build: Callable[[Path], Mapping[str, Any]]) -> None:
    for abandoned in root.glob(".building-*"):  # we hold the lock: whoever made these is gone
        shutil.rmtree(abandoned)
    building = root / f".building-{key}"
    building.mkdir()
    try:
        atomic.write(building / "meta.json", json.dumps(build(building)))
        if (root / key).exists():  # without meta.json, so not ours to keep
            shutil.rmtree(root / key)
        building.replace(root / key)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _arrays(folder: Path) -> tuple[Images, Labels, Images, Labels]:
    def mapped(name: str) -> npt.NDArray[Any]:
        # Copy-on-write: torch warns about read-only arrays; nobody writes, so all processes share the pages.
        array: npt.NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="c")
        return array

    return mapped("train_images"), mapped("train_labels"), mapped("test_images"), mapped("test_labels")


def _open(folder: Path) -> Stored:
    facts = read_meta(folder)
    return Stored(
        *_arrays(folder),
        num_classes=int(facts["num_classes"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        content_hash=str(facts["content_hash"]),
        classes=None if facts.get("classes") is None else tuple(facts["classes"]),
        notes=tuple(facts.get("notes", ())),
    )
