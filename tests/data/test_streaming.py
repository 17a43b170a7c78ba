"""Sets that stay encoded: the same batches as stored ones, whatever the number of workers, and no process left."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from akdtune.data import streaming
from akdtune.data.crops import Crops
from akdtune.data.dataset import DataSet, load_data
from akdtune.data.row_sets import Loaded
from akdtune.errors import DataError
from akdtune.settings.data import DataSettings
from akdtune.signals import InputSpec

CPU = torch.device("cpu")
EVERYTHING = {"pad": 2, "randaugment": {"ops": 2}, "cutout": 8, "cutout_random": True, "mixup": 1.0, "cutmix": 1.0}


@pytest.fixture(scope="module", autouse=True)
def worker_server() -> None:
    """Imports what the tests need once, here and in the process that workers come from."""
    pytest.importorskip("torchvision.transforms.v2.functional")
    first = streaming.process_context().Process(target=os.getpid)
    first.start()
    first.join()
    assert first.exitcode == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of colour images of different sizes: 7 training and 2 test images each."""
    folder = tmp_path_factory.mktemp("set")
    generator = np.random.default_rng(0)
    for role, count in (("train", 7), ("test", 2)):
        for label in "abc":
            (folder / role / label).mkdir(parents=True)
            for index in range(count):
                size = (20 + 3 * index, 24 + index, 3)
                pixels = generator.integers(0, 256, size, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / role / label / f"{index}.png")
    return folder


def settings(root: Path, **more: Any) -> DataSettings:
    known = {
        "name": "image_folder",
        "root": str(root),
        "size": 16,
        "validation": 3,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    }
    return DataSettings(**known | more)


def load(root: Path, **more: Any) -> DataSet:
    return load_data(settings(root, **{"stream": "always"} | more), CPU)


def epoch(dataset: DataSet, epoch: int = 1, strong: bool = False) -> list[Loaded]:
    return list(dataset.split("subset").train.epoch(5, epoch, 4, strong=strong))


