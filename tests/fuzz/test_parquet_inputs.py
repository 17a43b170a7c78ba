"""Parquet files of every kind of schema, value and damage: a data set or one of our errors, never a traceback.

`python -m tests.fuzz.test_parquet_inputs 2000` tries that many and counts.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from akdtune.data.dataset import load_data
from akdtune.errors import AkdtuneError
from akdtune.settings.data import DataSettings

BOUND_S = 30.0
"""Far above what reading a dozen rows takes: only what hangs is longer."""


def encoded(image: Any, of_format: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, of_format, **more)
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8)
GREY = Image.fromarray(RAMP)
COLOUR = Image.merge("RGB", [GREY] * 3)
SOUND = [
    encoded(COLOUR, "PNG"),
    encoded(GREY, "PNG"),
    encoded(COLOUR, "JPEG", exif=turned()),
    encoded(COLOUR.convert("P"), "GIF"),
    encoded(Image.fromarray(RAMP.astype(np.uint16) * 1000), "PNG"),
    encoded(Image.merge("LA", [GREY, GREY]), "PNG"),
    encoded(COLOUR.convert("CMYK"), "JPEG"),
    encoded(GREY.convert("1"), "TIFF"),
]
ODD = [
    encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    encoded(COLOUR.resize((9, 5)), "PNG"),
    encoded(COLOUR.resize((1, 300)), "PNG"),
    b"",
    b"no image",
    None,
]

images = st.sampled_from(SOUND)
damaged = st.tuples(images, st.integers(0, 80), st.integers(0, 255)).map(
    lambda of: of[0][: of[1]] + bytes([of[2]]) + of[0][of[1] + 1 :]
)
cut = st.tuples(images, st.integers(0, 70)).map(lambda of: of[0][: of[1]])
image = st.one_of(images, images, images, st.sampled_from(ODD), damaged, cut)
path = st.sampled_from(["a.png", "nowhere.png", "../a.png", "", "x" * 300, "a\0b", "http://host/a.png", None, "."])
number = st.one_of(st.integers(0, 3), st.integers(0, 3), st.sampled_from([-1, 7, 2**31, 2**63 - 1]), st.none())
name = st.one_of(st.sampled_from(["cat", "dog", "0", "1"]), st.text(max_size=4), st.none())

LABEL_TYPES = [pa.int64(), pa.int8(), pa.uint64(), pa.int32(), pa.bool_(), pa.float32(), pa.string(), pa.large_string(),
               pa.string_view(), pa.binary(), pa.null(), pa.date32(), pa.list_(pa.int64()), pa.decimal128(9, 2),
               pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.int64())]  # fmt: skip
IMAGE_TYPES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary()), pa.string(),
               pa.int64(), pa.list_(pa.uint8()), pa.null(), pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
               pa.struct([("path", pa.string())]), pa.struct([("bytes", pa.null()), ("path", pa.string())]),
               pa.struct([("bytes", pa.string()), ("x", pa.int8())]),
               pa.struct([("path", pa.large_string()), ("bytes", pa.binary_view())])]  # fmt: skip


STANDARD = ("image", "label")


def column(values: list[Any], kind: Any) -> Any:
    """The values as that type, or nulls where they cannot be."""
    try:
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        made = pa.array(values, inner)
        return made.dictionary_encode() if pa.types.is_dictionary(kind) else made
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.nulls(len(values), kind)


@st.composite
def tables(draw: st.DrawFn) -> Any:
    odd = draw(st.sampled_from([None] * 4 + ["count", "image", "image", "label", "label", "names"]))  # one thing a file
    count = draw(st.integers(0, 1)) if odd == "count" else draw(st.integers(2, 6))
    of_image = draw(st.sampled_from(IMAGE_TYPES if odd == "image" else [*IMAGE_TYPES[:4], IMAGE_TYPES[8]]))
    of_label = draw(st.sampled_from(LABEL_TYPES if odd == "label" else [*LABEL_TYPES[:4], *LABEL_TYPES[6:9]]))
    pictures = draw(st.lists(image if odd == "image" else images, min_size=count, max_size=count))
    rows: list[Any] = pictures
    if pa.types.is_struct(of_image):
        paths = draw(st.lists(path, min_size=count, max_size=count))
        held = ({"bytes": picture, "path": where, "x": None} for picture, where in zip(pictures, paths, strict=True))
        keys = {field.name for field in of_image}
        rows = [{k: v for k, v in row.items() if k in keys} for row in held]
        rows = [draw(st.sampled_from([row, row, None])) for row in rows] if odd == "image" else rows
    label = name if "string" in str(of_label) else number
    usual = st.sampled_from(["cat", "dog"]) if "string" in str(of_label) else st.integers(0, 2)
    labels = draw(st.lists(label if odd == "label" else usual, min_size=count, max_size=count))
    names = (
        draw(st.sampled_from([("image", "image"), ("x", "label"), ("a.b", "label")])) if odd == "names" else STANDARD
    )
    return pa.Table.from_arrays([column(rows, of_image), column(labels, of_label)], names=list(names))


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A training and a test file; the latter mostly of the same rows, so that the former is what is odd."""
    train = draw(tables())
    how = draw(st.sampled_from(["rows", "rows", "rows", "any"]))
    test = draw(tables()) if how == "any" else train.slice(0, draw(st.integers(1, 2)))
    return draw(written(train)), draw(written(test))


