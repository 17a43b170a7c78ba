"""Texts as characters or bytes: Python's own documentation, sums that are made up, a file of the user's."""

# Shapes: M sums, T tokens of a text.

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from typing_extensions import override

from akdtune.data.source import RowSource
from akdtune.data.windows import LONGEST, Ids, Texts, WindowData, Windows, cut, held_back
from akdtune.errors import DataError
from akdtune.randomness import Stream, below, random_words
from akdtune.registry import register
from akdtune.settings.data import RowDataSettings
from akdtune.signals import Takes, TokenSpec

BYTES, USUAL_CHARACTERS = 256, 100

NO_TOPICS = "this Python has no pydoc_data.topics, whose text python_docs is (install Python's standard library whole)"


class WindowSettings(RowDataSettings):
    """Texts that are cut into windows."""

    window: int = Field(64, ge=2, lt=LONGEST, description="tokens of a window, which is what batch_size counts")
    test: PositiveInt | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="windows at the end of the text that are the test set: how many, or which share"
    )


class DocsSettings(WindowSettings):
    """How much of Python's documentation."""

    characters: PositiveInt | None = Field(None, description="so many from the beginning; null: all")


class SumsSettings(WindowSettings):
    """Which sums."""

    window: int = Field(48, ge=24, lt=LONGEST, description="tokens of a window, filled with whole sums")
    sums: PositiveInt = Field(12_000, le=10_000_000, description="how many, in the order in which they are drawn")
    below: int = Field(100, ge=2, le=1_000_000, description="both numbers of a sum are smaller")
    seed: int = Field(0, description="of the numbers")


class TextSettings(WindowSettings):
    """Which file."""

    file: str = Field(min_length=1, description="a text file in UTF-8", examples=["~/corpus.txt"])
    vocabulary: Literal["characters", "bytes"] = Field(
        "characters", description="characters: those that occur, each a token; bytes: 256 tokens whatever occurs"
    )
    characters: PositiveInt | None = Field(None, description="so many from the beginning; null: all")


class TextSource(RowSource):
    """A text whose tail is the test set."""

    takes: ClassVar[Takes] = "tokens"

    @classmethod
    def texts(cls, settings: RowDataSettings) -> Texts:
        """Reads it.

        Raises:
            DataError: naming what is missing or wrong.
        """
        raise NotImplementedError

    @classmethod
    @override
    def spec(cls, settings: RowDataSettings) -> TokenSpec:
        """With as many characters as English texts have, where that is not known."""
        assert isinstance(settings, WindowSettings)
        return TokenSpec(cls.class_count(settings) or USUAL_CHARACTERS, settings.window)

    @classmethod
    @override
    def load(cls, settings: RowDataSettings, device: torch.device) -> WindowData:
        """Reads the text, cuts it, and puts it on a device."""
        return WindowData(settings, cls.texts(settings), device)


@register("python_docs", kind="data")
class PythonDocs(TextSource):
    """The topics of Python's `help`, one character a token: some 460,000 of English that every Python brings along.

    The text is another one in another version of Python, and so is its content hash, which is part of every cell.
    """

    source = "pydoc_data.topics, Python Software Foundation (PSF licence)"
    Settings = DocsSettings
    example = "{name: python_docs, validation: 0.1}"

    @classmethod
    @override
    def missing(cls, settings: RowDataSettings) -> list[str]:
        there = find_spec("pydoc_data") is not None and find_spec("pydoc_data.topics") is not None
        return [] if there else ["pydoc_data.topics of this Python"]

    @classmethod
    @override
    def texts(cls, settings: RowDataSettings) -> Texts:
        assert isinstance(settings, DocsSettings)
        if cls.missing(settings):
            raise DataError(f"data: {NO_TOPICS}")
        from pydoc_data.topics import topics  # late: half a megabyte that no other data set needs

        text = "\n".join(topics[name] for name in sorted(topics))
        return of_text(text[: settings.characters], "characters", settings, "python_docs")


