"""Any Parquet files with an encoded image column as a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.data_sources import STREAMING_SETTINGS, DataSettings, Source
from akdtune.data_store import Stored, channel_statistics, kept_folder, read_meta, remembered, stored
from akdtune.decoding import Square
from akdtune.errors import DataError
from akdtune.parquet_images import (
    Columns,
    KeptImages,
    count_classes,
    count_rows,
    decode_files,
    first_shape,
    keep_encoded,
)
from akdtune.registry import register
from akdtune.streaming import EncodedPixels, Streamed, sampled_statistics, too_large


@register("parquet", kind="data")
class Parquet(Source):
    """Any Parquet files with an encoded image column and an integer label column.

    Pad an eighth of the size and flip colour images, unless `augmentation` says otherwise; mean and standard
    deviation are those of the training files, unless `mean` and `std` are set. Images of different sizes need `size`:
    the shorter side is resized to it and the middle cut out. A set that streams is copied into the cache once, still
    encoded, because single rows cannot be read from Parquet.
    """

    own_settings = STREAMING_SETTINGS | {"root", "train", "test", "image_column", "label_column", "num_classes"}
    required_settings = ("train", "test")

    @classmethod
    def missing(cls, settings: DataSettings) -> list[str]:
        """The names and patterns under `train` and `test` that match no file."""
        return [pattern for role in ("train", "test") for pattern, files in _matches(settings, role) if not files]

    @classmethod
    def read(cls, settings: DataSettings) -> Stored | Streamed:
        """Reads the files once, into a memory map or, where that is too large, as they are; later starts open that."""
        files: dict[str, list[Path]] = {}
        for role in ("train", "test"):
            matches = _matches(settings, role)
            for pattern, found in matches:
                if not found:
                    raise DataError(f"data.{role}: no file matches {pattern}")
            files[role] = list(dict.fromkeys(file for _, found in matches for file in found))
        options = {
            "name": "parquet",
            "files": [len(files["train"]), len(files["test"])],
            "columns": [settings.image_column, settings.label_column],
            "num_classes": settings.num_classes,
        }
        if settings.size is not None:
            options["size"] = settings.size
        columns = Columns(settings.image_column, settings.label_column)
        square = None if settings.size is None else Square(settings.size, settings.size)
        if cls._streams(settings, files, columns, square):
            return cls._streamed(files, columns, square, options, settings.num_classes)

        def write(folder: Path) -> Mapping[str, Any]:
            shape: tuple[int, ...] | None = None
            num_classes = settings.num_classes
            for role in ("train", "test"):
                target = folder / f"{role}_images.npy"
                images, labels = decode_files(files[role], columns, target, shape, num_classes, square)
                np.save(folder / f"{role}_labels.npy", labels)
                if role == "train":
                    shape, num_classes = images.shape[1:], num_classes or count_classes(labels, files[role])
                    mean, std = channel_statistics(images)
            return {"num_classes": num_classes, "mean": mean, "std": std}

        return stored([*files["train"], *files["test"]], options, write)

    @classmethod
    def _streams(
        cls, settings: DataSettings, files: Mapping[str, list[Path]], columns: Columns, square: Square | None
    ) -> bool:
        if settings.stream == "never":
            return False
        every = [*files["train"], *files["test"]]

        def find_out() -> list[int]:
            return [count_rows(every), *first_shape(every[0], columns, square)]

        options = {"probe": [settings.image_column, settings.label_column, settings.size]}
        return too_large(settings.stream, settings.memory_mib, math.prod(remembered(every, options, find_out)))

    @classmethod
    def _streamed(
        cls,
        files: Mapping[str, list[Path]],
        columns: Columns,
        square: Square | None,
        options: Mapping[str, Any],
        num_classes: int | None,
    ) -> Streamed:
        def build(folder: Path, key: str) -> Mapping[str, Any]:
            shape, known, facts = first_shape(files["train"][0], columns, square), num_classes, {}
            for role in ("train", "test"):
                ends, labels, file_ends = keep_encoded(files[role], columns, folder / f"{role}.bin", known)
                known = known or count_classes(labels, files[role])
                np.save(folder / f"{role}_ends.npy", ends)
                np.save(folder / f"{role}_labels.npy", labels)
                facts[f"{role}_file_ends"] = file_ends
                if role == "train":
                    of_train = KeptImages(folder / "train.bin", ends, _names(files[role]), tuple(file_ends))
                    whole = square or Square(shape[1], shape[1])
                    mean, std = sampled_statistics(EncodedPixels(of_train, shape[0], whole, exact=square is None))
            return {"num_classes": known, "shape": list(shape), "mean": mean, "std": std, "content_hash": key, **facts}

        every = [*files["train"], *files["test"]]
        folder = kept_folder(every, {**options, "encoded": True}, build)
        facts = read_meta(folder)
        kept = {}
        for role in ("train", "test"):
            ends = np.load(folder / f"{role}_ends.npy")
            path = folder / f"{role}.bin"
            kept[role] = KeptImages(path, ends, _names(files[role]), tuple(facts[f"{role}_file_ends"]))
        return Streamed(
            train=kept["train"],
            train_labels=np.load(folder / "train_labels.npy"),
            test=kept["test"],
            test_labels=np.load(folder / "test_labels.npy"),
            num_classes=int(facts["num_classes"]),
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            content_hash=str(facts["content_hash"]),
            channels=int(facts["shape"][0]),
            square=square or Square(int(facts["shape"][1]), int(facts["shape"][1])),
            exact=square is None,
        )


def _names(files: list[Path]) -> tuple[str, ...]:
    return tuple(str(file) for file in files)


def _matches(settings: DataSettings, role: str) -> list[tuple[str, list[Path]]]:
    """Each pattern under `train` or `test`, made absolute, with the files it matches, sorted by name."""
    value = getattr(settings, role)
    base = Path(settings.root).expanduser() if settings.root else Path.cwd()
    found = []
    for pattern in [value] if isinstance(value, str) else value or []:
        path = base / Path(pattern).expanduser()
        plain = next((i for i, part in enumerate(path.parts) if set(part) & set("*?[")), len(path.parts) - 1)
        files = [path] if path.is_file() else sorted(Path(*path.parts[:plain]).glob("/".join(path.parts[plain:])))
        found.append((str(path), [file for file in files if file.is_file()]))
    return found
