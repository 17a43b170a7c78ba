"""Whole trials on a stand-in for a GPU: no mixing of devices, no waiting, recorded steps, and the CPU's numbers.

Every method with one view and every view with one method; all pairs with `-m slow`. See `tests/stand_in_gpu.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from akdtune.data.dataset import load_data
from akdtune.methods.crd import CRD
from akdtune.registry import lookup, names, typed
from akdtune.settings.data import AugmentationSettings, DataSettings
from akdtune.settings.teacher import CacheSettings, TeacherSettings
from akdtune.teacher import items
from akdtune.teacher.device_rows import forget_resident
from akdtune.teacher.frozen import forget_tables
from akdtune.training import evaluation, graphs, objective
from akdtune.training.teachers import train_teachers
from akdtune.training.trial import Trial
from tests import small_trials
from tests.contract.test_views_and_methods import PAIRS, VIEWS
from tests.small_trials import CACHE_RATES, CPU, configured, numbers, trained
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

MAY_WAIT = {"kdsvd": "eigh", "mlkd": "image_ops.py"}
"""Methods whose steps wait for the device, and where: torch decomposes matrices on the host's word, and torchvision
makes tensors of what its operations on the strong images are told."""

SELECTIONS: list[dict[str, Any]] = [
    {"name": "gap", "share": 0.5},
    {"name": "random", "share": 0.5},
    {"name": "correct_only"},
]
UNRECORDED = {"correct_only": "selection 'correct_only'"}
"""Selections whose number of rows varies, and how the printed reason begins."""

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
    methods: Sequence[str],
    view: dict[str, Any],
    device: str,
    recorder: graphs.Recorder | None = None,
    of_data: DataSettings = DATA,
    changes: dict[str, Any] | None = None,
    selection: dict[str, Any] | None = None,
    **training: Any,
) -> Trial:
    file = trained(DATA, TEACHER)
    if lookup("views", view["name"]).needs_others or selection is not None:
        file = replace(file, others=(trained(DATA, TEACHER.model_copy(update={"seed": 1})),))
    named = [{"name": name} for name in methods]
    settings = {"epochs": 1, "batch_size": BATCH, "device": device, **training}
    config = configured(of_data, file, view, named, student=STUDENT, changes=changes, **settings)
    if selection is not None:
        config = replace(config, selection=(selection["name"], typed("selections", selection)))
    made = Trial(config, recorder=recorder)
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
    refused += [f"{UNRECORDED[key]} is not made for it" for key in UNRECORDED if key in str(training.get("selection"))]
    said = capsys.readouterr().out
    if refused:
        assert refused[0] in said
    else:
        assert "no CUDA graphs" not in said
        stages = sum(count > 0 for count in made.epochs.values())
        assert tape.recordings >= stages and tape.launches >= stages * (FULL_BATCHES - graphs.WARMUP_STEPS) - 1
    allowed = [MAY_WAIT[name] for name in methods if name in MAY_WAIT]
    allowed += ["(select)", "(_weights)"] if any(name in str(training.get("selection")) for name in UNRECORDED) else []
    assert [wait for wait in steps.waits if not any(part in wait for part in allowed)] == []


def settings_of(view: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a study would write under `views`, with a short warm-up where the view has one."""
    return {"name": view, **settings, **({"warmup_epochs": 1} if view == "angular" else {})}


ALONE = ["kdsvd", "last_batch", "mlkd", "reviewkd", "sdpgo_style", "simkd"]
OF_ANSWERS = [name for name in names("methods") if "answers" in lookup("methods", name).needs]
TOGETHER = [name for name in names("methods") if name not in (*ALONE, *OF_ANSWERS)]
SETS = [TOGETHER, *([name] for name in ALONE if name != "mlkd")]


