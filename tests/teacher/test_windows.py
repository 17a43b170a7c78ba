"""What a teacher says about windows of text: the same numbers cold, warm, half full and without a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from akdtune import networks
from akdtune.data.windows import WindowSplit
from akdtune.settings.data import Augmentation
from akdtune.settings.teacher import CacheSettings
from akdtune.teacher.asked import asked
from akdtune.teacher.cache_files import Rows
from akdtune.teacher.device_rows import device_rows, forget_resident
from akdtune.teacher.items import TextWindows, items_of
from akdtune.teacher.rows import Caching, TeacherRows
from akdtune.training.trial import Epoch, Trial
from tests.small_texts import TARGET, configured, texts, trained
from tests.small_trials import CACHE_RATES, numbers, roomy_disk

NONE = Augmentation(pad=0, flip=False)


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy_disk(monkeypatch)


def train_split() -> WindowSplit:
    split = texts().split("subset").train
    assert isinstance(split, WindowSplit)
    return split


def rows_in(folder: Path, **settings: Any) -> TeacherRows:
    network = networks.build(TARGET, texts().inputs, 0).eval().requires_grad_(False)
    caching = Caching(CacheSettings(location=str(folder), **settings), texts().images_key, "arithmetic")
    return TeacherRows(network, train_split(), NONE, caching)


def windows(*of_split: int) -> Rows:
    return TextWindows(train_split()).of_split()[list(of_split)]


def test_a_row_holds_every_answer_of_a_window_and_logits_come_from_its_head(tmp_path: Path) -> None:
    teacher, split = rows_in(tmp_path), train_split()
    asked = torch.tensor([5, 2, 9])
    said = teacher.signals(windows(5, 2, 9))
    with torch.no_grad():
        exact = teacher.network(split.inputs(asked))
    assert said.pooled_BC.shape == exact.pooled_BC.shape
    torch.testing.assert_close(said.pooled_BC, exact.pooled_BC, rtol=2e-3, atol=1e-3)
    assert torch.equal(said.pooled_BC, said.pooled_BC.half().float())
    assert torch.equal(said.logits_BK, functional.linear(said.pooled_BC, *teacher.network.classifier()))
    most = int(split.source.rows_WL.sum(axis=1).max())
    assert (teacher.keeps_logits, teacher.width) == (False, most * TARGET["width"])
    counts = split.rows_WL.sum(dim=1)
    assert counts.min() < counts.max() == most, "some windows hold fewer answers, and end in zeros"


def test_numbers_are_the_same_cold_warm_and_half_full(tmp_path: Path) -> None:
    asked = windows(*range(12))
    cold = rows_in(tmp_path / "cold").signals(asked)
    rows_in(tmp_path / "half").signals(windows(3, 1, 8))
    half = rows_in(tmp_path / "half")
    of_half, of_warm = half.signals(asked), rows_in(tmp_path / "cold").signals(asked)
    assert half.rates()["found"] >= 3
    for said in (of_half, of_warm):
        assert torch.equal(said.logits_BK, cold.logits_BK)
        assert torch.equal(said.pooled_BC, cold.pooled_BC)


def test_zeros_behind_the_answers_come_back_as_nothing() -> None:
    items = TextWindows(train_split())
    rows_B = torch.from_numpy(windows(0, 7, 3))
    answers_RX = torch.arange(3.0 * int(items.inputs(rows_B, torch.contiguous_format).rows_BL.sum())).view(-1, 3)
    kept_BY = items.kept(rows_B, answers_RX)
    assert kept_BY.shape == (3, items.answers * 3)
    assert torch.equal(items.answered(rows_B, kept_BY), answers_RX)
    assert kept_BY.count_nonzero() == answers_RX.count_nonzero()


def run(cache: CacheSettings | None, **changes: Any) -> list[Epoch]:
    config = configured({"name": "none"}, [{"name": "kd"}], others=1, changes={"teacher_cache": cache})
    trial = Trial(config)
    assert trial.teacher is not None
    if "table" in changes:
        trial.teacher.keeps_table = changes["table"]
    return list(trial.run())


def test_trials_are_the_same_whatever_the_store_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(1)
    cold = run(CacheSettings(location=str(tmp_path)), table=False)
    warm = run(CacheSettings(location=str(tmp_path)), table=False)
    in_memory = run(CacheSettings(location=str(tmp_path)), table=True)
    without_disk = run(CacheSettings(location=str(tmp_path / "full"), max_mib=0), table=False)
    expected = numbers(cold, CACHE_RATES)
    assert (
        numbers(warm, CACHE_RATES) == numbers(in_memory, CACHE_RATES) == numbers(without_disk, CACHE_RATES) == expected
    )
    assert [epoch.row["teacher_cache_hit_rate"] for epoch in cold][1] == 1
    assert [epoch.row["teacher_cache_hit_rate"] for epoch in warm] == [1, 1]
    live = numbers(run(None, table=False), CACHE_RATES)
    assert live != expected, "what passes through fp16 is rounded"
    assert live[-1][2]["val_acceptance"] == pytest.approx(expected[-1][2]["val_acceptance"], abs=0.5)


def test_split_and_roles_share_a_store(tmp_path: Path) -> None:
    whole = texts().split("full").train
    assert isinstance(whole, WindowSplit)
    teacher = rows_in(tmp_path)
    caching = Caching(CacheSettings(location=str(tmp_path)), texts().images_key, "arithmetic")
    other = TeacherRows(teacher.network, whole, NONE, caching)
    assert other.store.key == teacher.store.key
    assert np.array_equal(TextWindows(whole).of_split(), np.arange(whole.items))
    test = texts().split("full").test
    assert TeacherRows(teacher.network, test, NONE, caching).store.key != teacher.store.key


def test_a_batch_names_its_windows() -> None:
    split = train_split()
    items = items_of(split, NONE)
    assert items is not None
    for batch in split.epoch(3, 1, 5):
        rows_B = items.rows(batch.positions_B, None)
        assert torch.equal(items.inputs(rows_B, torch.contiguous_format).ids_BL, batch.inputs.ids_BL)
    rows_N, order_R = items.drawn(3, 1)
    first = next(iter(split.epoch(3, 1, 5)))
    assert np.array_equal(rows_N[order_R][:5], items.rows(first.positions_B, None).numpy())


def test_a_teacher_of_tokens_in_bfloat16(tmp_path: Path) -> None:
    split = train_split()
    network = networks.build(TARGET, texts().inputs, 0).eval().requires_grad_(False)
    caching = Caching(CacheSettings(location=str(tmp_path)), texts().images_key, "arithmetic")
    rows = TeacherRows(network, split, NONE, caching, asked(network, "bf16"))
    exact, said = rows_in(tmp_path).signals(windows(1, 2)), rows.signals(windows(1, 2))
    assert rows.store.key != rows_in(tmp_path).store.key
    torch.testing.assert_close(said.logits_BK, exact.logits_BK, rtol=0.05, atol=0.02)
    assert not torch.equal(said.logits_BK, exact.logits_BK)
    assert said.logits_BK.dtype == torch.float32


@pytest.mark.parametrize(("place", "free"), [("resident", 1e12), ("epoch", 60_000), ("batch", 0)])
def test_windows_kept_on_a_device_say_the_same(tmp_path: Path, place: str, free: float) -> None:
    split, teacher = train_split(), rows_in(tmp_path)
    items = TextWindows(split)
    (on_device,) = device_rows([teacher], split.items, torch.device("cpu"), int(free))
    forget_resident()
    assert on_device.place == place
    on_device.expect(*items.drawn(3, 1))
    for batch in split.epoch(3, 1, 5):
        rows_B = items.rows(batch.positions_B, None)
        said = on_device.signals(items.places(batch.positions_B), rows_B)
        expected = rows_in(tmp_path).signals(rows_B.numpy())
        assert torch.equal(said.logits_BK, expected.logits_BK)
