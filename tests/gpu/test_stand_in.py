"""Whole trials on a stand-in for a GPU: no mixing of devices, no waiting, recorded steps, and the CPU's numbers.

Every method with one view and every view with one method; all pairs with `-m slow`. See `tests/stand_in_gpu.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from akdtune.methods.crd import CRD
from akdtune.registry import names
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.teacher.device_rows import forget_resident
from akdtune.teacher.frozen import forget_tables
from akdtune.training import evaluation, graphs, objective
from akdtune.training.trial import Trial
from tests.contract.test_views_and_methods import PAIRS, VIEWS
from tests.small_trials import CACHE_RATES, configured, numbers, trained
from tests.stand_in_gpu import CUDA, OnDevice, StandIn, Tape, stand_in_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is here: pytest -m gpu")

DATA = DataSettings(name="digits", validation=40, limit_per_class=10)
TEACHER = TeacherSettings(network={"name": "cnn", "widths": [4, 4, 8]}, epochs=1, batch_size=32)
STUDENT = {"name": "cnn", "widths": [2, 2, 4]}
BATCH, FULL_BATCHES = 8, 7  # of 60 training images; the last batch has 4

REFUSED = {
    "last_batch": "a method keeps what the student said one step ago",
    "sdpgo_style": "a method keeps what the student said one step ago",
    "kdsvd": "CUDA error: operation not permitted when stream is capturing: aten._linalg_eigh.default",
}
"""Methods whose steps are not recorded, with the reason that is printed."""

MAY_WAIT = {"kdsvd": "eigh"}
"""Methods whose steps wait for the device, and by what: torch decomposes matrices on the host's word."""

ROUNDED = {"reviewkd"}
"""Methods for which torch takes another way with tensors that are not its own: other last bits."""


@pytest.fixture
def gpu() -> Iterator[StandIn]:
    with stand_in_gpu() as there:
        yield there
    forget()


def forget() -> None:
    """Drops what a process keeps: a tensor of the stand-in is none of the next trial's."""
    forget_resident()
    forget_tables()
    evaluation._KEPT.clear()
    objective._weights.cache_clear()


def trial(
    methods: Sequence[str], view: dict[str, Any], device: str, recorder: graphs.Recorder | None = None, **training: Any
) -> Trial:
    file = trained(DATA, TEACHER)
    if view["name"] == "multi_teacher":
        file = replace(file, others=(trained(DATA, TEACHER.model_copy(update={"seed": 1})),))
    named = [{"name": name} for name in methods]
    settings = {"epochs": 1, "batch_size": BATCH, "device": device, **training}
    made = Trial(configured(DATA, file, view, named, student=STUDENT, **settings), recorder=recorder)
    for method in made.objective.methods.values():
        if isinstance(method, CRD):
            method.draws_on_host = False  # as on a GPU, so that both draw the same
    return made


class Steps:
    """Asked once a step, and notes what made the host wait between two steps of the same epoch."""

    def __init__(self, gpu: StandIn) -> None:
        self._gpu = gpu
        self.waits: list[str] = []
        self._asked = 0

    def begin(self) -> None:
        """A new epoch."""
        self._asked = 0

    def __call__(self) -> bool:
        if self._asked > 1:  # the first step of an epoch sets up
            self.waits += self._gpu.waited
        self._gpu.waited.clear()
        self._asked += 1
        return False


def run(made: Trial, steps: Steps | None = None) -> list[Any]:
    """Every number of a trial, its last reading included."""
    if steps is None:
        epochs = list(made.run())
    else:
        epochs = []
        for epoch in made.run(should_stop=steps):
            epochs.append(epoch)
            steps.begin()
    return [*numbers(epochs, CACHE_RATES), made.close()[0]]


def flat(numbers_of_epochs: list[Any]) -> dict[str, float]:
    """Every number by where it stands."""
    rows = [*numbers_of_epochs[:-1], ("closing", 0, numbers_of_epochs[-1])]
    return {f"{stage} {epoch} {name}": value for stage, epoch, row in rows for name, value in row.items() if value}


def check(methods: Sequence[str], view: dict[str, Any], capsys: pytest.CaptureFixture[str], **training: Any) -> None:
    """A trial with recorded steps on the stand-in has the numbers of the CPU, bit by bit, and waits where it may."""
    expected = run(trial(methods, view, "cpu", **training))
    capsys.readouterr()
    tape = Tape()
    with stand_in_gpu() as gpu:
        steps = Steps(gpu)
        made = trial(methods, view, "cuda", tape, **training)
        on_device = [*made.student.state_dict().values(), *made.objective.state_dict().values()]
        assert all(isinstance(tensor, OnDevice) for tensor in on_device)
        found = run(made, steps)
    if ROUNDED & {*methods}:
        assert flat(found) == pytest.approx(flat(expected), rel=1e-5)
    else:
        assert found == expected
    forget()
    refused = [REFUSED[name] for name in methods if name in REFUSED]
    said = capsys.readouterr().out
    if refused:
        assert refused[0] in said
    else:
        assert "no CUDA graphs" not in said
        stages = sum(count > 0 for count in made.epochs.values())
        assert tape.recordings == stages and tape.launches >= stages * (FULL_BATCHES - graphs.WARMUP_STEPS) - 1
    allowed = [MAY_WAIT[name] for name in methods if name in MAY_WAIT]
    assert [wait for wait in steps.waits if not any(part in wait for part in allowed)] == []


def settings_of(view: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a study would write under `views`, with a short warm-up where the view has one."""
    return {"name": view, **settings, **({"warmup_epochs": 1} if view == "angular" else {})}


ALONE = ["kdsvd", "last_batch", "mlkd", "reviewkd", "sdpgo_style", "simkd"]
TOGETHER = [name for name in names("methods") if name not in ALONE]
SETS = [TOGETHER, *([name] for name in ALONE if name != "mlkd")]


@pytest.mark.parametrize("methods", SETS, ids=lambda methods: methods[0] if len(methods) == 1 else "together")
def test_methods_on_a_gpu(methods: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    check(methods, settings_of("tekap", {}), capsys)


@pytest.mark.parametrize(
    ("view", "settings"), VIEWS, ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else value
)
def test_views_on_a_gpu(view: str, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    check(["kd", "crd"], settings_of(view, settings), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("method", names("methods"))
def test_every_method_and_view_on_a_gpu(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    for view, settings in (pair[:2] for pair in PAIRS if pair[2] == method):
        check([method], settings_of(view, settings), capsys)
