"""Signals to the driver and to its whole process group: it says how to go on, and never says 0 with work left."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.faults import judge, studies
from tests.faults.studies import EPOCHS, patience
from tests.faults.trouble import Trouble

pytestmark = pytest.mark.ray

ANSWERED_WITHIN_S = 5.0


def stop(trouble: Trouble, number: signal.Signals, to: str, epochs: int, name: str = "grid") -> None:
    study = trouble.study(name)
    command = trouble.begin(study)
    assert command.epochs(epochs)
    command.look()
    (os.killpg if to == "group" else os.kill)(command.pid, number)
    trouble.inject(f"{number.name} to the {to}")
    asked = time.monotonic()
    code, output = trouble.ended(command, study, 90.0)
    took_s = time.monotonic() - asked
    if took_s > ANSWERED_WITHIN_S * patience():
        trouble.found.append(f"slow: {number.name} answered after {took_s:.1f} s")
    left = judge.unfinished(study.root)
    if left and code < 0:
        trouble.found.append(f"exits: {code}, died of {number.name}: {output[-300:]}")
    if left:
        trouble.says_how_to_go_on(output)
    ended = judge.ended(study.root)
    trouble.goes_on(study)
    trouble.settle(study, attempts=ended)


def test_terminated_as_slurm_does(trouble: Trouble) -> None:
    stop(trouble, signal.SIGTERM, "group", trouble.random.randint(1, EPOCHS))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "to"),
    [("SIGINT", "driver"), ("SIGINT", "group"), ("SIGTERM", "driver"), ("SIGUSR1", "driver"), ("SIGHUP", "driver")],
)
def test_signals(trouble: Trouble, name: str, to: str) -> None:
    stop(trouble, signal.Signals[name], to, trouble.random.randint(1, 2 * EPOCHS))


@pytest.mark.long
def test_interrupted_twice_leaves_at_once(trouble: Trouble) -> None:
    study = trouble.study("ablation")
    command = trouble.begin(study)
    assert command.epochs(trouble.random.randint(1, EPOCHS))
    command.look()
    for _ in range(2):
        studies.kill(command.pid, signal.SIGINT)
        trouble.inject("SIGINT to the driver")
        time.sleep(0.2)
    code, output = trouble.ended(command, study, 10.0)
    if code in (0, studies.NEVER):
        trouble.found.append(f"exits: {code} after two interrupts: {output[-300:]}")
    trouble.goes_on(study)
    trouble.settle(study)


@pytest.mark.long
@pytest.mark.parametrize("after_s", [1.0, 5.0])
def test_interrupted_while_it_starts(trouble: Trouble, after_s: float) -> None:
    study = trouble.study()
    command = trouble.begin(study)
    time.sleep(after_s * patience())
    studies.kill(command.pid, signal.SIGINT)
    trouble.inject("SIGINT amid the start")
    asked = time.monotonic()
    code, output = trouble.ended(command, study, 90.0)
    if (took_s := time.monotonic() - asked) > ANSWERED_WITHIN_S * patience():
        trouble.found.append(f"slow: SIGINT amid the start answered after {took_s:.1f} s")
    if code == 0 and judge.unfinished(study.root):
        trouble.found.append(f"exits: 0 after an interrupt: {output[-300:]}")
    trouble.goes_on(study)
    trouble.settle(study)