@st.composite
def written(draw: st.DrawFn, table: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        pq.write_table(table, buffer, row_group_size=draw(st.sampled_from([1, 3, 100])),
                       use_dictionary=draw(st.booleans()), write_statistics=draw(st.booleans()))  # fmt: skip
    except (pa.ArrowException, OSError):
        return b"PAR1"
    whole = buffer.getvalue()
    how = draw(st.sampled_from(["whole"] * 12 + ["cut", "flipped", "text"]))
    at = draw(st.integers(0, len(whole) - 1))
    if how == "cut":
        return whole[:at]
    if how == "flipped":
        return whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
    return b"label,image\n1,x\n" if how == "text" else whole


USUAL: dict[str, Any] = {"size": 8, "stream": "never", "num_classes": None, "validation": 1, "train": "train.parquet"}
other = st.sampled_from(
    [("stream", "always")] * 8
    + [("size", None)] * 2
    + [("num_classes", 1), ("num_classes", 3), ("num_classes", 9), ("validation", 0), ("validation", 0.5)]
    + [("train", pattern) for pattern in ("*.parquet", "[", "**x", "no*", ".")]
    + [("image_column", "a.b"), ("label_column", "image"), ("image_column", "img")]
)
asked = st.lists(other, max_size=2).map(lambda changes: USUAL | dict(changes))
folders = itertools.count()


def outcome(folder: Path, train: bytes, test: bytes, wanted: dict[str, Any]) -> str:
    """`read`, or the first words of our error."""
    folder = folder / str(next(folders))
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(SOUND[0])
    (folder / "train.parquet").write_bytes(train)
    (folder / "test.parquet").write_bytes(test)
    started = time.monotonic()
    try:
        dataset = load_data(
            DataSettings(**{"name": "parquet", "root": str(folder), "test": "test.parquet", "workers": 0} | wanted),
            torch.device("cpu"),
        )
        full = dataset.split("full")
        list(full.train.epoch(0, 1, 4))
        list(full.test.plain_batches(4))
        assert int(full.train.labels_N.max()) < dataset.num_classes
        said = "read"
    except AkdtuneError as error:
        said = str(error)
        assert said
        assert "Traceback" not in said
        assert " object at 0x" not in said
    assert time.monotonic() - started < BOUND_S
    return said


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AKDTUNE_CACHE", str(tmp_path_factory.mktemp("fuzzed") / "cache"))
        yield


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(both=files(), wanted=asked)
def test_any_parquet_file_is_a_data_set_or_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, both: tuple[bytes, bytes], wanted: dict[str, Any]
) -> None:
    outcome(tmp_path_factory.getbasetemp() / "parquet", *both, wanted)


def count(examples: int) -> Counter[str]:
    """Tries that many inputs and counts how they end; what is no error of ours is printed with its input."""
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AKDTUNE_CACHE"] = f"{folder}/cache"
        warnings.simplefilter("error")

        @seed(13)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(both=files(), wanted=asked)
        def tried(both: tuple[bytes, bytes], wanted: dict[str, Any]) -> None:
            try:
                said = outcome(Path(folder), *both, wanted)
                ends["read" if said == "read" else "refused"] += 1
                kinds[re.sub(r"\d+", "N", said.replace(folder, ""))[:110]] += 1
            except Exception as error:
                ends[f"TRACEBACK {type(error).__name__}: {str(error)[:120]}"] += 1

        tried()
    return ends


kinds: Counter[str] = Counter()

if __name__ == "__main__":
    run: Callable[[int], Counter[str]] = count
    for end, times in run(int(sys.argv[1])).most_common():
        print(f"{times:6d} {end}")
    for end, times in kinds.most_common(25):
        print(f"    {times:6d} {end}")
