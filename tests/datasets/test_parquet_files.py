"""Parquet files as people have them: labels of any kind, columns of any type, mixed images, paths, shared files."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from akdtune.data.dataset import DataSet, load_data, missing_files
from akdtune.errors import DataError
from akdtune.settings.data import DataSettings

CPU = torch.device("cpu")
STREAMS = pytest.mark.parametrize("stream", ["never", "always"])


def ppm(red: int) -> bytes:
    """An 8x8 image whose bytes are ours."""
    return b"P6 8 8 255\n" + bytes([red, 0, 0]) * 64


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


GREY = [png(Image.new("L", (8, 8), 10 * index)) for index in range(6)]


def write(path: Path, images: Any, labels: Any, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels}), path, **how)
    return path


def folder(root: Path, train: Any, test: Any) -> Path:
    """A training file and a test file with these labels."""
    write(root / "train.parquet", [ppm(row) for row in range(len(train))], train)
    write(root / "test.parquet", [ppm(100 + row) for row in range(len(test))], test)
    return root


def settings(root: Path, **more: Any) -> DataSettings:
    known = {"name": "parquet", "root": str(root), "train": "train*.parquet", "test": "test.parquet", "validation": 2}
    return DataSettings(**known | more)


def load(root: Path, **more: Any) -> DataSet:
    return load_data(settings(root, **more), CPU)


def labels(dataset: DataSet, role: str = "train") -> list[int]:
    numbers: list[int] = getattr(dataset.split("full"), role).labels_N.tolist()
    return numbers


def reds(dataset: DataSet, role: str = "train") -> list[int]:
    images, split = getattr(dataset, f"{role}_pixels").images, getattr(dataset.split("full"), role)
    red: list[int] = images.plain(torch.arange(len(split)))[:, 0, 0, 0].int().tolist()
    return red


@STREAMS
def test_labels_from_0_are_as_before(tmp_path: Path, stream: str) -> None:
    dataset = load(folder(tmp_path, [0, 1, 2] * 2, [0, 1, 2] * 2), stream=stream)
    assert labels(dataset) == [0, 1, 2] * 2
    assert dataset.classes is None
    assert dataset.notes == ()
    if stream == "never":  # of a stream it is that of the files, whose bytes are Arrow's
        assert dataset.content_hash == "6b70bb0796fb9ea55aec334121015617"


@STREAMS
@pytest.mark.parametrize(("low", "more"), [(1, {}), (1, {"num_classes": 3}), (5, {})])
def test_labels_from_1_train_no_empty_class(tmp_path: Path, stream: str, low: int, more: dict[str, Any]) -> None:
    dataset = load(folder(tmp_path, [low + 2, low, low + 1] * 2, [low + 1, low]), stream=stream, **more)
    assert labels(dataset) == [2, 0, 1] * 2
    assert labels(dataset, "test") == [1, 0]
    assert dataset.num_classes == 3
    assert dataset.classes == (low, low + 1, low + 2)
    assert dataset.notes[0].startswith(
        f"the labels in 'label' are {low}, {low + 1}, {low + 2}: they become classes 0..2"
    )
    again = load(tmp_path, stream=stream, **more)
    assert (again.classes, again.notes) == (dataset.classes, dataset.notes)


def test_labels_with_gaps_become_their_places(tmp_path: Path) -> None:
    dataset = load(folder(tmp_path, pa.array([9, 0, 2**63, 9], pa.uint64()), [0]), validation=0)
    assert labels(dataset) == [1, 0, 2, 1]
    assert dataset.classes == (0, 9, 2**63)
    with pytest.raises(DataError, match=r"test.parquet: row 1: label 5 has no training image \(allowed: 0, 9\)"):
        load(folder(tmp_path, [9, 0, 9], [0, 5]))


def test_classes_without_images_have_to_be_asked_for(tmp_path: Path) -> None:
    dataset = load(folder(tmp_path, [1, 2, 3], [1, 4]), num_classes=5, validation=0)
    assert labels(dataset) == [1, 2, 3]
    assert (dataset.num_classes, dataset.classes) == (5, None)
    with pytest.raises(
        DataError, match=r"row 1: label 2 is out of range \(allowed: 0..1; without data.num_classes the labels that"
    ):
        load(folder(tmp_path, [1, 2, 3], [1]), num_classes=2)


@STREAMS
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_names_are_classes_by_one_sorted_map(tmp_path: Path, stream: str, kind: Any) -> None:
    def of_kind(values: list[str]) -> Any:
        return pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)

    write(tmp_path / "train-0.parquet", [ppm(0), ppm(1)], of_kind(["dog", "cat"]))
    write(tmp_path / "train-1.parquet", [ppm(2), ppm(3)], of_kind(["eel", "ape"]))
    write(tmp_path / "test.parquet", [ppm(4), ppm(5)], of_kind(["eel", "cat"]))
    dataset = load(tmp_path, stream=stream, validation=0)
    assert labels(dataset) == [2, 1, 3, 0]
    assert labels(dataset, "test") == [3, 1]
    assert dataset.classes == ("ape", "cat", "dog", "eel")
    assert dataset.classes_in_words == "4 classes, 0 to 3: ape, cat, dog, eel"
    write(tmp_path / "test.parquet", [ppm(4), ppm(5)], of_kind(["eel", "cta"]))
    with pytest.raises(
        DataError, match=r"test.parquet: row 1: label 'cta' has no training image; did you mean 'cat'\? \(allowed: ape"
    ):
        load(tmp_path, stream=stream)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["cat", None, "dog"], "train.parquet: row 1: no label in 'label'"),
        (["cat", "", "dog"], "train.parquet: row 1: no label in 'label'"),
        ([0, 1, None], "train.parquet: row 2: no label in 'label'"),
        ([0, 1, -1], "train.parquet: row 2: label -1 is out of range (allowed: 0 and above)"),
        ([0.0, 1.0], "train.parquet: labels in 'label' must be integers or text, got double"),
        ([[0], [1]], "train.parquet: labels in 'label' must be integers or text, got list"),
        ([b"a", b"b"], "train.parquet: labels in 'label' must be integers or text, got binary"),
        (["cat", "dog"], "test.parquet: row 0: label 0 has no training image (allowed: cat, dog)"),
    ],
)
def test_labels_that_are_none_are_named_by_row(tmp_path: Path, values: list[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(folder(tmp_path, values, [0]))
    assert message in str(caught.value)


def test_names_and_numbers_do_not_mix(tmp_path: Path) -> None:
    folder(tmp_path, [0, 1], [0])
    write(tmp_path / "train-2.parquet", [ppm(9)], ["cat"])
    with pytest.raises(DataError, match=r"labels are (names|whole numbers) here, but (names|whole numbers) in .*train"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"data.num_classes is 3, but 2 different labels occur \(cat, dog\); leave it"):
        load(folder(tmp_path / "named", ["cat", "dog"], ["cat"]), num_classes=3)


def test_true_and_false_are_1_and_0(tmp_path: Path) -> None:
    assert labels(load(folder(tmp_path, [True, False, True], [False]), validation=0)) == [1, 0, 1]


IMAGES = [ppm(index) for index in range(6)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS = {
    "binary": pa.array(IMAGES),
    "large_binary": pa.array(IMAGES, pa.large_binary()),
    "binary_view": pa.array(IMAGES, pa.binary_view()),
    "fixed size": pa.array(IMAGES, pa.binary(len(IMAGES[0]))),
    "dictionary": pa.array(IMAGES).dictionary_encode(),
    "chunks": pa.chunked_array([IMAGES[:1], IMAGES[1:]]),
    "chunks, dictionary": pa.chunked_array(
        [pa.array(IMAGES[:4]).dictionary_encode(), pa.array(IMAGES[4:]).dictionary_encode()]
    ),
    "struct": pa.array([{"bytes": image, "path": None} for image in IMAGES], STRUCT),
    "struct of views": pa.StructArray.from_arrays(
        [pa.array(["x"] * 6, pa.string_view()), pa.array(IMAGES, pa.binary_view())], ["path", "bytes"]
    ),
    "struct of a dictionary": pa.StructArray.from_arrays([pa.array(IMAGES).dictionary_encode()], ["bytes"]),
}


@STREAMS
@pytest.mark.parametrize("kind", COLUMNS)
def test_images_stand_in_any_column_of_bytes(tmp_path: Path, stream: str, kind: str) -> None:
    groups = {} if "views" in kind else {"row_group_size": 4}  # Arrow cannot cut views in a structure
    write(tmp_path / "train.parquet", COLUMNS[kind], [0, 1] * 3, **groups)
    write(tmp_path / "test.parquet", [ppm(100)], [0])
    dataset = load(tmp_path, stream=stream)
    assert reds(dataset) == [0, 1, 2, 3, 4, 5]
    assert reds(dataset, "test") == [100]


@pytest.mark.parametrize(
    "images",
    [
        [IMAGES[0], IMAGES[1], None],
        pa.array([{"bytes": IMAGES[0], "path": "x"}] * 2 + [None], STRUCT),
        pa.array([{"bytes": IMAGES[0], "path": "x"}] * 2 + [{"bytes": None, "path": None}], STRUCT),
    ],
)
def test_a_row_without_an_image_is_named(tmp_path: Path, images: Any) -> None:
    write(tmp_path / "train.parquet", images, [0, 1, 0])
    write(tmp_path / "test.parquet", [ppm(100)], [0])
    with pytest.raises(DataError, match=r"train.parquet: row 2: no image$"):
        load(tmp_path)


def beside(root: Path) -> Path:
    """Files whose rows hold the bytes of some images and the paths of others."""
    rows = [{"bytes": None, "path": f"images/{index}.ppm"} for index in range(6)]
    rows[1] = {"bytes": ppm(1), "path": "elsewhere"}
    for index in (0, 2, 3, 4, 5):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "images" / f"{index}.ppm").write_bytes(ppm(index))
    write(root / "train.parquet", pa.array(rows[:4], STRUCT), [0, 1] * 2)
    write(root / "test.parquet", pa.array(rows[4:], STRUCT), [0, 1])
    return root


@STREAMS
def test_images_beside_the_file_are_found_by_their_paths(tmp_path: Path, stream: str) -> None:
    dataset = load(beside(tmp_path), stream=stream)
    assert reds(dataset) == [0, 1, 2, 3]
    assert reds(dataset, "test") == [4, 5]
    (tmp_path / "images" / "2.ppm").write_bytes(ppm(77))
    os.utime(tmp_path / "images" / "2.ppm", ns=(1, 1))
    changed = load(tmp_path, stream=stream)
    assert reds(changed) == [0, 1, 77, 3]
    assert changed.content_hash != dataset.content_hash


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (beside(tmp_path) / "images" / "3.ppm").unlink()
    with pytest.raises(DataError, match=r"row 3: no image bytes, and no file at the path it names, 'images/3.ppm' \("):
        load(tmp_path)
    rows = [{"bytes": None, "path": "images/0.ppm"}]
    write(tmp_path / "train.parquet", pa.array(rows * 2, STRUCT), [0, 1])
    write(tmp_path / "test.parquet", pa.array(rows, STRUCT), [0])
    with pytest.raises(DataError, match=r"images/0.ppm: rows of training and of test files name it"):
        load(tmp_path)


@STREAMS
@pytest.mark.parametrize(
    ("train", "test", "channels"),
    [
        ([*GREY[:3], ppm(7)], [ppm(8)], 3),
        (GREY[:4], [GREY[4], ppm(8)], 3),
        ([ppm(7), *GREY[:3]], GREY[4:], 3),
        (GREY[:4], GREY[4:], 1),
    ],
)
def test_one_image_in_colour_makes_all_of_them_colour(
    tmp_path: Path, stream: str, train: list[bytes], test: list[bytes], channels: int
) -> None:
    write(tmp_path / "train.parquet", train, [0, 1, 0, 1])
    write(tmp_path / "test.parquet", test, [0, 1][: len(test)])
    dataset = load(tmp_path, stream=stream)
    assert dataset.inputs.channels == channels
    first = 10 * (GREY.index(train[0])) if train[0] in GREY else 7
    images: Any = dataset.train_pixels.images
    assert images.plain(torch.arange(1)).tolist()[0][channels - 1][0][0] == (first if train[0] in GREY else 0)
    batch = next(dataset.split("full").train.epoch(0, 1, 4))
    assert batch.inputs is None or batch.inputs.shape == (4, channels, 8, 8)


@STREAMS
def test_deep_pixels_are_scaled_and_make_another_hash(tmp_path: Path, stream: str) -> None:
    ramp = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)
    write(tmp_path / "train.parquet", [png(Image.fromarray(ramp))] * 2, [0, 1])
    write(tmp_path / "test.parquet", [GREY[3]], [0])
    dataset = load(tmp_path, stream=stream, validation=0)
    images: Any = dataset.train_pixels.images
    assert np.array_equal(images.plain(torch.tensor([0])).numpy()[0, 0], np.rint(ramp / 65535 * 255).astype(np.uint8))
    assert dataset.notes[0].startswith("2 of 3 images have more than 8 bits a pixel and are scaled to 8")
    buffer = io.BytesIO()
    Image.fromarray(ramp.astype(np.float32)).save(buffer, "TIFF")
    write(tmp_path / "train.parquet", [GREY[0], buffer.getvalue()], [0, 1])
    with pytest.raises(DataError, match=r"train.parquet: row 1: image of mode F .*have no full scale"):
        load(tmp_path, stream=stream)


def test_no_file_is_in_both_sets(tmp_path: Path) -> None:
    folder(tmp_path, [0, 1], [0, 1])
    both = r"data.train and data.test: .*test.parquet is in both; the test set must not be trained on"
    with pytest.raises(DataError, match=both):
        load(tmp_path, train="*.parquet")
    with pytest.raises(DataError, match=both):
        load(tmp_path, test=["test.parquet", "../" + tmp_path.name + "/train.parquet"], train=["te?t.parquet"])
    other = tmp_path / "train-1.parquet"
    for link in (other.symlink_to, other.hardlink_to):
        link(tmp_path / "test.parquet")
        with pytest.raises(DataError, match=r"train-1.parquet and .*test.parquet are one file: it is in both"):
            load(tmp_path)
        other.unlink()
    other.symlink_to(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"data.train: .*train-1.parquet and .*train.parquet are one file: it is named"):
        load(tmp_path)


@STREAMS
def test_a_copy_of_the_test_file_is_said_to_be_one(tmp_path: Path, stream: str) -> None:
    folder(tmp_path, [0, 1], [0, 1])
    shutil.copy(tmp_path / "test.parquet", tmp_path / "train-1.parquet")
    same = "train-1.parquet and test.parquet hold the same bytes: the test set is trained on"
    assert load(tmp_path, stream=stream).notes == (same,)


@pytest.mark.parametrize("name", ["set[1]", "what?", "a*b", "[", "run[1]/part[2]"])
def test_patterns_below_folders_with_signs_of_patterns(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path / name, [0, 1], [0])
    assert missing_files(settings(root)) == []
    assert reds(load(root)) == [0, 1]
    rooted = settings(tmp_path, train=f"{name}/tr*.parquet", test=f"{name}/test.parquet")
    assert reds(load_data(rooted, CPU)) == [0, 1]


def test_a_folder_in_place_of_files_is_told_how(tmp_path: Path) -> None:
    folder(tmp_path / "files", [0, 1], [0])
    with pytest.raises(
        DataError, match=r"no file matches .*/files \(a folder: data.train=.*/files/\*.parquet takes its"
    ):
        load(tmp_path, train="files", test="files/test.parquet")
    with pytest.raises(DataError, match=r"data.train: .* is no pattern of files \("):
        load(tmp_path, train="**x", test="files/test.parquet")


def test_no_part_of_a_pattern_is_left_out_without_a_word(tmp_path: Path) -> None:
    folder(tmp_path, [0, 1], [0])
    (tmp_path / "train-1.parquet").symlink_to("gone")
    for train in ("train*.parquet", "train-1.parquet"):
        with pytest.raises(DataError, match=r"train-1.parquet: link to gone, which is not there; remove the link or"):
            load(tmp_path, train=train)
    (tmp_path / "train-1.parquet").unlink()
    (tmp_path / "train-1.parquet").mkdir()
    with pytest.raises(DataError, match=r"train-1.parquet: a folder, named like a file; .*train-1.parquet/\*.parquet"):
        load(tmp_path)


def test_columns_are_named_where_they_are_not_one(tmp_path: Path) -> None:
    folder(tmp_path, [0, 1], [0])
    twice = pa.Table.from_arrays(
        [pa.array(IMAGES[:2]), pa.array([0, 1]), pa.array(IMAGES[:2])], ["image", "label", "image"]
    )
    pq.write_table(twice, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"data.image_column: there are 2 columns 'image'; rename all but one"):
        load(tmp_path)


def test_columns_may_have_dots_in_their_names(tmp_path: Path) -> None:
    folder(tmp_path, [0, 1], [0])
    for file in tmp_path.glob("*.parquet"):
        pq.write_table(pq.read_table(file).rename_columns(["a.b", "label"]), file)
    assert reds(load(tmp_path, image_column="a.b")) == [0, 1]


@STREAMS
@pytest.mark.parametrize("content", [b"", b"{", b"[1]"])
def test_what_is_damaged_in_the_cache_is_built_again(
    tmp_path: Path, stream: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    first = load(folder(tmp_path, ["cat", "dog"], ["dog"]), stream=stream, validation=0)
    kept = [file for file in (tmp_path / "cache" / "data").rglob("*") if file.suffix in (".npy", ".json", ".bin")]
    assert len(kept) >= 7
    for file in kept:
        file.write_bytes(content)
        again = load(tmp_path, stream=stream, validation=0)
        assert (again.content_hash, labels(again), reds(again)) == (first.content_hash, [0, 1], [0, 1])
