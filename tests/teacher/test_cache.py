"""The teacher cache: rows survive whatever happens to files, and a trial's numbers never depend on what is stored."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from akdtune import networks
from akdtune.cli import caches
from akdtune.data import crops as data_crops
from akdtune.data.crops import Crops, variant_crops
from akdtune.data.dataset import DataSet, load_data
from akdtune.data.splits import Split
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import CacheSettings, TeacherSettings
from akdtune.settings.training import Seeds, TrainingSettings
from akdtune.signals import Signals
from akdtune.teacher import cache_files
from akdtune.teacher.cache import Store
from akdtune.teacher.cache_files import CacheLimits
from akdtune.teacher.frozen import FrozenTeacher, forget_tables
from akdtune.teacher.rows import Caching, PlaceMatters, TeacherRows, forget_probes
from akdtune.training.config import TrialConfig
from akdtune.training.limits import TrialLimits
from akdtune.training.loop import Epoch
from akdtune.training.trial import Trial
from tests import small_trials
from tests.small_trials import CACHE_RATES, CPU, DIGITS, configured, trained

FACTS: dict[str, Any] = {"rows": 5000, "width": 13, "dtype": "fp16", "weights": "w"}
ROWS = np.arange(FACTS["rows"])
CARELESS = CacheLimits(spare_bytes=0, measure_bytes=4096)
"""No care for the disk of the machine that tests."""

SMALL = replace(CARELESS, block_bytes=20_000)
"""Blocks of a few hundred rows, too."""


def small_store(location: Path, facts: dict[str, Any] = FACTS, *about: dict[str, str], **more: Any) -> Store:
    return Store(location, facts, *about, limits=SMALL, **more)


def numbers_of(rows: np.ndarray[Any, Any], width: int = 13) -> np.ndarray[Any, Any]:
    """What stands in these rows in all tests: a function of the row, so that any mix-up shows."""
    return ((rows[:, None] * 31 + np.arange(width)) % 997 / 8).astype(np.float16)


def is_right(store: Store, rows: np.ndarray[Any, Any] = ROWS) -> np.ndarray[Any, Any]:
    """Which rows are found; asserts that those are right and that the others are zeros."""
    known, values = store.find(rows)
    expected = numbers_of(rows)
    expected[~known] = 0
    assert np.array_equal(values, expected)
    return known


def a_minute_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60.1)


def put(store: Store, rows: np.ndarray[Any, Any]) -> None:
    store.put(rows, numbers_of(rows))


# ------------------------------------------------------------------------------------------------------ the store


def test_rows_come_back_in_any_order_and_from_another_process_eye(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    assert store.shape.blocks > 5 and not store.known()
    assert not is_right(store).any()
    chosen = np.random.default_rng(0).permutation(ROWS)[:1500]
    put(store, chosen)
    again = small_store(tmp_path)
    for opened in (store, again):
        opened.refresh()
        assert set(np.flatnonzero(is_right(opened))) == set(chosen)
        assert np.array_equal(opened.marked(ROWS), np.isin(ROWS, chosen))
        assert opened.filled() == 1500
    assert is_right(again, np.array([chosen[3], chosen[0], chosen[3]])).all()
    assert again.known() and not store.trouble


def test_full_precision_is_kept_to_the_bit(tmp_path: Path) -> None:
    store = small_store(tmp_path, FACTS | {"dtype": "fp32"})
    values = np.random.default_rng(0).standard_normal((64, 13)).astype(np.float32)
    store.put(ROWS[:64], values)
    known, back = store.find(ROWS[:64])
    assert known.all() and np.array_equal(back, values)


@pytest.mark.parametrize("change", [{"weights": "v"}, {"dtype": "fp32"}, {"width": 14}, {"rows": 4999}, {"pad": 4}])
def test_every_fact_is_part_of_the_key(tmp_path: Path, change: dict[str, Any]) -> None:
    put(small_store(tmp_path), ROWS)
    other = small_store(tmp_path, FACTS | change)
    assert not other.find(np.arange(4999))[0].any() and other.filled() == 0


def test_a_row_of_another_store_or_place_is_never_trusted(tmp_path: Path) -> None:
    store, other = small_store(tmp_path), small_store(tmp_path, FACTS | {"weights": "v"})
    put(store, ROWS)
    put(other, ROWS[:1])
    files = sorted(store.folder.glob("*.rows"))
    (other.folder / files[0].name).write_bytes(files[0].read_bytes())  # as big and as well-formed
    (store.folder / files[1].name).write_bytes(files[2].read_bytes())
    assert not small_store(tmp_path, FACTS | {"weights": "v"}).find(ROWS)[0].any()
    block = store.shape.block_rows
    right = is_right(small_store(tmp_path))
    assert not right[block : 2 * block].any() and right[:block].all() and right[2 * block :].all()


def test_any_changed_bit_of_a_row_is_noticed(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    put(store, ROWS[:2])
    path, shape = next(store.folder.glob("*.rows")), store.shape
    whole = path.read_bytes()
    for bit in range(shape.record * 8):
        damaged = bytearray(whole)
        damaged[shape.data_offset + bit // 8] ^= 1 << bit % 8
        with path.open("r+b") as file:
            file.write(damaged)
        assert store.find(ROWS[:2])[0].tolist() == [False, True], f"bit {bit}"


@pytest.mark.parametrize("size", [1, 5000, 10**6])
def test_a_file_of_a_wrong_size_is_built_anew(tmp_path: Path, size: int) -> None:
    store = small_store(tmp_path)
    put(store, ROWS)
    path = min(store.folder.glob("*.rows"))
    for opened_before in (store, small_store(tmp_path)):
        os.truncate(path, size)
        right = is_right(opened_before)
        assert right.sum() == len(ROWS) - store.shape.block_rows
        put(opened_before, ROWS[~right])
        assert is_right(opened_before).all() and path.stat().st_size == store.shape.block_bytes
    assert is_right(small_store(tmp_path)).all()


def test_files_that_vanish_under_an_open_store_are_missing_rows(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    put(store, ROWS)
    for path in store.folder.iterdir():
        path.unlink()
    store.folder.rmdir()
    assert not is_right(store).any()
    put(store, ROWS)
    assert is_right(store).all() and store.known()


def test_a_damaged_header_is_written_anew(tmp_path: Path) -> None:
    store = small_store(tmp_path, FACTS, {"network": "n", "data": "d"})
    put(store, ROWS)
    header = store.folder / "header.json"
    header.write_text(header.read_text().replace('"width": 13', '"width": 14'))
    assert cache_files.read_header(store.folder) is None
    min(store.folder.glob("*.rows")).unlink()
    again = small_store(tmp_path, FACTS, {"network": "n", "data": "d"})
    put(again, ROWS[:1])
    held = cache_files.read_header(store.folder)
    assert held is not None and held["facts"] == FACTS


WRITER = """
import sys
import numpy as np
from pathlib import Path
from akdtune.teacher.cache import Store
from akdtune.teacher.cache_files import CacheLimits
location, seed, ready = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
store = Store(location, {facts}, limits=CacheLimits(block_bytes=20_000, spare_bytes=0))
rows = np.arange(5000)
generator = np.random.default_rng(seed)
print("ready", flush=True)
while True:
    for chosen in np.split(generator.permutation(rows), 50):
        store.put(chosen, ((chosen[:, None] * 31 + np.arange(13)) % 997 / 8).astype(np.float16))
    if ready == "once":
        break
    for path in store.folder.glob("*.rows"):
        path.unlink(missing_ok=True)
