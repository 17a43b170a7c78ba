"""Reading Parquet files and torchvision's sets: small files made here, good and bad."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
from PIL import Image

from akdtune import registry
from akdtune.data.dataset import DataSet, load_data, missing_files
from akdtune.datasets import torchvision
from akdtune.errors import DataError
from akdtune.registry import lookup
from akdtune.settings.data import Augmentation, DataSettings
from akdtune.signals import InputSpec
from tests.checkout import BESIDE
from tests.spoiled import spoil

CPU = torch.device("cpu")
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pictures(count: int, size: int = 8, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (count, size, size, channels) if channels > 1 else (count, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, images: list[Any], labels: list[Any], **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels, **columns}), path, row_group_size=7)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training files of 10 images and a test file of 6; labels 0..4."""
    train, test = pictures(20), pictures(6, seed=1)
    for part in range(2):
        some = [png(image) for image in train[part * 10 : part * 10 + 10]]
        write(tmp_path / "set" / f"train-{part}.parquet", some, [i % 5 for i in range(10)], name=["x"] * 10)
    write(tmp_path / "set" / "test.parquet", [png(image) for image in test], [0, 1, 2, 3, 4, 0])
    return tmp_path / "set"


def settings(folder: Path, **more: Any) -> DataSettings:
    known = {
        "name": "parquet",
        "root": str(folder),
        "train": "train-*.parquet",
        "test": "test.parquet",
        "validation": 5,
    }
    return DataSettings(**known | more)


def load(folder: Path, **more: Any) -> DataSet:
    return load_data(settings(folder, **more), CPU)


def stored_images(dataset: DataSet, role: str) -> torch.Tensor:
    images: torch.Tensor = getattr(dataset, f"{role}_pixels").images.images_NCHW
    return images


def test_parquet_gives_the_written_pixels_in_file_order(folder: Path) -> None:
    dataset = load(folder)
    assert torch.equal(stored_images(dataset, "train"), torch.from_numpy(pictures(20)).permute(0, 3, 1, 2))
    assert torch.equal(stored_images(dataset, "test"), torch.from_numpy(pictures(6, seed=1)).permute(0, 3, 1, 2))
    assert dataset.inputs == InputSpec(3, 8, 5)
    assert dataset.augmentation == Augmentation(pad=1, flip=True)
    assert dataset.split("full").train.labels_N.tolist() == [0, 1, 2, 3, 4] * 4
    scaled = pictures(20) / 255
    assert dataset.mean_C.tolist() == pytest.approx(scaled.mean(axis=(0, 1, 2)).tolist())
    assert dataset.std_C.tolist() == pytest.approx(scaled.std(axis=(0, 1, 2)).tolist())


def test_second_start_reads_no_parquet(folder: Path) -> None:
    first = load(folder)
    spoil(folder)
    second = load(folder)
    assert second.content_hash == first.content_hash
    assert torch.equal(stored_images(second, "train"), stored_images(first, "train"))


def test_a_touched_file_is_found_by_content_and_a_changed_one_is_read_again(folder: Path, own_cache: Path) -> None:
    def decoded() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (own_cache / "data").glob("*/meta.json")}

    first = load(folder)
    before = decoded()
    os.utime(folder / "test.parquet", ns=(1, 1))
    assert load(folder).content_hash == first.content_hash
    assert decoded() == before and len(before) == 1
    write(folder / "test.parquet", [png(image) for image in pictures(6, seed=2)], [0, 1, 2, 3, 4, 0])
    assert load(folder).content_hash != first.content_hash
    assert len(decoded()) == 2