@pytest.mark.parametrize("methods", SETS, ids=lambda methods: methods[0] if len(methods) == 1 else "together")
def test_methods_on_a_gpu(methods: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    check(methods, settings_of("tekap", {}), capsys)


@pytest.mark.parametrize(
    ("view", "settings"), VIEWS, ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else value
)
def test_views_on_a_gpu(view: str, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    check(["kd", "crd"], settings_of(view, settings), capsys)


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda given: "-".join(map(str, given.values())))
def test_selections_on_a_gpu(selection: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    check(["kd", "crd"], {"name": "tekap"}, capsys, selection=selection)


@pytest.mark.parametrize(
    ("methods", "view", "training"),
    [
        (["kd", "crd"], {"name": "angular", "variant": "constrained", "warmup_epochs": 1}, {"precision": "bf16"}),
        (["kd"], {"name": "multi_teacher", "drop": 1}, {"optimizer": "dot"}),
        (["ctkd"], {"name": "random", "resample": "step"}, {"epochs": 2, "schedule": "cosine"}),
    ],
    ids=["bf16", "dot", "cosine"],
)
def test_precisions_optimisers_and_schedules_on_a_gpu(
    methods: list[str], view: dict[str, Any], training: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    check(methods, view, capsys, **training)


@pytest.mark.parametrize("augmentation", [{"mixup": 0.4, "cutmix": 1.0}, {"preset": "strong"}, {"cutout": 2}], ids=str)
def test_augmented_images_on_a_gpu(augmentation: dict[str, Any]) -> None:
    data = DATA.model_copy(update={"augmentation": AugmentationSettings(**augmentation)})
    expected = run(trial(["kd"], {"name": "none"}, "cpu", of_data=data))
    with stand_in_gpu() as gpu:
        steps = Steps(gpu)
        assert run(trial(["kd"], {"name": "none"}, "cuda", of_data=data), steps) == expected
    # torchvision makes tensors of its operations' numbers
    assert [wait for wait in steps.waits if "preset" not in augmentation or "image_ops.py" not in wait] == []


# --------------------------------------------------------------------------------- what a trial does besides its steps


def test_a_trial_on_a_gpu_goes_on_from_a_saved_state() -> None:
    view = {"name": "angular", "variant": "constrained", "warmup_epochs": 1}
    with stand_in_gpu():
        whole = list(trial(["kd", "crd"], view, "cuda", epochs=2).run())
        for cut, epoch in enumerate(whole[:-1]):
            held = on_host(epoch.state)  # as a file that was read again
            assert numbers(list(trial(["kd", "crd"], view, "cuda", epochs=2).run(held))) == numbers(whole)[cut + 1 :]


def on_host(node: Any) -> Any:
    if isinstance(node, OnDevice):
        return node.held.clone()
    if isinstance(node, dict):
        return {key: on_host(item) for key, item in node.items()}
    return [on_host(item) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize(("free_bytes", "place"), [(2**34, "resident"), (2**17, "epoch"), (2**10, "batch")])
def test_rows_of_the_teacher_cache_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, place: str
) -> None:
    monkeypatch.setitem(items.COMPUTE_BATCH, "cuda", items.COMPUTE_BATCH["cpu"])  # the same rounding
    small_trials.roomy_disk(monkeypatch)
    found, steps = [], None
    for device in ("cpu", "cuda"):
        changes = {"teacher_cache": CacheSettings(location=str(tmp_path / device))}
        wanted = ["kd", "crd"], {"name": "angular", "warmup_epochs": 1}, device
        with contextlib.ExitStack() as stack:
            if device == "cuda":
                gpu = stack.enter_context(stand_in_gpu())
                patch = stack.enter_context(pytest.MonkeyPatch.context())
                patch.setattr(torch.cuda, "mem_get_info", lambda *_: (free_bytes, 2**34))
                steps = Steps(gpu)
            for _ in range(2):  # an empty cache, then a full one
                made = trial(*wanted, changes=changes, epochs=2)
                found.append(run(made, steps))
            assert made.teacher is not None and not made.teacher.keeps_table
            if device == "cuda":
                assert [one.place for one in made.teacher._on_device or []] == [place]
    forget()
    assert found[0] == found[1] == found[2] == found[3]
    assert steps is not None and (steps.waits == []) == (place != "batch")


def test_a_warm_up_is_shared_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path))
    view = {"name": "angular", "variant": "constrained", "warmup_epochs": 2}
    with stand_in_gpu():
        alone, first, second = (
            numbers(list(trial(["kd"], view, "cuda").run(share_warmup_as=name))) for name in ("", "one", "two")
        )
    forget()
    assert first == alone
    assert [row[:2] for row in second] == [("warmup", 2), ("student", 1)] and second == alone[1:]


def test_teachers_train_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained_on(device: torch.device) -> dict[str, Any]:
        monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / device.type))
        *epochs, last = train_teachers(settings, load_data(DATA, device), "subset", device)
        assert len(epochs) == 2
        return {"losses": [row["loss"] for row in epochs], "weights": last["teacher"]["weights_hash"]}

    chain = TEACHER.model_copy(update={"seed": 5, "distilled_from": []})
    settings = TEACHER.model_copy(update={"seed": 4, "distilled_from": [chain]})
    expected = trained_on(CPU)
    with stand_in_gpu():
        assert trained_on(torch.device("cuda")) == expected
    forget()