"""


def writer(location: Path, seed: int, how: str) -> subprocess.Popen[bytes]:
    code = WRITER.replace("{facts}", repr(FACTS))
    process = subprocess.Popen([sys.executable, "-c", code, str(location), str(seed), how], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_rows_survive_kill_9_at_any_instant(tmp_path: Path) -> None:
    """Writers that fill, drop and fill again are killed at random instants; what is found afterwards is right."""
    instants, seen = random.Random(0), []
    for attempt in range(4):
        process = writer(tmp_path, attempt, "forever")
        time.sleep(instants.uniform(0.0, 0.12))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        seen.append(int(is_right(small_store(tmp_path)).sum()))
    assert any(0 < count for count in seen)
    store = small_store(tmp_path)
    put(store, ROWS)
    assert is_right(store).all()


def test_half_a_row_is_no_row(tmp_path: Path) -> None:
    """Every way in which a kill or a full disk can cut one write."""
    whole = small_store(tmp_path / "whole", FACTS)
    put(whole, ROWS[:3])
    content = next(whole.folder.glob("*.rows")).read_bytes()
    shape = whole.shape
    row = content[shape.data_offset + shape.record :][: shape.record]
    for cut in range(shape.record):
        for marked in (b"\0", b"\1"):
            store = small_store(tmp_path / "cut", FACTS)
            put(store, ROWS[:1])
            with next(store.folder.glob("*.rows")).open("r+b") as file:
                file.seek(shape.data_offset + shape.record)
                file.write(row[:cut] + bytes(shape.record - cut))
                file.seek(1)
                file.write(marked)
            present = cut >= len(row.rstrip(b"\0")) and marked == b"\1"
            assert is_right(store, ROWS[:3]).tolist() == [True, present, False]


def test_two_writers_of_the_same_rows_leave_one_store(tmp_path: Path) -> None:
    processes = [writer(tmp_path, seed, "once") for seed in (0, 1)]
    store = small_store(tmp_path)
    while any(process.poll() is None for process in processes):
        is_right(store, ROWS[::7])  # a reader in the middle of it finds right rows or none
        store.refresh()
    for process in processes:
        assert process.returncode == 0
        assert process.stdout is not None
        process.stdout.close()
    assert is_right(small_store(tmp_path)).all()
    alone = small_store(tmp_path / "alone", FACTS)
    put(alone, ROWS)
    for path in alone.folder.glob("*.rows"):
        assert (store.folder / path.name).read_bytes() == path.read_bytes()


def test_the_bound_holds_and_filling_stops_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 60_000
    store = small_store(tmp_path, FACTS, max_bytes=bound)
    for rows in np.split(ROWS, 500):
        put(store, rows)
    taken = sum(cache_files.taken(facts) for _, facts in cache_files.block_files(tmp_path))
    assert 0 < taken <= bound
    right = is_right(store)
    assert 0 < right.sum() < len(ROWS)
    assert "no room left" in store.trouble
    store.max_bytes = None
    put(store, ROWS)
    assert not is_right(store).all(), "filling has stopped for a minute"
    a_minute_later(monkeypatch)
    put(store, ROWS)
    assert is_right(store).all()


def test_a_bound_of_zero_stores_nothing(tmp_path: Path) -> None:
    store = small_store(tmp_path / "cache", FACTS, max_bytes=0)
    put(store, ROWS)
    assert not is_right(store).any() and not (tmp_path / "cache").exists()


def test_blocks_that_nobody_used_make_room_the_longest_unused_first(tmp_path: Path) -> None:
    old, older, fresh = (small_store(tmp_path, FACTS | {"weights": name}) for name in ("old", "older", "fresh"))
    for store, hours in ((old, 2), (older, 3), (fresh, 0)):
        put(store, ROWS)
        for path in store.folder.glob("*.rows"):
            os.utime(path, (time.time() - hours * 3600,) * 2)
    each = sum(cache_files.taken(facts) for _, facts in cache_files.block_files(tmp_path)) // 3
    store = small_store(tmp_path, FACTS, max_bytes=int(3.5 * each))
    for rows in np.split(ROWS, 100):
        put(store, rows)
    assert is_right(store).all()
    assert not older.folder.exists()  # the last block took the header along
    assert is_right(fresh).all() and old.known()
    tight = small_store(tmp_path, FACTS | {"weights": "new"}, max_bytes=each)
    put(tight, ROWS)
    assert not is_right(tight).any(), "what is in use is not dropped"
    assert is_right(store).all() and is_right(fresh).all() and not old.folder.exists()


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_full_disk_stops_filling_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    written, real = itertools.count(), os.pwrite

    def pwrite(fd: int, content: Any, offset: int) -> int:
        count = next(written)
        if count == at:
            return real(fd, bytes(content)[: len(content) // 2], offset)  # a short write
        if count > at:
            raise OSError(28, "No space left on device")
        return real(fd, content, offset)

    store = small_store(tmp_path)
    monkeypatch.setattr(os, "pwrite", pwrite)
    put(store, ROWS[:5])
    put(store, ROWS[5:10])
    assert "No space left" in store.trouble
    is_right(store)
    monkeypatch.undo()
    a_minute_later(monkeypatch)
    put(store, ROWS[:10])
    assert is_right(store)[:10].all()


def test_a_location_that_cannot_be_written_stores_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = small_store(tmp_path / "file", FACTS)
    put(store, ROWS)
    assert not is_right(store).any() and store.trouble


def test_a_node_copies_valid_blocks_from_shared_storage(tmp_path: Path) -> None:
    shared = small_store(tmp_path / "shared", FACTS)
    half = ROWS[: len(ROWS) // 2]
    put(shared, half)
    first = min(shared.folder.glob("*.rows"))
    damaged = bytearray(first.read_bytes())
    damaged[shared.shape.data_offset + 3] ^= 1
    first.write_bytes(damaged)
    os.truncate(shared.folder / "00001.rows", 77)
    node = small_store(tmp_path / "node", FACTS, seed_from=tmp_path / "shared")
    right, block = is_right(node), shared.shape.block_rows
    assert not right[0] and right[1:block].all()
    assert not right[block : 2 * block].any() and right[2 * block : len(half)].all()
    put(node, ROWS)
    assert is_right(node).all() and is_right(shared).sum() < len(half), "the shared store stays as it was"
    strange = small_store(tmp_path / "strange", FACTS, seed_from=tmp_path / "nowhere")
    assert not is_right(strange).any() and not strange.trouble


def test_copies_keep_their_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(2**20)
        file.seek(500_000)
        file.write(b"in the middle")
    cache_files.copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert cache_files.taken(target.stat()) <= cache_files.taken(source.stat())


def test_verify_counts_and_unmarks_damage(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    put(store, ROWS)
    shape = store.shape
    with min(store.folder.glob("*.rows")).open("r+b") as file:
        for place in (3, 7):
            file.seek(shape.data_offset + place * shape.record)
            file.write(b"\xff\xff")
    os.truncate(store.folder / "00002.rows", 99)
    reports = list(small_store(tmp_path).verify())
    assert [(path.name, damaged) for path, _, damaged, _ in reports if damaged] == [("00000.rows", 2)]
    assert [path.name for path, _, _, problem in reports if problem] == ["00002.rows"]
    assert store.filled() == len(ROWS) - shape.block_rows - 2
    assert not any(damaged for _, _, damaged, _ in small_store(tmp_path).verify())


# ----------------------------------------------------------------------------------------------- a teacher's rows


def digits(**more: Any) -> DataSet:
    return load_data(DataSettings(**{"name": "digits", "validation": 600} | more), CPU)


def network(dataset: DataSet, widths: tuple[int, ...] = (4, 8), seed: int = 0) -> networks.Network:
    built = networks.build({"name": "cnn", "widths": list(widths)}, dataset.inputs, seed)
    return built.eval().requires_grad_(False)


def rows_of(tmp_path: Path, dataset: DataSet, of: networks.Network, **settings: Any) -> TeacherRows:
    caching = Caching(CacheSettings(location=str(tmp_path), **settings), dataset.images_key, dataset.name, SMALL)
    return TeacherRows(of, dataset.split("subset").train, dataset.augmentation, caching)


class _Tempered(torch.nn.Module):
    """A network whose logits are not its last layer times its feature."""

    pooled_dim = 8

    def __init__(self, inner: networks.Network) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor, stages: bool = False) -> Signals:
        said = self.inner(images)
        return Signals(said.logits_BK.tanh() * 3, said.pooled_BC)

    def classifier(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner.classifier()


@pytest.mark.parametrize(
    "augmentation", [{"pad": 0, "flip": True}, {"pad": 1, "flip": False}, {"pad": 4, "flip": True}]
)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_rows_are_the_networks_numbers_in_the_precision_of_the_cache(
    tmp_path: Path, augmentation: dict[str, Any], dtype: str
) -> None:
    dataset = digits(augmentation=augmentation)
    of, split = network(dataset), dataset.split("subset").train
    rows = rows_of(tmp_path, dataset, of, dtype=dtype)
    assert rows.rows == split.stored * dataset.augmentation.variants and not rows.keeps_logits
    positions = torch.arange(100)
    crops = Crops(*(part[:100] for part in data_crops.crops(5, 1, split.sample_ids_N, dataset.augmentation)))
    live = of(split.images(positions, crops))
    numbers = split.rows_N[positions] * dataset.augmentation.variants + crops.variant_N(dataset.augmentation)
    for _ in range(2):  # computed, then found
        said = rows.signals(numbers.numpy())
        exact = live.pooled_BC.half().float() if dtype == "fp16" else live.pooled_BC
        assert torch.allclose(said.pooled_BC, exact, rtol=1e-3 if dtype == "fp16" else 1e-6, atol=1e-6)
        assert torch.allclose(said.logits_BK, live.logits_BK, atol=5e-3 if dtype == "fp16" else 1e-5)
    assert rows.rates() == {"found": 100, "computed": 100, "filled": 100, "rows": rows.rows}


def test_logits_are_kept_where_the_last_layer_does_not_give_them(tmp_path: Path) -> None:
    dataset = digits()
    of: Any = _Tempered(network(dataset))
    rows = rows_of(tmp_path, dataset, of)
    assert rows.keeps_logits and rows.width == 8 + 10
    numbers = np.arange(0, 900, 9)
    first, again = rows.signals(numbers), rows.signals(numbers)
    assert torch.equal(first.logits_BK, again.logits_BK)
    assert float(first.logits_BK.abs().max()) <= 3
    live = of(dataset.split("subset").train.images_of_rows(torch.from_numpy(numbers) // 9, _crops(numbers, dataset)))
    assert torch.allclose(first.logits_BK, live.logits_BK, atol=2e-3)


def _crops(numbers: np.ndarray[Any, Any], dataset: DataSet) -> Crops:
    return variant_crops(torch.from_numpy(numbers) % dataset.augmentation.variants, dataset.augmentation)


def test_numbers_do_not_depend_on_who_asks_for_what(tmp_path: Path) -> None:
    dataset = digits()
    of, generator = network(dataset, (8, 16)), np.random.default_rng(0)
    numbers = np.arange(900)
    whole = rows_of(tmp_path / "0", dataset, of, dtype="fp32").values(numbers)
    for attempt, size in enumerate((1, 7, 64, 200), start=1):
        rows = rows_of(tmp_path / str(attempt), dataset, of, dtype="fp32")
        order = generator.permutation(numbers)[:350]
        for start in range(0, 350, size):
            chosen = order[start : start + size]
            assert np.array_equal(rows.values(chosen), whole[chosen])
        again = rows_of(tmp_path / str(attempt), dataset, of, dtype="fp32")
        assert np.array_equal(again.values(order), whole[order]) and again.rates()["computed"] == 0


def test_a_batch_that_is_not_full_is_filled_up_with_what_comes_next(tmp_path: Path) -> None:
    dataset = digits()
    rows = rows_of(tmp_path, dataset, network(dataset))
    asked = np.random.default_rng(0).permutation(2700)[:640]
    rows.values(asked[::2])  # every second one is there already
    rows.rates()
    batches: list[int] = []
    counting = rows.network.register_forward_hook(lambda _, images, __: batches.append(len(images[0])))
    rows.expect(asked)
    parts = [rows.values(asked[start : start + 32]) for start in range(0, 640, 32)]
    assert batches == [64] * 5, "320 missing rows are five batches of 64, though each request lacks 16"
    counting.remove()
    assert rows.rates() | {"filled": 0} == {"found": 320, "computed": 320, "filled": 0, "rows": rows.rows}
    expected = rows_of(tmp_path / "other", dataset, rows.network).values(asked)
    assert np.array_equal(np.concatenate(parts), expected)


def test_without_a_store_rows_ahead_are_not_computed_twice(tmp_path: Path) -> None:
    dataset = digits()
    rows = rows_of(tmp_path, dataset, network(dataset), max_mib=0)
    asked = np.random.default_rng(0).permutation(2700)[:640]
    rows.expect(asked)
    for start in range(0, 640, 32):
        rows.values(asked[start : start + 32])
    assert rows.rates() == {"found": 0, "computed": 640, "filled": 0, "rows": rows.rows}


def test_numbers_beyond_half_precision_stay_finite(tmp_path: Path) -> None:
    dataset = digits()
    of = network(dataset)
    with torch.no_grad():
        for parameter in of.parameters():
            parameter.mul_(300)
    said = rows_of(tmp_path, dataset, of).signals(np.arange(64))
    assert float(said.pooled_BC.max()) == 65504.0 and torch.isfinite(said.logits_BK).all()


def test_another_network_or_other_images_have_another_store(tmp_path: Path) -> None:
    dataset = digits()
    keys = {rows_of(tmp_path, dataset, network(dataset, seed=seed)).store.key for seed in (0, 1, 1)}
    assert len(keys) == 2
    for more in ({"pixel_noise": {"std": 0.1}}, {"pixel_noise": {"std": 0.1, "seed": 1}}, {"augmentation": {"pad": 2}},
                 {"augmentation": {"flip": True}}, {"mean": [0.4]}):  # fmt: skip
        other = digits(**more)
        keys.add(rows_of(tmp_path, other, network(other)).store.key)
    assert len(keys) == 7
    for more in ({"validation": 300}, {"label_noise": {"fraction": 0.3}}, {"fraction": 0.5}):
        other = digits(**more)  # a smaller part of the same images shares their store
        keys.add(rows_of(tmp_path, other, network(other)).store.key)
    assert len(keys) == 7


def test_a_change_in_the_code_of_a_network_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and layers the same, behaviour not: the probe tells them apart."""
    dataset = digits()
    of = network(dataset)
    before = rows_of(tmp_path, dataset, of).store.key
    real = type(of).forward
    monkeypatch.setattr(type(of), "forward", lambda self, images, stages=False: real(self, images * 1.0001, stages))
    forget_probes()
    assert rows_of(tmp_path, dataset, of).store.key != before