def test_hugging_face_structure_gives_the_same_set(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("*.parquet"):
        table = pq.read_table(file)
        images = [{"bytes": image, "path": None} for image in table["image"].to_pylist()]
        write(tmp_path / "hf" / file.name, images, table["label"].to_pylist())
    assert load(tmp_path / "hf").content_hash == load(folder).content_hash


def test_grey_images_have_one_channel_and_are_not_flipped(tmp_path: Path) -> None:
    images = [png(image) for image in pictures(6, channels=1)]
    write(tmp_path / "train-0.parquet", images, [0, 1, 2] * 2)
    write(tmp_path / "test.parquet", images, [0, 1, 2] * 2)
    dataset = load(tmp_path, validation=3)
    assert dataset.inputs == InputSpec(1, 8, 3)
    assert dataset.augmentation == Augmentation(pad=1, flip=False)


def test_other_column_names_lists_of_files_and_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(file).rename_columns({"image": "img", "label": "fine"}), file)
    monkeypatch.chdir(folder)
    names = {"train": ["train-1.parquet", "./train-0.parquet"], "image_column": "img", "label_column": "fine"}
    dataset = load(folder, root=None, **names)
    assert torch.equal(stored_images(dataset, "train")[0], torch.from_numpy(pictures(20)[10]).permute(2, 0, 1))


def test_missing_files_are_listed_without_reading(folder: Path) -> None:
    assert missing_files(settings(folder)) == []
    assert missing_files(settings(folder, train="no-*.parquet")) == [str(folder / "no-*.parquet")]
    with pytest.raises(DataError, match=r"data.train: no file matches .*no-\*.parquet"):
        load(folder, train="no-*.parquet")


def nothing_left(cache: Path) -> bool:
    return not [path for path in (cache / "data").glob("*") if path.name not in ("index", "store.lock")]


@pytest.mark.parametrize("keep", [0.2, 0.999])
def test_truncated_file_is_named(folder: Path, own_cache: Path, keep: float) -> None:
    file = folder / "train-1.parquet"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(DataError, match=r"train-1.parquet: not a readable Parquet file, perhaps cut short"):
        load(folder)
    assert nothing_left(own_cache)


def test_damaged_pages_are_named(folder: Path) -> None:
    file = folder / "train-1.parquet"
    raw = bytearray(file.read_bytes())
    raw[4:400] = b"\xff" * 396
    file.write_bytes(raw)
    with pytest.raises(DataError, match=r"train-1.parquet: "):
        load(folder)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            [png(pictures(1)[0])] * 3,
            [0, 1, -1],
            "train-0.parquet: row 2: label -1 is out of range (allowed: 0 and",
        ),
        (
            [png(pictures(1)[0]), png(pictures(1, size=9)[0])],
            [0, 1],
            "train-0.parquet: row 1: image of 9x9 pixels in 3 channels, the ones before have 8x8 pixels in 3 channels",
        ),
        (
            [png(pictures(1)[0][:4])],
            [0],
            "train-0.parquet: row 0: image of 8x4 pixels in 3 channels; networks here",
        ),
        ([png(pictures(1)[0])[:60]], [0], "train-0.parquet: row 0: not a readable image"),
        ([b"no image"], [0], "train-0.parquet: row 0: not a readable image"),
        ([None], [0], "train-0.parquet: 'image' must hold encoded images"),
        ([png(pictures(1)[0]), None], [0, 1], "train-0.parquet: row 1: no image"),
        ([png(pictures(1)[0])], [0.5], "train-0.parquet: labels in 'label' must be integers or text, got double"),
        (["path.png"], [0], "train-0.parquet: 'image' must hold encoded images as bytes or {bytes, path}, got string"),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, own_cache: Path, images: list[Any], labels: list[Any], message: str
) -> None:
    write(tmp_path / "train-0.parquet", images, labels)
    write(tmp_path / "test.parquet", [png(pictures(1)[0])], [0])
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert message in str(caught.value)
    assert nothing_left(own_cache)


def test_labels_of_the_test_files_must_be_known(folder: Path) -> None:
    write(folder / "test.parquet", [png(pictures(1)[0])], [5])
    with pytest.raises(DataError, match=r"test.parquet: row 0: label 5 is out of range \(allowed: 0..4\)"):
        load(folder)
    assert load(folder, num_classes=7).num_classes == 7


