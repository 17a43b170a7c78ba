"""A study works in a thread; the main thread answers signals and notices when the work can come to nothing."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from akdtune.errors import RayError, StudyError
from akdtune.running import supervision
from akdtune.running.supervision import Supervision


@pytest.fixture
def hang() -> threading.Event:
    return threading.Event()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, hang: threading.Event) -> object:
    monkeypatch.setattr(supervision, "ANSWER_S", 0.3)
    monkeypatch.setattr(supervision, "HARMLESS_S", 0.1)
    monkeypatch.setattr(supervision, "WATCH_EVERY_S", 0.0)
    monkeypatch.setattr(supervision, "LAST_WORDS_S", 0.0)
    monkeypatch.setattr(supervision, "_left_behind", False)
    yield
    hang.set()  # else the thread outlives the test


def test_it_gives_what_the_work_gives() -> None:
    watched = Supervision()
    assert watched.run(lambda: 7, lambda: 130) == 7
    assert not watched.left_behind


def test_an_error_of_the_work_arrives_with_its_traceback() -> None:
    def work() -> int:
        raise StudyError("no")

    with pytest.raises(StudyError, match="no") as caught:
        Supervision().run(work, lambda: 130)
    assert caught.traceback[-1].name == "work"


def test_a_signal_is_told_and_the_work_ends_by_itself() -> None:
    watched, told = Supervision(), threading.Event()
    watched.on_stop = told.set

    def work() -> int:
        signal.raise_signal(signal.SIGUSR1)
        assert told.wait(30)
        return 5

    assert watched.run(work, lambda: 130) == 5
    assert watched.stopping > 0


def test_work_that_does_not_answer_a_signal_is_left_behind(hang: threading.Event) -> None:
    watched = Supervision()

    def work() -> int:
        signal.raise_signal(signal.SIGTERM)
        hang.wait()
        return 0

    began = time.monotonic()
    assert watched.run(work, lambda: 130) == 130
    assert time.monotonic() - began < 20
    assert watched.left_behind


def test_writing_what_is_there_is_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Supervision()

    def work() -> int:
        watched.unhurried()
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.8)
        return 0

    assert watched.run(work, lambda: 130) == 0


def test_what_hangs_beyond_its_bound_is_said_in_a_sentence(hang: threading.Event) -> None:
    watched = Supervision()

    def work() -> int:
        with watched.harmless(0.1, "nobody answers"):
            hang.wait()
        return 0

    with pytest.raises(RayError, match="nobody answers"):
        watched.run(work, lambda: 130)
    assert watched.left_behind


def test_what_is_lost_is_said_in_a_sentence(hang: threading.Event) -> None:
    watched = Supervision()
    answers = iter([None, None, "Ray is gone"])

    def work() -> int:
        watched.lost = lambda: next(answers)
        hang.wait()
        return 0

    with pytest.raises(RayError, match="Ray is gone"):
        watched.run(work, lambda: 130)


def test_a_loss_after_a_signal_is_an_interruption(hang: threading.Event) -> None:
    watched = Supervision()

    def work() -> int:
        signal.raise_signal(signal.SIGTERM)
        watched.lost = lambda: "Ray is gone"
        hang.wait()
        return 0

    assert watched.run(work, lambda: 130) == 130
