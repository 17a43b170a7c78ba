"""Image files in class folders: walked as torchvision's ImageFolder walks, everything that is left out counted."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune.data.store import Labels, file_stamp
from akdtune.errors import DataError, printable, unknown_name

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .bmp .dib .gif .webp .avif .ppm .pgm .pbm .pnm .pfm .tif .tiff .jp2 .j2k .jpx "
    ".j2c .jpc .tga .pcx .sgi .qoi".split()
)
"""Files that are taken for images: torchvision's and whatever else Pillow reads; others are counted as left out."""

_Row = tuple[bytes, int, int, int, int, int]
"""Name, label, size, modification time, device and inode of a file."""


@dataclass
class LeftOut:
    """Files of a training or test folder that are no part of the data set, counted by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, path: str | Path) -> None:
        """Counts one file or folder."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, printable(str(path)))

    def sentences(self) -> list[str]:
        """One sentence for each reason."""
        return [
            f"left out: {count:,} {'entries' if count > 1 else 'entry'} {reason} (e.g. {self.examples[reason]})"
            for reason, count in self.counts.items()
        ]


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels.

    Attributes:
        root: folder that the names are relative to.
        names_N: as bytes; an array, because it goes to other processes.
        labels_N: int64.
        stamps_N2: size in bytes and modification time of each file, int64.
        places_N2: device and inode of each file, uint64: equal where two names are one file.
    """

    root: Path
    names_N: npt.NDArray[np.bytes_]
    labels_N: Labels
    stamps_N2: npt.NDArray[np.int64]
    places_N2: npt.NDArray[np.uint64]

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

    def some(self, rows: npt.NDArray[np.int64]) -> ImageFiles:
        """Some of the files."""
        return ImageFiles(
            self.root, self.names_N[rows], self.labels_N[rows], self.stamps_N2[rows], self.places_N2[rows]
        )


def named_folders(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders in `root` of these names, in the order of the names; as written, or else in other letter cases."""
    if not is_folder(root):
        return []
    every = sorted(entry.name for entry in _entries(root) if _is_folder(entry))
    return [root / found for name in names for found in sorted(every, key=name.__ne__) if found.lower() == name]


