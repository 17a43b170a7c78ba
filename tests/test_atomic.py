"""Files are there whole or not at all: full disks, interruptions, a check that refuses, several threads."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from akdtune import atomic
from akdtune.errors import StudyError
from akdtune.records.files import LOCK, write_rows
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_directory import Superseded, TrialDirectory
from akdtune.reports.text import save
from akdtune.teacher import cache_files

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["größer", b"gr\xc3\xb6\xc3\x9fer", memoryview(b"gr\xc3\xb6\xc3\x9fer")])
@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced(tmp_path: Path, content: str | bytes | memoryview, durable: bool) -> None:
    for _ in range(2):
        atomic.write(tmp_path / "file", content, durable=durable)
        assert (tmp_path / "file").read_text(encoding="utf-8") == "größer"
    assert names(tmp_path) == ["file"]


WRITERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "write": (lambda folder: atomic.write(folder / "file", "new", durable=True), OSError),
    "table": (lambda folder: write_rows(folder / "file", [{"a": 1}], durable=True), StudyError),
    "report": (lambda folder: save(folder / "file", "new"), StudyError),
    "trial": (lambda folder: TrialDirectory(folder).write_outcome({}), OSError),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_former_file_and_nothing_else(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, kind = WRITERS[writer]
    name = "outcome.json" if writer == "trial" else "file"
    (tmp_path / name).write_text("former")

    def full(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(kind, match="No space left on device") as raised:
        write(tmp_path)
    assert (raised.value if kind is OSError else raised.value.__cause__) is FULL
    assert (tmp_path / name).read_text() == "former"
    assert names(tmp_path) == [name]


def test_durable_bytes_are_on_disk_before_they_have_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append((os.fstat(descriptor).st_size, (tmp_path / "file").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write(tmp_path / "file", "12345", durable=True)
    assert seen[0] == (5, False)
    assert [there for _, there in seen[1:]] == [True]  # then the folder, which holds the name
    atomic.write(tmp_path / "file", "12345")
    assert len(seen) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_writer_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def write() -> None:
        with atomic.opened(tmp_path / "file") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == []


def test_a_check_has_the_last_word(tmp_path: Path) -> None:
    def refuse() -> None:
        raise Superseded("later")

    with pytest.raises(Superseded), atomic.beside(tmp_path / "file", refuse) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == []


def test_threads_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    texts = [str(number) * 10_000 for number in range(8)]
    threads = [
        threading.Thread(target=lambda text=text: [atomic.write(tmp_path / "file", text) for _ in range(20)])
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() in texts
    assert names(tmp_path) == ["file"]


def test_what_killed_writers_leave_is_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    left: list[str] = []
    with atomic.beside(folder / "00000.rows") as temporary:
        temporary.write_bytes(b"half")
        left = [path.name for path, _ in cache_files.block_files(tmp_path)]
        assert atomic.left_over(folder, "00000.rows") == [temporary]
        assert atomic.left_over(folder, "rows") == atomic.left_over(tmp_path / "none", "rows") == []
        assert list(folder.glob(f"*{atomic.TEMPORARY}")) == [temporary]
    assert left == [temporary.name]


def test_a_study_begins_where_a_killed_one_left_half_a_lock(tmp_path: Path) -> None:
    for name in (f".{LOCK}.4711.1.tmp", f".{LOCK}"):  # the latter as earlier versions named it
        (tmp_path / name).write_text("half")
    with StudyDirectory(tmp_path).opened():
        pass
    assert names(tmp_path) in ([], [".lock"])