def test_a_network_whose_numbers_depend_on_the_place_is_refused(tmp_path: Path, capsys: Any) -> None:
    dataset = digits()

    class Places(_Tempered):
        def forward(self, images: torch.Tensor, stages: bool = False) -> Signals:
            said = self.inner(images)
            return Signals(said.logits_BK, said.pooled_BC + torch.arange(len(images))[:, None] * 1e-6)

    of: Any = Places(network(dataset))
    with pytest.raises(PlaceMatters):
        rows_of(tmp_path, dataset, of)
    split = dataset.split("subset").train
    caching = Caching(CacheSettings(location=str(tmp_path)), dataset.images_key, dataset.name, SMALL)
    frozen = FrozenTeacher(of, split, dataset.augmentation, 3, caching=caching)
    assert not frozen.fetches_images and frozen.cache_rates() == {}
    assert "not used: what 'Places' says" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ whole trials

DATA = DataSettings(**DIGITS, label_noise={"fraction": 0.2})
ANOTHER = {"network": {"name": "cnn", "widths": [6]}, "epochs": 1, "batch_size": 64}
TEACHERS = TeacherSettings(**small_trials.TEACHER.model_dump() | {"epochs": 2, "others": [ANOTHER]})
ANGULAR = {**small_trials.ANGULAR, "warmup_epochs": 2, "num_views": 2}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., TrialConfig]:
    def make(
        views: dict[str, Any] = ANGULAR,
        methods: tuple[dict[str, Any], ...] = ({"name": "kd"}, {"name": "crd"}),
        cache: dict[str, Any] | None = None,
        alone: bool = True,
        **training: Any,
    ) -> TrialConfig:
        file = trained(DATA, TEACHERS)
        changes = {"teacher_cache": CacheSettings(**{"location": str(tmp_path / "cache"), **(cache or {})})}
        taught = replace(file, others=()) if alone else file
        return configured(DATA, taught, views, methods, changes=changes, **{"epochs": 2, **training})

    return make