def class_names(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    """The class folders of a training folder, sorted; a class is numbered by its place here.

    Args:
        folder: e.g. `root/train`.
        left_out: counts image files that lie beside the class folders.

    Raises:
        DataError: naming the folder that is missing or empty, or a link to nowhere.
    """
    names = []
    for entry in _entries(folder):
        if _is_folder(entry):
            names.append(entry.name)
        elif is_image(entry.name) and left_out is not None:
            left_out.add("outside of every class folder", entry.path)
        elif entry.is_symlink() and not Path(entry.path).exists():
            raise _dangling(entry.path)
    if not names:
        raise DataError(f"{folder}: no class folders in it; expected one folder of images for each class")
    return sorted(names)


def listed(
    folder: Path, classes: Sequence[str], inner: str = "", *, may_be_empty: bool = False, left_out: LeftOut
) -> ImageFiles:
    """The image files of a folder with one folder for each class, in the order of classes, folders and names.

    Args:
        folder: e.g. `root/train`.
        classes: folder names by label; those that are not there have no images.
        inner: folder within each class folder that holds the files; the class folder itself where it is missing.
        may_be_empty: whether a class folder may hold no image.
        left_out: counts what is no image.

    Raises:
        DataError: naming a folder that is missing, empty, or of an unknown class, or a file that is not there.
    """
    present = class_names(folder, left_out)
    for name in present:
        if name not in classes:
            raise DataError(f"{folder / name}: {unknown_name('class', name, classes)}")
    rows: list[_Row] = []
    for label, name in enumerate(classes):
        if name not in present:
            continue
        inside = folder / name / inner
        inside = inside if is_folder(inside) else folder / name
        before = len(rows)
        for below, entry in _walked(inside, left_out):
            status = _status(entry)
            stamps = (status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)
            rows.append((os.fsencode(str(inside.relative_to(folder) / below / entry.name)), label, *stamps))
        if len(rows) == before and not may_be_empty:
            raise DataError(f"{inside}: no image files in it ({', '.join(sorted(SUFFIXES))})")
    if not rows:
        raise DataError(f"{folder}: no image files in its class folders ({', '.join(sorted(SUFFIXES))})")
    return _files(folder, rows)


def annotated(folder: Path, annotations: Path, classes: Sequence[str]) -> ImageFiles:
    """The files that a table names (file, tab, class, tab, anything), as in Tiny ImageNet's validation folder.

    Raises:
        DataError: naming the file that is missing, or the line that is wrong.
    """
    labels = {name: label for label, name in enumerate(classes)}
    rows: list[_Row] = []
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{annotations}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        name, _, rest = line.partition("\t")
        of_class = rest.partition("\t")[0]
        if of_class not in labels:
            raise DataError(f"{annotations}:{number}: class '{of_class}' is not among the training folders")
        try:
            status = (folder / name).stat()
            stamps = (*file_stamp(folder / name), status.st_dev, status.st_ino)
        except OSError as error:
            raise DataError(f"{folder / name}: no such file, but {annotations}:{number} names it") from error
        rows.append((os.fsencode(name), labels[of_class], *stamps))
    if not rows:
        raise DataError(f"{annotations}: no lines")
    return _files(folder, sorted(rows))


def held_out(files: ImageFiles, classes: Sequence[str], share: float) -> tuple[ImageFiles, ImageFiles]:
    """Training and test files: of each class a share, chosen by hashes of names: a new file moves one old one at most.

    Raises:
        DataError: for a class of a single image.
    """
    chosen = np.zeros(len(files), dtype=bool)
    for label, name in enumerate(classes):
        rows = np.flatnonzero(files.labels_N == label)
        if len(rows) < 2:
            raise DataError(f"{files.at(int(rows[0]))[1]}: the only image of class '{name}', which data.split divides")
        hashes = [hashlib.sha256(bytes(files.names_N[row])).digest() for row in rows]
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        chosen[rows[sorted(range(len(rows)), key=hashes.__getitem__)[:count]]] = True
    return files.some(np.flatnonzero(~chosen)), files.some(np.flatnonzero(chosen))


def refuse_nested(train: Path, test: Path) -> None:
    """Refuses a test folder that is the training folder, or lies in it, or the other way round."""
    inner, outer = train.resolve(), test.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise DataError(
            f"{test}: is the training folder {train} itself, or one lies in the other; no image may be in both sets"
        )


def refuse_shared(train: ImageFiles, test: ImageFiles) -> None:
    """Refuses a file that is in the training and in the test set, by whatever name.

    Raises:
        DataError: naming it, and both of its names where they differ.
    """
    place = np.dtype([("device", "u8"), ("inode", "u8")])
    of_train, of_test = (files.places_N2.view(place).reshape(-1) for files in (train, test))
    _, in_train, in_test = np.intersect1d(of_train, of_test, return_indices=True)
    if not in_train.size:
        return
    first, other = train.at(int(in_train[0]))[1], test.at(int(in_test[0]))[1]
    names = first if first == other else f"{first} and {other} are one file: it"
    count = f" (as are {in_train.size - 1:,} others)" if in_train.size > 1 else ""
    raise DataError(f"{names} is in the training set and in the test set{count}; no image may be in both")


def is_folder(path: Path) -> bool:
    """Whether a folder is there.

    Raises:
        DataError: where that may not be seen.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise _unreadable(path, error) from error


def is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its suffix."""
    return f".{name.rpartition('.')[2].lower()}" in SUFFIXES


def _walked(top: Path, left_out: LeftOut) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All image files below a folder, links followed, each with its folder below `top`, in torchvision's order."""
    found: list[tuple[str, list[os.DirEntry[str]]]] = []

    def enter(below: str, above: tuple[tuple[int, int], ...]) -> None:
        folder = top / below
        try:
            status = folder.stat()
        except OSError as error:
            raise _unreadable(folder, error) from error
        if (place := (status.st_dev, status.st_ino)) in above:
            raise DataError(f"{folder}: link that leads back to a folder it lies in; remove it")
        files = []
        for entry in _entries(folder, left_out):
            if _is_folder(entry):
                enter(f"{below}/{entry.name}" if below else entry.name, (*above, place))
            elif is_image(entry.name):
                files.append(entry)
            else:
                suffix = Path(entry.name).suffix.lower()
                left_out.add(f"ending in {printable(suffix)}" if suffix else "without a suffix", entry.path)
        found.append((below, files))

    enter("", ())
    for below, files in sorted(found, key=lambda one: str(top / one[0])):
        for entry in files:
            yield below, entry


def _files(root: Path, rows: Sequence[_Row]) -> ImageFiles:
    stamps_N2 = np.asarray([row[2:4] for row in rows], dtype=np.int64)
    places_N2 = np.asarray([row[4:] for row in rows], dtype=np.uint64)
    labels_N = np.asarray([row[1] for row in rows], dtype=np.int64)
    return ImageFiles(root, np.asarray([row[0] for row in rows]), labels_N, stamps_N2, places_N2)


def _entries(folder: Path, left_out: LeftOut | None = None) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, by name; what begins with a dot is passed over."""
    try:
        with os.scandir(folder) as entries:
            every = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        reason = "no such folder" if error.errno == errno.ENOENT else f"cannot be read ({error.strerror})"
        raise DataError(f"{folder}: {reason}") from error
    for entry in every:
        if not entry.name.startswith("."):
            yield entry
        elif left_out is not None and (is_image(entry.name) or _is_folder(entry)):
            left_out.add("whose name begins with a dot", entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        raise _unreadable(entry.path, error) from error


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        status = entry.stat()
    except OSError as error:
        raise _unreadable(entry.path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{entry.path}: named like an image, but it is no file; remove it")
    return status


def _unreadable(path: str | Path, error: OSError) -> DataError:
    if error.errno == errno.ELOOP:
        return DataError(f"{path}: link that leads back to itself; remove it")
    if error.errno == errno.ENOENT and Path(path).is_symlink():
        return _dangling(path)
    return DataError(f"{path}: cannot be read ({error.strerror or error})")


def _dangling(path: str | Path) -> DataError:
    return DataError(
        f"{path}: link to {Path(path).readlink()}, which is not there; remove the link or restore the file"
    )
