"""Texts as windows: what is in them, which rows count, who sees which, and that nobody's test leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from akdtune.data.dataset import load_data, missing_files
from akdtune.data.windows import WindowData, WindowSplit
from akdtune.errors import DataError
from akdtune.settings.data import data_settings
from akdtune.study.ids import cell_hash

CPU = torch.device("cpu")


def loaded(**section: Any) -> WindowData:
    data = load_data(data_settings({"validation": 5, **section}), CPU)
    assert isinstance(data, WindowData)
    return data


def text_file(folder: Path, text: str, **section: Any) -> WindowData:
    (folder / "text.txt").write_text(text)
    return loaded(name="text", file=str(folder / "text.txt"), **section)


def words(data: WindowData, split: WindowSplit, window: int = 0) -> tuple[str, str]:
    """What a window says, and what its rows are to say next."""
    assert data.classes is not None
    inputs, labels = split.inputs(torch.tensor([window])), split.labels_N[split.positions(torch.tensor([window]))]
    return tuple("".join(data.classes[token] for token in part.flatten()) for part in (inputs.ids_BL, labels))  # type: ignore[return-value]


def test_windows_of_a_text_share_no_token(tmp_path: Path) -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(13 * 11 + 4))
    data = text_file(tmp_path, text, window=12, test=2, validation=3)
    split = data.split("subset")
    assert (split.train.items, split.test.items, data.inputs.num_classes) == (6, 2, 26)
    assert split.validation is not None
    assert split.validation.items == 3
    assert words(data, split.test, 1) == (text[130:142], text[131:143])
    numbers = torch.cat([part.numbers_W for part in (split.train, split.validation, split.test)])
    assert sorted(numbers.tolist()) == list(range(11))
    ids = torch.cat([part.sample_ids_N for part in (split.train, split.validation, split.test)])
    assert len(set(ids.tolist())) == len(ids) == 11 * 12


def test_all_of_the_pool_trains_where_nothing_is_selected(tmp_path: Path) -> None:
    data = text_file(tmp_path, "abcdefgh" * 60, window=7, test=0.25)
    assert (data.split("full").train.items, data.split("full").validation) == (45, None)
    assert data.split("subset").train.items == 40
    assert data.fingerprint("subset") != data.fingerprint("full")


def test_python_docs_are_characters_of_this_python() -> None:
    data = loaded(name="python_docs", characters=6500)
    assert data.inputs.length == 64
    assert data.split("subset").test.items == 10
    assert data.classes is not None
    assert data.classes[:2] == ("\n", " ")
    assert sorted(data.classes) == list(data.classes)
    assert missing_files(data.settings) == []


def test_python_docs_without_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akdtune.datasets.texts.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"this Python has no pydoc_data\.topics"):
        loaded(name="python_docs")


def test_sums_are_right_and_only_answers_count() -> None:
    data = loaded(name="arithmetic", window=32, sums=300, below=50)
    split = data.split("subset")
    for window in range(split.train.items):
        asked, answers = words(data, split.train, window)
        sums = [part for part in asked.rstrip(";").split(";") if part]
        right = [str(eval(part.partition("=")[0])) for part in sums]
        assert [part.partition("=")[2] for part in sums[:-1]] == right[:-1]
        assert answers == "".join(f"{number};" for number in right)


def test_sums_are_the_same_everywhere() -> None:
    data = loaded(name="arithmetic", sums=300)
    assert words(data, data.split("full").train)[0] == "91+30=121;96-77=19;67-43=24;67-26=41;22+61=83;;;"
    assert data.content_hash == "6fc9b8f32cdd0de48ca2720d95c8b8ff"
    more = loaded(name="arithmetic", sums=600)
    first, longer = (each.split("full").train.ids_WL for each in (data, more))
    assert torch.equal(first, longer[: len(first)])
    assert loaded(name="arithmetic", sums=300, seed=1).content_hash != data.content_hash


def test_bytes_and_characters(tmp_path: Path) -> None:
    text = "naïve çafé…" * 40
    characters = text_file(tmp_path, text, window=9)
    of_bytes = text_file(tmp_path, text, window=9, vocabulary="bytes")
    assert characters.inputs.num_classes == len(set(text))
    assert of_bytes.inputs.num_classes == 256
    train = of_bytes.split("full").train
    assert bytes(train.ids_WL[0].tolist()) == text.encode()[:9]


@pytest.mark.parametrize(
    ("content", "section", "message"),
    [
        (b"\xff\xfe", {}, r"is not UTF-8 text \(byte 0\)"),
        (b"too short", {}, r"has 9 characters, 0 windows of 64 and the one behind \(allowed: at least 195, for one"),
        (b"a" * 650, {"test": 10}, r"data.test is 10 of 10 windows, which leaves none to train on"),
        (b"a" * 650, {"validation": 9}, r"data.validation is 9 of 9 windows, which leaves none to train on"),
    ],
)
def test_texts_that_cannot_be_cut(tmp_path: Path, content: bytes, section: dict[str, Any], message: str) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        loaded(name="text", file=str(tmp_path / "text.txt"), **section).split("subset")


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "none.txt"
    section = data_settings({"name": "text", "file": str(file), "validation": 1})
    assert missing_files(section) == [f"{file} (data.file)"]
    with pytest.raises(DataError, match=r"data\.file: .*none.txt: No such file or directory"):
        load_data(section, CPU)


def test_an_epoch_visits_each_row_once_in_whole_windows() -> None:
    train = loaded(name="arithmetic", sums=300, window=24).split("subset").train
    batches = list(train.epoch(7, 1, 16))
    visited = torch.cat([batch.positions_B for batch in batches])
    assert sorted(visited.tolist()) == list(range(len(train)))
    for batch in batches:
        windows_B = train.windows_of(batch.positions_B)
        assert torch.equal(train.inputs(windows_B).ids_BL, batch.inputs.ids_BL)
        assert torch.equal(train.positions(windows_B), batch.positions_B)
        assert int(batch.inputs.rows_BL.sum()) == len(batch.positions_B)
    again, other = (torch.cat([b.positions_B for b in train.epoch(7, epoch, 16)]) for epoch in (1, 2))
    assert torch.equal(again, visited)
    assert not torch.equal(other, visited)


def test_plain_batches_are_in_order_and_the_first_windows_are_the_first() -> None:
    train = loaded(name="arithmetic", sums=300, window=24).split("subset").train
    positions = torch.cat([positions_R for positions_R, _ in train.plain_batches(5)])
    assert torch.equal(positions, torch.arange(len(train)))
    few = train.first(3)
    assert (few.items, len(few)) == (3, int(train.rows_WL[:3].sum()))
    assert torch.equal(few.labels_N, train.labels_N[: len(few)])


def test_windows_are_measured_by_memory() -> None:
    train = loaded(name="python_docs", characters=6500).split("subset").train
    assert train.at_once == 16 * 2**20 // (4 * 64 * train._vocabulary)


def test_a_rehearsal_takes_the_first_windows() -> None:
    data = loaded(name="arithmetic", sums=300, rehearsal=12, validation=2)
    split = data.split("subset")
    assert (split.train.items, split.test.items) == (10, 3)


def test_where_a_text_lies_is_no_part_of_a_cell() -> None:
    sections = [{"data": {"name": "text", "file": file, "validation": 1}} for file in ("here", "there")]
    assert len({cell_hash(section, "same", "teacher") for section in sections}) == 1


def test_arrays_are_what_they_say() -> None:
    split = loaded(name="arithmetic", sums=300).split("full")
    assert split.train.sample_ids_N.dtype == split.train.labels_N.dtype == torch.int64
    assert np.array_equal(split.train.training_labels_N, split.train.labels_N)