def trial_of(of: TrialConfig, table_mib: float = 64) -> Trial:
    return Trial(of, limits=TrialLimits(table_mib, CARELESS))


def numbers(of: TrialConfig, table_mib: float = 64) -> tuple[list[Any], list[dict[str, float | None]], torch.Tensor]:
    """Every metric of a trial but its timings, its rates, and the logits it leaves behind."""
    trial = trial_of(of, table_mib)
    epochs: list[Epoch] = list(trial.run())
    rates = [{k: v for k, v in epoch.row.items() if k in CACHE_RATES} for epoch in epochs]
    return small_trials.numbers(epochs, CACHE_RATES), rates, trial.close()[1].logits_NK


@pytest.mark.parametrize(("dtype", "compute"), [("fp16", None), ("fp32", None), ("fp16", "bf16")])
def test_a_trials_numbers_are_the_same_with_the_cache_cold_warm_half_full_or_off(
    config: Callable[..., TrialConfig], tmp_path: Path, dtype: str, compute: str | None
) -> None:
    (tmp_path / "file").write_text("")
    of_cache = {"dtype": dtype, "compute": compute}
    trials = {
        "off": numbers(config(cache={**of_cache, "location": str(tmp_path / "file")})),
        "cold": numbers(config(cache=of_cache)),
        "warm": numbers(config(cache=of_cache)),
    }
    (entry,) = caches.entries(tmp_path / "cache")
    store = entry.store()
    assert store is not None
    marked = np.flatnonzero(store.marked(np.arange(store.shape.rows)))
    for row in marked[np.random.default_rng(0).random(len(marked)) < 0.5].tolist():
        block, place = divmod(row, store.shape.block_rows)
        with (store.folder / f"{block:05d}.rows").open("r+b") as file:
            file.seek(place)
            file.write(b"\0")  # its mark
    trials["half full"] = numbers(config(cache=of_cache))
    trials["bounded"] = numbers(config(cache={**of_cache, "location": str(tmp_path / "tight"), "max_mib": 1}))
    rows, _, logits = trials["off"]
    for name, (of_rows, _, of_logits) in trials.items():
        assert of_rows == rows, name
        assert torch.equal(of_logits, logits), name
    hits = {name: [rate["teacher_cache_hit_rate"] for rate in rates] for name, (_, rates, _) in trials.items()}
    assert hits["off"] == [0.0] * 4 and hits["warm"] == [1.0] * 4
    assert hits["cold"][0] == 0.0 and 0 < hits["cold"][3] < 0.5  # crops recur by chance
    assert all(0.3 < rate < 0.9 for rate in hits["half full"])
    fills = [rate["teacher_cache_fill_rate"] for rate in trials["cold"][1]]
    assert fills == sorted(fills) and fills[-1] == pytest.approx(len(marked) / store.shape.rows)


