"""Image files in one folder for each class: what is there, decoded, or named for reading later."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune.data_store import Images, Labels, file_stamp, new_memory_map
from akdtune.decoding import Square, open_image, pixels, squared
from akdtune.errors import DataError, unknown_name

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
HEAD_BYTES = 65536
"""How much of a file goes into the content hash of a set that streams."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels.

    Attributes:
        root: folder that the names are relative to.
        names_N: as bytes; an array, because it goes to other processes.
        labels_N: int64.
        stamps_N2: size in bytes and modification time of each file, int64.
    """

    root: Path
    names_N: npt.NDArray[np.bytes_]
    labels_N: Labels
    stamps_N2: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names_N)

    def at(self, row: int) -> tuple[Path, str]:
        """One file, twice: it is its own name in a message."""
        path = self.root / os.fsdecode(bytes(self.names_N[row]))
        return path, str(path)

    def facts(self) -> list[Any]:
        """Names, labels, sizes and times of all files, hashed."""
        names = b"\0".join(self.names_N.tolist())
        parts = (names, self.labels_N.tobytes(), np.ascontiguousarray(self.stamps_N2).tobytes())
        return [str(self.root.resolve()), *(hashlib.sha256(part).hexdigest() for part in parts)]

    def named(self) -> str:
        """Hash of names and labels."""
        return hashlib.sha256(b"\0".join(self.names_N.tolist()) + self.labels_N.tobytes()).hexdigest()


def class_names(folder: Path) -> list[str]:
    """The class folders of a training folder, sorted; a class is numbered by its place here.

    Raises:
        DataError: naming the folder that is missing or empty.
    """
    found = sorted(entry.name for entry in _entries(folder) if entry.is_dir())
    if not found:
        raise DataError(f"{folder}: no class folders in it; expected one folder of images for each class")
    return found


def listed(folder: Path, classes: Sequence[str], inner: str = "") -> ImageFiles:
    """The image files of a folder with one folder for each class, in the order of classes and names.

    Args:
        folder: e.g. `root/train`.
        classes: folder names by label; those that are not there have no images.
        inner: folder within each class folder that holds the files; the class folder itself where it is missing.

    Raises:
        DataError: naming a folder that is missing, empty, or of an unknown class.
    """
    present = class_names(folder)
    for name in present:
        if name not in classes:
            raise DataError(f"{folder / name}: {unknown_name('class', name, classes)}")
    rows: list[tuple[bytes, int, int, int]] = []
    for label, name in enumerate(classes):
        if name not in present:
            continue
        inside = folder / name / inner
        inside = inside if inside.is_dir() else folder / name
        files = sorted((entry for entry in _entries(inside) if _is_image(entry.name)), key=lambda entry: entry.name)
        if not files:
            raise DataError(f"{inside}: no image files in it ({', '.join(sorted(SUFFIXES))})")
        base = inside.relative_to(folder)
        for entry in files:
            found = entry.stat()
            rows.append((os.fsencode(str(base / entry.name)), label, found.st_size, found.st_mtime_ns))
    return _files(folder, rows)


def annotated(folder: Path, annotations: Path, classes: Sequence[str]) -> ImageFiles:
    """The files that a table names (file, tab, class, tab, anything), as in Tiny ImageNet's validation folder.

    Raises:
        DataError: naming the file that is missing, or the line that is wrong.
    """
    labels = {name: label for label, name in enumerate(classes)}
    rows: list[tuple[bytes, int, int, int]] = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, rest = line.partition("\t")
        of_class = rest.partition("\t")[0]
        if of_class not in labels:
            raise DataError(f"{annotations}:{number}: class '{of_class}' is not among the training folders")
        try:
            rows.append((os.fsencode(name), labels[of_class], *file_stamp(folder / name)))
        except OSError as error:
            raise DataError(f"{folder / name}: no such file, but {annotations}:{number} names it") from error
    if not rows:
        raise DataError(f"{annotations}: no lines")
    return _files(folder, sorted(rows))


def decode_folder(files: ImageFiles, target: Path, square: Square) -> Images:
    """All images in one memory map, uint8 [N, 3, size, size].

    Raises:
        DataError: naming the file that cannot be read.
    """
    images = new_memory_map(target, (len(files), 3, square.size, square.size))
    for row in range(len(files)):
        path, where = files.at(row)
        images[row] = pixels(squared(open_image(path, where, channels=3), square))
    return images


def streamed_hash(files: Mapping[str, ImageFiles], rows: Mapping[str, Sequence[int]], options: Sequence[Any]) -> str:
    """Content hash of a set that is never read as a whole, 32 hex digits.

    Of all names, labels and sizes, and of the first 64 KiB of some of the files; not of modification times.

    Args:
        files: by role.
        rows: the files whose contents are read, by role.
        options: what else changes the images, as plain text.
    """
    digest = hashlib.sha256(repr(list(options)).encode())
    for role, found in files.items():
        digest.update(f"/{role}/{found.named()}/".encode())
        digest.update(np.ascontiguousarray(found.stamps_N2[:, 0]).tobytes())
        for row in rows[role]:
            with found.at(row)[0].open("rb") as opened:
                digest.update(hashlib.sha256(opened.read(HEAD_BYTES)).digest())
    return digest.hexdigest()[:32]


def _files(root: Path, rows: Sequence[tuple[bytes, int, int, int]]) -> ImageFiles:
    numbers = np.asarray([row[1:] for row in rows], dtype=np.int64)
    return ImageFiles(root, np.asarray([row[0] for row in rows]), numbers[:, 0].copy(), numbers[:, 1:].copy())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: no such folder, or it cannot be read") from error


def _is_image(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in SUFFIXES