def test_misspelt_column_gets_the_nearest_name(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data.label_column: unknown column 'lable'; did you mean 'label'\?"):
        load(folder, label_column="lable")


def test_a_cache_that_cannot_be_written_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot use the cache folder .*AKDTUNE_CACHE names another one"):
        load(folder)


def test_a_full_disk_leaves_nothing_behind(folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match="No space left on device"):
        load(folder)
    assert nothing_left(own_cache)


def test_what_a_killed_process_left_is_cleared_away(folder: Path, own_cache: Path) -> None:
    left = own_cache / "data" / ".building-0"
    left.mkdir(parents=True)
    (left / "train_images.npy").write_bytes(b"half")
    load(folder)
    assert not left.exists()


def idx(array: Pixels) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 20), ("t10k", 10)):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(pictures(count, 28, 1)))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return tmp_path


def test_fashion_mnist_through_torchvision(fashion: Path) -> None:
    asked = DataSettings(name="fashion_mnist", root=str(fashion), validation=10)
    assert missing_files(asked) == []
    dataset = load_data(asked, CPU)
    assert dataset.inputs == InputSpec(1, 28, 10)
    assert dataset.augmentation == Augmentation(pad=2, flip=True)
    assert torch.equal(stored_images(dataset, "train")[:, 0], torch.from_numpy(pictures(20, 28, 1)))
    spoil(fashion / "FashionMNIST")
    assert load_data(asked, CPU).content_hash == dataset.content_hash


def test_fashion_mnist_cut_short_is_one_message(fashion: Path) -> None:
    file = fashion / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match="torchvision cannot read or fetch FashionMNIST"):
        load_data(DataSettings(name="fashion_mnist", root=str(fashion), validation=10), CPU)


def test_missing_files_name_the_setting_that_fetches_them(tmp_path: Path) -> None:
    asked = DataSettings(name="cifar100", root=str(tmp_path), validation=10)
    assert str(tmp_path / "cifar-100-python" / "train") in missing_files(asked)
    with pytest.raises(DataError, match=r"cifar-100-python/train: no such file.*data.download=true fetches it"):
        load_data(asked, CPU)


def cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str, parts: dict[str, list[str]]) -> None:
    """Writes pickled batches of ten images and teaches torchvision their checksums."""
    datasets = pytest.importorskip("torchvision.datasets")
    sums: dict[str, list[list[str]]] = {}
    where = folder / getattr(datasets, name).base_folder
    where.mkdir(parents=True)
    for role, names in parts.items():
        for part in names:
            batch = {"data": pictures(10, 32).transpose(0, 3, 1, 2).reshape(10, -1), key: list(range(10))}
            batch = {"fine_label_names": ["x"] * 10, "label_names": ["x"] * 10} if role == "meta" else batch
            raw = pickle.dumps(batch)
            (where / part).write_bytes(raw)
            sums.setdefault(role, []).append([part, hashlib.md5(raw).hexdigest()])
    monkeypatch.setattr(getattr(datasets, name), "train_list", sums["train"])
    monkeypatch.setattr(getattr(datasets, name), "test_list", sums["test"])
    known = getattr(datasets, name).meta
    monkeypatch.setattr(getattr(datasets, name), "meta", {**known, "md5": sums["meta"][0][1]})