def same(batches: list[Loaded], other: list[Loaded]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b or a == b

    fields = ("positions_B", "inputs", "strong", "partner_B", "share")
    return len(batches) == len(other) and all(
        equal(getattr(a, name), getattr(b, name)) for a, b in zip(batches, other, strict=True) for name in fields
    )


@pytest.fixture(autouse=True)
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes what runs below this process before a test: a Ray that other tests keep is none of ours to count or end."""
    running = {process.pid for process in psutil.Process().children(recursive=True)}
    monkeypatch.setitem(OLDER, "pids", running)


OLDER: dict[str, set[int]] = {"pids": set()}


def processes() -> list[psutil.Process]:
    """Every process that a test started below this one, but the servers that new ones come from."""
    me, started = psutil.Process(), []
    for process in me.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a ZombieProcess is one, too
            line = " ".join(process.cmdline())
            # what the fork server starts keeps its command line
            serves = "resource_tracker" in line or ("forkserver import main" in line and process.ppid() == me.pid)
            if process.pid not in OLDER["pids"] and not serves:
                started.append(process)
    return started


def none_left() -> bool:
    limit = time.monotonic() + 5
    while processes() and time.monotonic() < limit:
        time.sleep(0.02)
    return not processes()


@pytest.mark.parametrize("augmentation", [None, EVERYTHING, "strong"])
def test_a_streamed_set_gives_the_batches_of_a_stored_one(root: Path, augmentation: Any) -> None:
    stored, streamed = (load(root, augmentation=augmentation, stream=stream) for stream in ("never", "always"))
    assert (stored.streams, streamed.streams) == (False, True)
    assert stored.inputs == streamed.inputs == InputSpec(3, 16, 3)
    assert same(epoch(stored, strong=True), epoch(streamed, strong=True))
    assert stored.split("subset").train.crops_only == (augmentation is None)
    assert not streamed.split("subset").train.crops_only
    assert all(batch.crops_B is None for batch in epoch(streamed))


def test_plain_images_are_those_of_a_stored_set_one_by_one_or_in_order(root: Path) -> None:
    stored, streamed = load(root, stream="never").split("full"), load(root).split("full")
    positions = torch.tensor([5, 0, 20, 5])
    assert torch.equal(stored.train.images(positions), streamed.train.images(positions))
    crop = Crops(torch.tensor([0, 1, 2, 3]), torch.tensor([4, 0, 1, 2]), torch.tensor([True, False] * 2))
    assert torch.equal(stored.train.images(positions, crop), streamed.train.images(positions, crop))
    for split in (stored.test, streamed.test):
        read = list(split.plain_batches(4))
        assert torch.equal(torch.cat([positions_B for positions_B, _ in read]), torch.arange(6))
        assert torch.equal(torch.cat([images for _, images in read]), stored.test.images(torch.arange(6)))


def test_random_resized_crops_are_cut_from_the_whole_file(root: Path) -> None:
    with_crop = {"random_resized_crop": {"scale": [0.2, 1.0]}}
    streamed = load(root, augmentation=with_crop)
    first, again, second = epoch(streamed), epoch(streamed), epoch(streamed, epoch=2)
    assert same(first, again)
    assert not same(first, second)
    assert first[0].inputs is not None and first[0].inputs.shape == (4, 3, 16, 16)
    whole = load(root, augmentation={"flip": False, "random_resized_crop": {"scale": [1, 1], "ratio": [1, 1]}}, size=24)
    split = whole.split("full").train
    row = 4  # 32 pixels high, 28 wide: no square of the whole area fits, so the largest in the middle is taken
    taken = torch.cat([b.inputs[b.positions_B == row] for b in split.epoch(1, 1, 4) if b.inputs is not None])
    from torchvision.transforms.v2 import functional

    image = torch.from_numpy(np.array(Image.open(root / "train" / "a" / "4.png"))).permute(2, 0, 1)
    expected = functional.resized_crop(image, 2, 0, 28, 28, [24, 24], antialias=True)
    assert (taken[0] * 0.2 + 0.5 - expected / 255).abs().max() <= 1.01 / 255


def test_workers_change_nothing_and_leave_nothing(root: Path) -> None:
    alone, helped = (load(root, augmentation=EVERYTHING, workers=workers) for workers in (0, 2))
    state = torch.get_rng_state()
    assert same(epoch(alone, strong=True), epoch(helped, strong=True))
    assert torch.equal(state, torch.get_rng_state())
    assert none_left()


@pytest.mark.parametrize("how", ["closed", "forgotten", "failed"])
def test_workers_end_when_the_epoch_is_abandoned(root: Path, how: str) -> None:
    running: Generator[Loaded, None, None] | None = load(root, workers=1).split("subset").train.epoch(1, 1, 2)
    assert running is not None
    next(running)
    assert processes()
    if how == "closed":
        running.close()
    elif how == "failed":
        with pytest.raises(RuntimeError):
            running.throw(RuntimeError("in the step"))
    running = None
    assert none_left()


def test_a_worker_that_dies_is_one_message(root: Path) -> None:
    running = load(root, workers=1).split("subset").train.epoch(1, 1, 2)
    next(running)
    for process in processes():
        process.kill()
    with pytest.raises(DataError, match=r"a process that decodes images died .*data.workers=0 does without them"):
        list(running)
    assert none_left()


def test_threads_of_this_process_change_nothing(root: Path) -> None:
    dataset, before = load(root, augmentation="strong"), torch.get_num_threads()
    batches = epoch(dataset)
    torch.set_num_threads(2)
    try:
        assert same(batches, epoch(dataset))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_images_that_nobody_asks_for_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load(root, augmentation=EVERYTHING)
    expected = epoch(dataset)
    monkeypatch.setattr(streaming, "open_image", None)
    blind = list(dataset.split("subset").train.epoch(5, 1, 4, images=False))
    assert all(batch.inputs is None for batch in blind)
    for loaded, other in zip(blind, expected, strict=True):
        assert torch.equal(loaded.positions_B, other.positions_B)
        assert loaded.partner_B is not None and other.partner_B is not None
        assert torch.equal(loaded.partner_B, other.partner_B)
        assert loaded.share == other.share


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(tmp_path: Path, workers: int) -> None:
    for role in ("train", "test"):
        for label in "ab":
            (tmp_path / role / label).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / role / label / f"{index}.png")
    bad = tmp_path / "train" / "b" / "1.png"
    dataset = load(tmp_path, workers=workers, size=8, validation=2)
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(DataError) as caught:
        list(dataset.split("full").train.epoch(0, 1, 3))
    assert str(caught.value).startswith(f"{bad}: not a readable image")
    assert "Traceback" not in str(caught.value)
    assert none_left()


def test_size_decides_whether_a_set_streams(root: Path) -> None:
    decoded = 27 * 3 * 16**2
    assert not load(root, stream="auto").streams
    assert not streaming.too_large("auto", 1, 2**20)
    assert streaming.too_large("auto", 1, 2**20 + 1)
    assert not streaming.too_large("never", 1, 2**40)
    assert streaming.too_large("always", 8192, decoded)


def test_workers_follow_the_device_unless_set() -> None:
    assert streaming.worker_count(None, CPU) == 0
    assert streaming.worker_count(3, CPU) == 3
    assert streaming.worker_count(None, torch.device("cuda")) == min(8, torch.get_num_threads())


def test_content_hash_knows_names_sizes_and_bytes_but_no_times(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for role in ("train", "test"):
        for label in "ab":
            (tmp_path / role / label).mkdir(parents=True)
            for index in range(3):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / role / label / f"{index}.bmp")

    def content_hash() -> str:
        return load(tmp_path, size=8, validation=2).content_hash

    first, file = content_hash(), tmp_path / "train" / "a" / "1.bmp"
    os.utime(file, ns=(1, 1))
    assert content_hash() == first
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)  # as long as before
    changed = content_hash()
    assert changed != first
    file.rename(file.with_name("11.bmp"))
    assert content_hash() not in (first, changed)
    assert load(tmp_path, size=6, validation=2).content_hash != content_hash()
    assert load(tmp_path, size=8, validation=2).fingerprint("subset") != load(
        tmp_path, size=8, validation=2, fraction=0.5
    ).fingerprint("subset")


def test_statistics_come_from_training_images(root: Path) -> None:
    stored, streamed = (load(root, mean=None, std=None, stream=stream) for stream in ("never", "always"))
    assert torch.equal(stored.mean_C, streamed.mean_C)  # fewer than 1,024: all are taken
    assert torch.equal(stored.std_C, streamed.std_C)
    assert streaming.spread(3) == [0, 1, 2]
    assert len(streaming.spread(10**6)) == 1024


def test_pixel_noise_needs_a_stored_set(root: Path) -> None:
    with pytest.raises(DataError, match=r"data.pixel_noise .*this set streams \(data.stream is always; allowed"):
        load(root, pixel_noise={"std": 0.1})
    load(root, pixel_noise={"std": 0.1}, stream="never")


def parquet(root: Path, folder: Path, **more: Any) -> DataSet:
    if not folder.exists():
        folder.mkdir()
        for role in ("train", "test"):
            files = sorted((root / role).glob("*/*.png"))
            table = {
                "image": [file.read_bytes() for file in files],
                "label": ["abc".index(f.parent.name) for f in files],
            }
            for part in range(2):
                half = pa.table({key: values[part::2] for key, values in table.items()})
                pq.write_table(half, folder / f"{role}-{part}.parquet", row_group_size=4)
    known = {"name": "parquet", "root": str(folder), "train": "train-*", "test": "test-*", "validation": 3, "size": 16}
    return load_data(DataSettings(**known | more), CPU)


def test_parquet_streams_the_batches_of_the_stored_set(root: Path, tmp_path: Path) -> None:
    stored, streamed = (parquet(root, tmp_path / "p", stream=stream) for stream in ("never", "always"))
    assert (stored.streams, streamed.streams) == (False, True)
    assert torch.equal(stored.mean_C, streamed.mean_C)
    assert same(epoch(stored, strong=True), epoch(streamed, strong=True))
    assert parquet(root, tmp_path / "p", stream="always").content_hash == streamed.content_hash


def test_parquet_of_one_size_needs_no_setting_and_refuses_others(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-0.parquet: row 0: image of .*data.size resizes and cuts them"):
        parquet(root, tmp_path / "p", size=None)
    images = [(Image.new("RGB", (8, 8 + (row == 5)), (row, 0, 0))) for row in range(8)]
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
    encoded = [(tmp_path / f"{index}.png").read_bytes() for index in range(8)]
    (tmp_path / "q").mkdir()
    pq.write_table(pa.table({"image": encoded[:5], "label": [0, 1, 0, 1, 0]}), tmp_path / "q" / "train-0.parquet")
    pq.write_table(pa.table({"image": encoded[:6], "label": [0, 1, 0, 1, 0, 1]}), tmp_path / "q" / "test-0.parquet")
    dataset = parquet(root, tmp_path / "q", size=None, stream="always", validation=2)
    assert dataset.inputs == InputSpec(3, 8, 2)
    with pytest.raises(DataError, match=r"test-0.parquet: row 5: image of 8x9 pixels in 3 channels, the first one has"):
        list(dataset.split("full").test.plain_batches(4))