def test_steps_are_timed_on_a_gpu() -> None:
    with stand_in_gpu():
        times = trial(["kd", "crd"], {"name": "angular", "warmup_epochs": 1}, "cuda").timed(2)
    forget()
    assert min(times.values()) > 0


# -------------------------------------------------------------------------------------------- the stand-in itself


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda x: x + torch.ones(3), RuntimeError, "two devices, cuda:0 and cpu!"),
        (lambda x: torch.stack([x, torch.ones(3)]), RuntimeError, "two devices"),
        (lambda x: torch.stack([x.sum(), torch.ones(())]), RuntimeError, "two devices"),
        (
            lambda x: torch.rand(3, generator=torch.Generator(), device="cuda"),
            RuntimeError,
            "generator but found 'cpu'",
        ),
        (lambda x: torch.rand(3, generator=torch.Generator("cuda")), RuntimeError, "generator but found 'cuda'"),
        (lambda x: x.bernoulli_(0.5, generator=torch.Generator()), RuntimeError, "generator but found 'cpu'"),
        (lambda x: np.asarray(x), TypeError, "can't convert cuda:0"),
        (lambda x: nn.Linear(3, 3)(x), RuntimeError, "two devices"),
    ],
)
def test_what_a_gpu_refuses(work: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        work(torch.ones(3, device="cuda"))


def test_what_waits_and_what_does_not(gpu: StandIn) -> None:
    x = torch.arange(4.0, device="cuda")
    there = torch.tensor([0, 1], device="cuda")
    assert x.device == CUDA != torch.device("cuda")
    for waiting in (
        lambda: float(x[0]), lambda: x[x > 1], lambda: x[[0, 1]], lambda: x.tolist(), lambda: x.cpu(),
        lambda: bool((x > 1).all()), lambda: torch.ones(3).to("cuda"), lambda: torch.tensor([1.0], device="cuda"),
    ):  # fmt: skip
        gpu.waited.clear()
        waiting()
        assert gpu.waited, inspect.getsource(waiting)
    gpu.waited.clear()
    _ = x[there] + x.where(x > 1, 0.0)[:2].cumsum(0) + torch.zeros(2, device="cuda").fill_(2.0)
    torch.ones(3).to("cuda", non_blocking=True)
    x[:2] = 3.0
    assert gpu.waited == []


@pytest.mark.slow
@pytest.mark.parametrize("method", [*TOGETHER, *ALONE])
def test_every_method_and_view_on_a_gpu(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [pair[:2] for pair in PAIRS if pair[2] == method]
    for view, settings in pairs[:3] if method == "mlkd" else pairs:  # a method of a minute, which reads no more of them
        check([method], settings_of(view, settings), capsys)