@pytest.mark.parametrize(
    ("name", "key", "torchvision_name", "parts", "classes"),
    [
        ("cifar100", "fine_labels", "CIFAR100", {"train": ["train"], "test": ["test"], "meta": ["meta"]}, 100),
        (
            "cifar10",
            "labels",
            "CIFAR10",
            {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"], "meta": ["batches.meta"]},
            10,
        ),
    ],
)
def test_cifar_through_torchvision(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    key: str,
    torchvision_name: str,
    parts: dict[str, list[str]],
    classes: int,
) -> None:
    cifar(tmp_path, monkeypatch, key, torchvision_name, parts)
    dataset = load_data(DataSettings(name=name, root=str(tmp_path), validation=10), CPU)
    assert dataset.inputs == InputSpec(3, 32, classes)
    assert dataset.augmentation == Augmentation(pad=4, flip=True)
    expected = torch.from_numpy(pictures(10, 32)).permute(0, 3, 1, 2)
    assert torch.equal(stored_images(dataset, "test"), expected)
    file = tmp_path / torchvision.Cifar100.folder / "test"
    if name == "cifar100":
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(DataError, match="torchvision cannot read or fetch CIFAR100"):
            load_data(DataSettings(name=name, root=str(tmp_path), validation=10), CPU)


def test_published_normalisation_of_cifar100() -> None:
    assert torchvision.Cifar100.mean == (0.5071, 0.4867, 0.4408)
    assert torchvision.Cifar100.std == (0.2675, 0.2565, 0.2761)


def test_download_fetches_what_is_missing(tmp_path: Path, fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    mirror, resources = tmp_path / "mirror", []
    mirror.mkdir()
    for file in (fashion / "FashionMNIST" / "raw").iterdir():
        packed = gzip.compress(file.read_bytes())
        (mirror / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetched = DataSettings(name="fashion_mnist", root=str(tmp_path / "new"), download=True, validation=10)
    kept = DataSettings(name="fashion_mnist", root=str(fashion), validation=10)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(mirror))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        assert load_data(fetched, CPU).content_hash == load_data(kept, CPU).content_hash
        server.shutdown()
    assert missing_files(fetched) == []


def test_download_failure_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"file://{tmp_path}/nowhere/"])
    asked = DataSettings(name="fashion_mnist", root=str(tmp_path), download=True, validation=10)
    assert missing_files(asked)[0].endswith("(will be downloaded)")
    with pytest.raises(DataError, match="torchvision cannot read or fetch FashionMNIST"):
        load_data(asked, CPU)


def stl10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """STL-10 with ten images a split, packed beside it as it is downloaded, and torchvision told its checksums."""
    datasets = pytest.importorskip("torchvision.datasets")
    where, contents = folder / "stl10_binary", {}
    where.mkdir(parents=True)
    for split, seed in (("train", 1), ("test", 2)):
        contents[f"{split}_X.bin"] = pictures(10, 96, seed=seed).transpose(0, 3, 2, 1).tobytes()  # columns first
        contents[f"{split}_y.bin"] = bytes(range(1, 11))
    contents["unlabeled_X.bin"] = b"nothing of it is read"
    packed = folder / "stl10_binary.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        for name, content in contents.items():
            (where / name).write_bytes(content)
            archive.add(where / name, f"stl10_binary/{name}")
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    for role in ("train", "test"):
        names = [name for name in contents if name.startswith(role) or (role == "train" and name.startswith("un"))]
        monkeypatch.setattr(datasets.STL10, f"{role}_list", [[name, sums[name]] for name in names])
    monkeypatch.setattr(datasets.STL10, "tgz_md5", hashlib.md5(packed.read_bytes()).hexdigest())
    return packed