@register("arithmetic", kind="data")
class Arithmetic(TextSource):
    """Made-up sums and differences, one character a token: `37+58=95;` and so on, the same everywhere.

    A window holds as many whole sums as fit; what is left of it is filled with `;`. Rows are what follows `=`: the
    answer and its `;`. Numbers come from (seed, number of the sum) alone, so that more sums begin with the same ones.
    """

    source = "akdtune's own, from no paper"
    Settings = SumsSettings
    example = "{name: arithmetic, validation: 0.1}"
    signs = "0123456789+-=;"

    @classmethod
    @override
    def class_count(cls, settings: RowDataSettings) -> int:
        return len(cls.signs)

    @classmethod
    @override
    def texts(cls, settings: RowDataSettings) -> Texts:
        assert isinstance(settings, SumsSettings)
        words = random_words(settings.seed, 0, np.arange(settings.sums), Stream.ARITHMETIC)
        first_M, second_M = below(words[:2], settings.below)
        minus_M = (words[2] >> np.uint64(31)).astype(bool)
        length, number = settings.window, {sign: place for place, sign in enumerate(cls.signs)}
        texts: list[str] = []
        masks: list[list[bool]] = []
        for first, second, minus in zip(first_M.tolist(), second_M.tolist(), minus_M.tolist(), strict=True):
            asked, answer = f"{first}+{second}=", f"{first + second};"
            if minus:
                high, low = max(first, second), min(first, second)
                asked, answer = f"{high}-{low}=", f"{high - low};"
            if not texts or len(texts[-1]) + len(asked) + len(answer) > length + 1:
                texts.append("")
                masks.append([])
            texts[-1] += asked + answer
            masks[-1] += [False] * len(asked) + [True] * len(answer)
        ids = np.array([[number[sign] for sign in text.ljust(length + 1, ";")] for text in texts], np.int64)
        answers = np.array([mask + [False] * (length + 1 - len(mask)) for mask in masks], bool)
        test = held_back(len(ids), settings.test, "data.test")
        windows = Windows(ids, answers[:, 1:])
        return Texts(windows.some(slice(-test)), windows.some(slice(-test, None)), len(cls.signs), tuple(cls.signs))


@register("text", kind="data")
class TextFile(TextSource):
    """A text file of the user's, one character or byte a token."""

    source = "the user's"
    Settings = TextSettings
    required_settings = ("file",)
    example = "{name: text, file: ~/corpus.txt, validation: 0.1}"

    @classmethod
    @override
    def class_count(cls, settings: RowDataSettings) -> int | None:
        assert isinstance(settings, TextSettings)
        return BYTES if settings.vocabulary == "bytes" else None

    @classmethod
    @override
    def missing(cls, settings: RowDataSettings) -> list[str]:
        assert isinstance(settings, TextSettings)
        file = Path(settings.file).expanduser()
        return [] if file.is_file() else [f"{file} (data.file)"]

    @classmethod
    @override
    def texts(cls, settings: RowDataSettings) -> Texts:
        assert isinstance(settings, TextSettings)
        file = Path(settings.file).expanduser()
        try:
            text = file.read_bytes().decode()
        except OSError as error:
            raise DataError(f"data.file: {file}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"data.file: {file} is not UTF-8 text (byte {error.start})") from error
        return of_text(text[: settings.characters], settings.vocabulary, settings, str(file))


def of_text(text: str, vocabulary: Literal["characters", "bytes"], settings: WindowSettings, name: str) -> Texts:
    """A text as tokens, cut into windows.

    Args:
        text: the whole.
        vocabulary: characters (those that occur anywhere in the text, in the order of their code points) or bytes.
        settings: of the windows.
        name: of the text, for messages.

    Raises:
        DataError: for a text that is too short.
    """
    if vocabulary == "bytes":
        ids_T: Ids = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        known, classes = BYTES, None
    else:
        points_T = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        points, places_T = np.unique(points_T, return_inverse=True)
        ids_T = places_T.astype(np.int64)
        known, classes = len(points), tuple(chr(point) for point in points.tolist())
    windows = cut(ids_T, settings.window)
    count = len(windows.ids_WX)
    if count < 3:
        least = 3 * (settings.window + 1)
        raise DataError(
            f"data: {name} has {len(ids_T):,} {vocabulary}, {count} windows of {settings.window} and the one behind"
            f" (allowed: at least {least:,}, for one window each to train on, to validate on and to test on)"
        )
    test = held_back(count, settings.test, "data.test")
    return Texts(windows.some(slice(-test)), windows.some(slice(-test, None)), known, classes)
