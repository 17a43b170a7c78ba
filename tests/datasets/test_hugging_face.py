"""Prompts and answers that `datasets` saved: which tokens count, what is cut, what is refused; no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from akdtune.data.dataset import load_data, missing_files
from akdtune.data.windows import WindowData
from akdtune.errors import DataError
from akdtune.settings.data import data_settings

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["<end>", "what", "is", "one", "two", "three", "and", "?"]
QUESTIONS = [("what is one and one ?", "two"), ("what is two and one ?", "three"), ("what is one ?", "one and one")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("tokenizer")
    of_words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<end>"))
    of_words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=of_words, eos_token="<end>").save_pretrained(where)
    return where


def saved(folder: Path, rows: int = 6, **splits: int) -> Path:
    def of(count: int) -> Any:
        pairs = [QUESTIONS[i % len(QUESTIONS)] for i in range(count)]
        return datasets.Dataset.from_dict({"question": [q for q, _ in pairs], "answer": [a for _, a in pairs]})

    where = folder / "set"
    (datasets.DatasetDict({name: of(count) for name, count in splits.items()}) if splits else of(rows)).save_to_disk(
        where
    )
    return where


def loaded(path: Path, tokenizer: Path, **section: Any) -> WindowData:
    own = {"name": "hf", "path": str(path), "tokenizer": str(tokenizer), "prompt": "question", "validation": 1}
    data = load_data(data_settings({**own, "window": 9, **section}), torch.device("cpu"))
    assert isinstance(data, WindowData)
    return data


def test_answers_alone_are_rows(tmp_path: Path, tokenizer: Path) -> None:
    data = loaded(saved(tmp_path), tokenizer, test=2)
    train = data.split("full").train
    assert (data.inputs.num_classes, train.items, data.split("full").test.items) == (len(WORDS), 4, 2)
    words = [[WORDS[token] for token in train.ids_WL[window]] for window in range(4)]
    assert words[0][:7] == ["what", "is", "one", "and", "one", "?", "two"]
    labels = [[WORDS[t] for t in train.labels_N[train.positions(torch.tensor([w]))]] for w in range(3)]
    assert labels == [["two", "<end>"], ["three", "<end>"], ["one", "and", "one", "<end>"]]
    assert train.rows_WL[0].tolist() == [False] * 5 + [True] * 2 + [False] * 2


def test_splits_of_the_set_are_used(tmp_path: Path, tokenizer: Path) -> None:
    data = loaded(saved(tmp_path, train=5, test=3), tokenizer)
    assert (data.split("full").train.items, data.split("full").test.items) == (5, 3)
    again = loaded(tmp_path / "set", tokenizer)
    assert again.content_hash == data.content_hash


def test_what_is_too_long_is_cut_or_left_out_and_said(tmp_path: Path, tokenizer: Path) -> None:
    data = loaded(saved(tmp_path), tokenizer, window=5, test=1)
    assert data.notes == (
        "6 of 6 examples are cut after 6 tokens (data.window)",
        "4 examples are left out: nothing of their answers is within data.window",
    )
    assert data.split("full").train.items == 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"answer": "solution"}, r"data\.answer: no column 'solution' \(there are question, answer\)"),
        ({"train_split": "learn"}, r"data\.train_split: 'learn' is none of test, train"),
        ({"window": 2}, r"data\.path: no example has a token of its answer within 2 \(data\.window\)"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, tokenizer: Path, section: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        loaded(saved(tmp_path, train=5, test=3), tokenizer, **section)


def test_folders_that_are_missing_or_hold_something_else(tmp_path: Path, tokenizer: Path) -> None:
    section = {"name": "hf", "path": str(tmp_path / "no"), "tokenizer": str(tokenizer), "validation": 1}
    assert missing_files(data_settings(section)) == [f"{tmp_path / 'no'} (data.path)"]
    with pytest.raises(DataError, match=r"data\.path: .* cannot be read \("):
        loaded(tokenizer, tokenizer)
    with pytest.raises(DataError, match=r"data\.tokenizer: .* cannot be read \("):
        loaded(saved(tmp_path), tmp_path)


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r'hf needs datasets.*pip install "akdtune\[language\]"'):
        data_settings({"name": "hf", "path": "a", "tokenizer": "b", "validation": 1})