def svhn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SVHN with ten training and five test images, and torchvision told its checksums."""
    datasets = pytest.importorskip("torchvision.datasets")
    known = {}
    for split, count in (("train", 10), ("test", 5)):
        file = folder / f"{split}_32x32.mat"
        images = pictures(count, 32, seed=count).transpose(1, 2, 3, 0)
        scipy.io.savemat(file, {"X": images, "y": np.arange(1, count + 1, dtype=np.uint8)[:, None]})
        known[split] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", known)
    return folder


@contextlib.contextmanager
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of a folder's files."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_stl10_is_read_and_fetched_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    packed = stl10(tmp_path / "kept", monkeypatch)
    dataset = load_data(DataSettings(name="stl10", root=str(tmp_path / "kept"), validation=0), CPU)
    assert dataset.inputs == InputSpec(3, 96, 10)
    assert dataset.augmentation == Augmentation(pad=12, flip=True)
    expected = torch.from_numpy(pictures(10, 96, seed=2)).permute(0, 3, 1, 2)
    assert torch.equal(stored_images(dataset, "test"), expected)
    assert dataset.split("full").train.labels_N.tolist() == list(range(10))
    fetched = DataSettings(name="stl10", root=str(tmp_path / "new"), download=True, validation=0)
    assert str(tmp_path / "new" / "stl10_binary" / "train_X.bin") + " (will be downloaded)" in missing_files(fetched)
    with served(packed.parent, monkeypatch) as address:
        monkeypatch.setattr(datasets.STL10, "url", f"{address}/{packed.name}")
        assert load_data(fetched, CPU).content_hash == dataset.content_hash
    assert missing_files(fetched) == []
    (tmp_path / "new" / "stl10_binary" / "test_y.bin").unlink()
    with pytest.raises(DataError, match=r"stl10_binary/test_y.bin: no such file.*data.download=true fetches it"):
        load_data(DataSettings(name="stl10", root=str(tmp_path / "new"), validation=0), CPU)


def test_svhn_is_read_and_fetched_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    svhn(tmp_path, monkeypatch)
    dataset = load_data(DataSettings(name="svhn", root=str(tmp_path), validation=0), CPU)
    assert dataset.inputs == InputSpec(3, 32, 10)
    assert dataset.augmentation == Augmentation(pad=4, flip=False)
    splits = dataset.split("full")
    assert splits.train.labels_N.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # the sign 0 is class 10 in the files
    assert splits.test.labels_N.tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(stored_images(dataset, "train"), torch.from_numpy(pictures(10, 32, seed=10)).permute(0, 3, 1, 2))
    fetched = DataSettings(name="svhn", root=str(tmp_path / "new"), download=True, validation=0)
    with served(tmp_path, monkeypatch) as address:
        known = {split: [f"{address}/{name}", name, md5] for split, (_, name, md5) in datasets.SVHN.split_list.items()}
        monkeypatch.setattr(datasets.SVHN, "split_list", known)
        assert load_data(fetched, CPU).content_hash == dataset.content_hash
    (tmp_path / "train_32x32.mat").write_bytes(b"cut short")
    with pytest.raises(DataError, match="torchvision cannot read or fetch SVHN"):
        load_data(DataSettings(name="svhn", root=str(tmp_path), validation=0), CPU)


def test_every_set_says_in_one_line_what_it_is_and_where_it_comes_from() -> None:
    for name in registry.names("data"):
        source = lookup("data", name)
        assert source.__doc__.splitlines()[0].endswith((".", ":"))
        assert source.source or name in ("parquet", "image_folder")


def write_sizes(folder: Path) -> None:
    """Parquet files whose images have different sizes."""
    generator = np.random.default_rng(3)
    for name, count in (("train-0", 6), ("test", 3)):
        images = [png(generator.integers(0, 256, (10 + row, 14, 3), dtype=np.uint8)) for row in range(count)]
        write(folder / f"{name}.parquet", images, [row % 3 for row in range(count)])


def test_images_of_different_sizes_are_resized_and_cut(tmp_path: Path) -> None:
    write_sizes(tmp_path)
    with pytest.raises(DataError, match=r"train-0.parquet: row 0: image of 14x10 .*data.size resizes and cuts them"):
        load(tmp_path, validation=3)
    dataset = load(tmp_path, validation=3, size=8)
    assert dataset.inputs == InputSpec(3, 8, 3)
    first = Image.open(io.BytesIO(pq.read_table(tmp_path / "test.parquet")["image"][0].as_py()))
    resized = np.asarray(first.resize((11, 8), Image.Resampling.BILINEAR))[:, 2:10]
    assert torch.equal(stored_images(dataset, "test")[0], torch.from_numpy(resized.copy()).permute(2, 0, 1))
    assert load(tmp_path, validation=3, size=6).content_hash != dataset.content_hash


CIFAR100 = BESIDE / "data" / "cifar100"


@pytest.mark.skipif(not (CIFAR100 / "test.parquet").exists(), reason="needs CIFAR-100 in ../shared")
def test_real_cifar100_files_and_a_second_start_under_a_second(tmp_path: Path) -> None:
    shutil.copy(CIFAR100 / "test.parquet", tmp_path / "copy.parquet")  # the smallest file, for both roles
    asked = settings(CIFAR100, train=str(tmp_path / "copy.parquet"), test="test.parquet")
    first = load_data(asked, CPU)
    assert first.inputs == InputSpec(3, 32, 100)
    assert first.mean_C.tolist() == pytest.approx([0.5071, 0.4867, 0.4408], abs=3e-3)
    started = time.monotonic()
    again = load_data(asked, CPU)
    again.split("subset")
    assert time.monotonic() - started < 1
    assert again.content_hash == first.content_hash
