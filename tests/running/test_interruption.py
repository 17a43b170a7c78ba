"""Which signals end a command, and when one counts as the second."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from akdtune.running import interruption

EVERY = interruption.numbers(*interruption.STOPPING)


class Heard:
    """What the signals have called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def first(self) -> None:
        self.calls.append("first")

    def at_once(self) -> None:
        self.calls.append("at once")


@pytest.fixture(autouse=True)
def heard_by_default() -> Iterator[None]:
    """Whoever runs the tests in the background or under nohup has some signals ignored, which the product respects."""
    names = (*interruption.STOPPING, *interruption.AT_ONCE)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in interruption.numbers(*names)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", EVERY)
def test_every_signal_asks_once_and_a_repeat_at_once_is_the_same(number: signal.Signals) -> None:
    heard = Heard()
    with interruption.taken(heard.first, heard.at_once):
        signal.raise_signal(number)
        signal.raise_signal(number)  # `timeout` signals the process, then its group
        signal.raise_signal(signal.SIGHUP)
    assert heard.calls == ["first"]


@pytest.mark.parametrize(
    ("second", "calls"),
    [
        ("SIGINT", ["first", "at once"]),
        ("SIGTERM", ["first", "at once"]),
        ("SIGHUP", ["first"]),
        ("SIGUSR1", ["first"]),
    ],
)
def test_a_second_one_later_is_impatience_if_it_is_ctrl_c_or_kill(
    second: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption, "SAME_S", -1.0)
    heard = Heard()
    with interruption.taken(heard.first, heard.at_once):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.Signals[second])
    assert heard.calls == calls


def test_sigquit_ends_at_once() -> None:
    heard = Heard()
    with interruption.taken(heard.first, heard.at_once):
        signal.raise_signal(signal.SIGQUIT)
    assert heard.calls == ["at once"]


def test_what_the_parent_ignores_stays_ignored_but_for_ctrl_c() -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        heard = Heard()
        with interruption.taken(heard.first, heard.at_once) as take_again:
            take_again()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "nohup"
            signal.raise_signal(signal.SIGHUP)
            assert heard.calls == []
            signal.raise_signal(signal.SIGINT)
        assert heard.calls == ["first"]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in EVERY]
    with interruption.taken(lambda: None, lambda: None):
        assert [signal.getsignal(number) for number in EVERY] != before
    assert [signal.getsignal(number) for number in EVERY] == before


def test_outside_the_main_thread_nothing_is_taken() -> None:
    before, during = signal.getsignal(signal.SIGTERM), []

    def body() -> None:
        with interruption.taken(lambda: None, lambda: None):
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert during == [before]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_every_command_that_a_signal_ends_has_the_same_exit_code(number: signal.Signals) -> None:
    code = f"""
import signal
from akdtune import cli
import akdtune.folders
akdtune.folders.packaged = lambda: signal.raise_signal({int(number)})
raise SystemExit(cli.main(["spaces"]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (interruption.INTERRUPTED, "", "")