def test_only_the_rounding_tells_a_trial_with_the_cache_from_one_without(config: Callable[..., TrialConfig]) -> None:
    of = config(cache={"dtype": "fp32"})
    exact, _, logits = numbers(of)
    live, rates, plain = numbers(replace(of, teacher_cache=None))
    assert rates == [{}] * 4
    assert torch.allclose(logits, plain, atol=1e-3)
    losses = [[row["loss.kd"] for stage, _, row in epochs if stage == "student"] for epochs in (exact, live)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_rows_of_another_precision_lie_in_another_store(config: Callable[..., TrialConfig], tmp_path: Path) -> None:
    trials = {}
    for precision, compute in (("fp32", None), ("bf16", None), ("bf16", "fp32"), ("fp32", "bf16")):
        trials[precision, compute] = numbers(config(cache={"compute": compute}, precision=precision))
    stored = [entry.header["facts"]["precision"] for entry in caches.entries(tmp_path / "cache") if entry.header]
    assert sorted(stored) == ["bf16", "fp32"]
    hits = {name: {rate["teacher_cache_hit_rate"] for rate in rates} for name, (_, rates, _) in trials.items()}
    assert hits["bf16", "fp32"] == hits["fp32", "bf16"] == {1.0}, "what the precision of the student does not decide"
    heads = {name: rows[0][2]["loss.views.ground_truth"] for name, (rows, _, _) in trials.items()}
    assert heads["fp32", None] == heads["bf16", "fp32"] != heads["bf16", None] == heads["fp32", "bf16"]
    assert heads["bf16", None] == pytest.approx(heads["fp32", None], rel=0.02)
    losses = [rows[-1][2]["loss.kd"] for rows, _, _ in trials.values()]
    assert len(set(losses)) == 4 and losses == pytest.approx([losses[0]] * 4, rel=0.05)


def test_tables_in_memory_give_the_numbers_of_the_cache(config: Callable[..., TrialConfig]) -> None:
    """More epochs than crops: the same trial by table, from disk, with and without a store."""
    of = config(views={"name": "none"}, methods=({"name": "kd"},), epochs=10, batch_size=64)
    assert trial_of(of).teacher.keeps_table  # type: ignore[union-attr]
    cold, warm = numbers(of), numbers(of)
    assert not trial_of(of, table_mib=0).teacher.keeps_table  # type: ignore[union-attr]
    rows = numbers(of, table_mib=0)
    assert cold[0] == warm[0] == rows[0]
    assert torch.equal(cold[2], rows[2])
    first = [ran[1][0]["teacher_cache_hit_rate"] for ran in (cold, warm, rows)]
    assert 0 < first[0] < 0.2 and first[1:] == [1.0, 1.0]


def test_trials_with_other_batch_sizes_seeds_and_images_share_rows(config: Callable[..., TrialConfig]) -> None:
    plain = config(views={"name": "none"}, methods=({"name": "kd"},))
    others = [
        replace(plain, training=TrainingSettings(epochs=2, batch_size=50), seeds=Seeds(order=1)),
        replace(plain, data=DataSettings(**DATA.model_dump() | {"validation": 300})),
    ]
    alone = numbers(plain)
    for other in others:
        numbers(other)
    assert numbers(plain)[0] == alone[0]
    again = numbers(others[1])
    assert [rate["teacher_cache_hit_rate"] for rate in again[1]] == [1.0, 1.0]
    assert len(caches.entries(Path(plain.teacher_cache.location))) == 1  # type: ignore[union-attr,arg-type]


def test_each_of_several_teachers_has_a_store(config: Callable[..., TrialConfig], tmp_path: Path) -> None:
    of = config(views={"name": "multi_teacher"}, methods=({"name": "kd"},), alone=False)
    cold, warm = numbers(of), numbers(of)
    off = numbers(config(views={"name": "multi_teacher"}, methods=({"name": "kd"},), alone=False, cache={"max_mib": 0,
                                                                "location": str(tmp_path / "off")}))  # fmt: skip
    assert cold[0] == warm[0] == off[0]
    assert len(caches.entries(tmp_path / "cache")) == 2 and not (tmp_path / "off").exists()
    assert [rate["teacher_cache_hit_rate"] for rate in warm[1]] == [1.0, 1.0]


def test_maps_come_live_while_further_teachers_and_the_warm_up_are_cached(config: Callable[..., TrialConfig]) -> None:
    of = config(methods=({"name": "kd"}, {"name": "at"}))
    cold, warm = numbers(of), numbers(of)
    assert cold[0] == warm[0]
    assert [set(rate) for rate in warm[1]] == [CACHE_RATES] * 2 + [set()] * 2
    maps_alone = trial_of(config(views={"name": "none"}, methods=({"name": "at"},), cache={"location": "/nowhere/x"}))
    assert [set(epoch.row) & CACHE_RATES for epoch in maps_alone.run()] == [set()] * 2


def test_the_warm_up_of_heads_touches_no_image_that_is_cached(
    config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = config()
    numbers(of)
    trial = trial_of(of)
    assert trial.teacher is not None and trial.teacher.fetches_images
    made: list[int] = []
    real = Split.images_of_rows

    def counted(self: Split, rows: torch.Tensor, crops: Crops | None = None) -> torch.Tensor:
        made.append(len(rows))
        return real(self, rows, crops)

    monkeypatch.setattr(Split, "images_of_rows", counted)
    assert trial.warmup_epoch(1, lambda: False)["teacher_cache_hit_rate"] == 1.0
    assert made == []
    trial.warmup_epoch(9, lambda: False)  # crops that nobody has seen: images of what is missing, in full batches
    assert set(made) == {64}


def test_stand_ins_never_reach_the_cache(config: Callable[..., TrialConfig], tmp_path: Path) -> None:
    of = config()
    Trial(of, (network(load_data(DATA, CPU), (4, 8), 5),)).timed(2)
    assert not (tmp_path / "cache").exists()


def test_a_resumed_trial_goes_on_with_the_same_numbers(config: Callable[..., TrialConfig]) -> None:
    of = config()
    whole = list(trial_of(of).run())
    for cut in (0, 2):
        resumed = list(trial_of(of).run(whole[cut].state))
        assert [epoch.row["loss.views.ground_truth"] for epoch in resumed] == [
            epoch.row["loss.views.ground_truth"] for epoch in whole[cut + 1 :]
        ]


@pytest.fixture(autouse=True)
def _forget_tables() -> Iterator[None]:
    """Tables are shared within a process; tests about who computes what begin without."""
    forget_tables()
    yield
    forget_tables()
