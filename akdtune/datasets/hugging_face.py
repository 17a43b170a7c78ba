"""Prompts and answers out of a data set that Hugging Face's `datasets` has saved to disk, with a tokenizer's folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from typing_extensions import override

from akdtune.data.source import RowSource
from akdtune.data.store import kept
from akdtune.data.windows import LONGEST, Texts, WindowData, Windows, held_back
from akdtune.errors import DataError
from akdtune.registry import register
from akdtune.settings.data import RowDataSettings
from akdtune.signals import Takes, TokenSpec

NEEDED = ("datasets", "transformers")
PARTS = ("train_ids", "train_rows", "test_ids", "test_rows")


class AnswersSettings(RowDataSettings):
    """Where prompts and answers are."""

    path: str = Field(min_length=1, description="folder that `save_to_disk` wrote", examples=["~/gsm8k"])
    tokenizer: str = Field(min_length=1, description="folder of a tokenizer, as save_pretrained writes it")
    prompt: str = Field("prompt", description="column of the text that is given")
    answer: str = Field("answer", description="column of the text whose tokens are predicted and counted")
    window: int = Field(256, ge=2, lt=LONGEST, description="tokens of an example; what is longer is cut at its end")
    train_split: str = Field("train", description="of a set with several: the training pool")
    test_split: str = Field("test", description="of a set with several: the test set, where there is one")
    test: PositiveInt | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="without a test split: examples at the end that are the test set: how many, or which share"
    )

    @model_validator(mode="after")
    def _can_be_read(self) -> AnswersSettings:
        if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            raise ValueError(f'hf needs {missing[0]}, which is not installed: pip install "akdtune[language]"')
        return self


@register("hf", kind="data")
class SavedAnswers(RowSource):
    """Prompts and answers; the tokens of the answers, and the one that ends them, are rows.

    An example is a window: prompt, answer, end of text. What follows is padding, and no row. Nothing is downloaded, and
    no code of the files' is run.
    """

    source = "the user's"
    takes: ClassVar[Takes] = "tokens"
    Settings = AnswersSettings
    required_settings = ("path", "tokenizer")
    example = "{name: hf, path: ~/gsm8k, tokenizer: ~/pythia-31m, validation: 0.05}"

    @classmethod
    @override
    def missing(cls, settings: RowDataSettings) -> list[str]:
        assert isinstance(settings, AnswersSettings)
        folders = {"path": settings.path, "tokenizer": settings.tokenizer}
        return [f"{folder} (data.{key})" for key, folder in folders.items() if not Path(folder).expanduser().is_dir()]

    @classmethod
    @override
    def spec(cls, settings: RowDataSettings) -> TokenSpec:
        """With as many tokens as GPT-2's, which the tokenizer alone knows."""
        assert isinstance(settings, AnswersSettings)
        return TokenSpec(50_257, settings.window)

    @classmethod
    @override
    def load(cls, settings: RowDataSettings, device: torch.device) -> WindowData:
        """Tokens of all examples; found in the cache where the same files were read before."""
        assert isinstance(settings, AnswersSettings)
        files = [file for folder in (settings.path, settings.tokenizer) for file in _files(folder)]
        options = settings.model_dump(exclude={"path", "tokenizer", "validation", "split_seed", "rehearsal"})

        def build(folder: Path, contents: str) -> Mapping[str, Any]:
            texts = read(settings)
            parts = texts.train.ids_WX, texts.train.rows_WL, texts.test.ids_WX, texts.test.rows_WL
            for name, array in zip(PARTS, parts, strict=True):
                np.save(folder / f"{name}.npy", array)
            np.save(folder / "vocabulary.npy", texts.vocabulary)
            (folder / "notes.txt").write_text("\n".join(texts.notes))
            return {}

        def opened(folder: Path) -> Texts:
            train_ids, train_rows, test_ids, test_rows = (np.load(folder / f"{name}.npy") for name in PARTS)
            vocabulary = int(np.load(folder / "vocabulary.npy"))
            notes = tuple((folder / "notes.txt").read_text().splitlines())
            return Texts(Windows(train_ids, train_rows), Windows(test_ids, test_rows), vocabulary, None, notes)

        return WindowData(settings, kept(files, options, build, opened), device)


def read(settings: AnswersSettings) -> Texts:
    """Reads and tokenizes.

    Raises:
        DataError: naming the folder, split or column that is missing or wrong.
    """
    import datasets  # late: an extra that takes seconds to load
    import transformers  # late: likewise

    tokenizer = _opened(
        "tokenizer", settings.tokenizer, lambda folder: transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ),
    )  # fmt: skip
    whole = _opened("path", settings.path, lambda folder: datasets.load_from_disk(folder))
    if isinstance(whole, datasets.DatasetDict):
        if settings.train_split not in whole:
            raise DataError(f"data.train_split: '{settings.train_split}' is none of {', '.join(sorted(whole))}")
        pool, test = whole[settings.train_split], whole.get(settings.test_split)
    else:
        pool, test = whole, None
    notes: list[str] = []
    windows = _windows(pool, tokenizer, settings, notes)
    if test is None:
        last = held_back(len(windows.ids_WX), settings.test, "data.test")
        return Texts(windows.some(slice(-last)), windows.some(slice(-last, None)), len(tokenizer), notes=tuple(notes))
    return Texts(windows, _windows(test, tokenizer, settings, notes), len(tokenizer), notes=tuple(notes))


def _windows(examples: Iterable[Any], tokenizer: Any, settings: AnswersSettings, notes: list[str]) -> Windows:
    """A window for each example that has a token of its answer in it; `notes` take what was cut or left out."""
    columns = getattr(examples, "column_names", [])
    for key, column in (("prompt", settings.prompt), ("answer", settings.answer)):
        if column not in columns:
            raise DataError(f"data.{key}: no column '{column}' (there are {', '.join(columns)})")
    length, ends = settings.window + 1, [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    ids: list[list[int]] = []
    asked: list[int] = []
    cut = 0
    for example in examples:
        prompt = tokenizer(example[settings.prompt], add_special_tokens=False)["input_ids"]
        answer = tokenizer(example[settings.answer], add_special_tokens=False)["input_ids"] + ends
        cut += len(prompt) + len(answer) > length
        ids.append([*prompt, *answer][:length])
        asked.append(max(1, len(prompt)))  # the first token of all has nothing before it
    place_X = np.arange(length)
    counts = np.array([len(each) for each in ids])
    ids_WX = np.array([each + [0] * (length - len(each)) for each in ids], np.int64).reshape(-1, length)
    answers_WX = (place_X >= np.array(asked)[:, None]) & (place_X < counts[:, None])
    some_W = answers_WX.any(axis=1)
    if not some_W.any():
        raise DataError(f"data.path: no example has a token of its answer within {settings.window} (data.window)")
    if cut:
        notes.append(f"{cut:,} of {len(ids):,} examples are cut after {length:,} tokens (data.window)")
    if not some_W.all():
        notes.append(f"{int((~some_W).sum()):,} examples are left out: nothing of their answers is within data.window")
    return Windows(ids_WX[some_W], answers_WX[some_W][:, 1:])


def _opened(key: str, folder: str, read_from: Any) -> Any:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DataError(f"data.{key}: {path}: no such folder")
    try:
        return read_from(str(path))
    except Exception as error:  # of another library's code, for files of the user's
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"data.{key}: {path} cannot be read ({reason})") from error


def _files(folder: str) -> list[Path]:
    path = Path(folder).expanduser()
    return sorted(file for file in path.rglob("*") if file.is_file() and "cache-" not in file.name)
