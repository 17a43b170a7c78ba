"""Recorded steps and rows on the device: the numbers of a plain run, and plain runs where that is not possible.

What does not need a GPU is tested with a recorder that runs a step where CUDA would only note it. Tests marked `gpu`
skip themselves without one.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from akdtune import networks
from akdtune.data.dataset import load_data
from akdtune.randomness import derived_seed
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import CacheSettings, TeacherSettings
from akdtune.signals import Batch, Signals
from akdtune.teacher.cache_files import CacheLimits
from akdtune.teacher.device_rows import DeviceRows, device_rows, forget_resident, placement
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.rows import Caching, TeacherRows
from akdtune.training import graphs
from akdtune.training.config import TrialConfig
from akdtune.training.graphs import Snapshot, StepGraph, StepInputs, Values, baked_numbers, refusal
from akdtune.training.optimizers import set_learning_rate
from akdtune.training.request import TrialRequest, trial_seeds
from akdtune.training.teachers import train_teachers
from akdtune.training.trial import Trial

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DIGITS: dict[str, Any] = {"name": "digits", "validation": 600}
TEACHER = {"network": {"name": "cnn", "widths": [4, 8]}, "epochs": 1, "batch_size": 64}
ANGULAR = {"name": "angular", "variant": "constrained", "train_heads": "both", "warmup_epochs": 1, "num_views": 2}
FULL_BATCHES = 9  # of 32 in the 300 training images; the last batch has 12


class Rerun:
    """Records a step by doing it, which the real thing does not, and launches it by doing it again.

    Args:
        fails: recording is refused, after a step was done.
    """

    def __init__(self, fails: bool = False) -> None:
        self.recordings = self.launches = self.asides = 0
        self._fails = fails

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        self.asides += 1
        yield

    def record(
        self, work: Callable[[], Values], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Values]:
        self.recordings += 1
        values = {name: value.clone() for name, value in work().items()}
        if self._fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand a long explanation")

        def launch() -> None:
            self.launches += 1
            for name, value in work().items():
                values[name].copy_(value)

        return launch, values


def make_trial(
    methods: Sequence[dict[str, Any]] = ({"name": "kd"}, {"name": "crd", "num_negatives": 64}),
    views: dict[str, Any] = ANGULAR,
    recorder: graphs.Recorder | None = None,
    of_data: dict[str, Any] = DIGITS,
    device: str = "cpu",
    rounding: int = 0,
    **training: Any,
) -> Trial:
    dataset = load_data(DataSettings(**DIGITS), CPU)
    (*_, last) = train_teachers(TeacherSettings(**TEACHER), dataset, "subset", CPU)
    settings = {
        "data": of_data,
        "student": {"network": {"name": "cnn", "widths": [2, 4]}},
        "views": views,
        "method": list(methods),
        "training": {"epochs": 3, "batch_size": 32, "device": device, **training},
    }
    file = TeacherFile.parse(last["teacher"])
    seeds = trial_seeds(0, {"rounding": rounding} if rounding else None)
    request = TrialRequest(settings=settings, teacher_file=file, seeds=seeds)
    return Trial(TrialConfig.parse(request), recorder=recorder)


class Loop:
    """The student's epochs of a trial with a step that reads its inputs alone."""

    def __init__(self, trial: Trial, recorder: graphs.Recorder | None) -> None:
        self.trial = trial
        self.streams = tuple((name, torch.Generator(trial.device)) for name in trial.objective.streams)
        parts = [trial.student, trial.objective]
        refused = refusal(trial.optimizer, trial.objective, trial.student)
        self.graph = StepGraph(parts, trial.optimizer, recorder, refused)
        self.seen: list[dict[str, float]] = []

    def step(self, inputs: StepInputs) -> Values:
        trial, images_BCHW = self.trial, inputs.inputs
        assert images_BCHW is not None
        loss = trial.objective(trial.student(images_BCHW, trial.objective.needs_maps), inputs.teacher, inputs.batch)
        trial.update(loss)
        trial.objective.after_step()
        return {**loss.terms, **loss.gates, "total": loss.total}

    def epoch(self, epoch: int) -> None:
        trial = self.trial
        rate = trial.config.training.learning_rate(epoch)
        set_learning_rate(trial.optimizer, rate)
        trial.student.train()
        trial.objective.train()
        self.graph.begin_epoch(baked_numbers(trial.optimizer, trial.objective, epoch))
        torch.manual_seed(epoch)
        for name, generator in self.streams:
            generator.manual_seed(derived_seed("noise", epoch, name))
        for loaded in trial.train.epoch(0, epoch, trial.config.training.batch_size):
            assert trial.teacher is not None and loaded.inputs is not None
            images_BCHW = loaded.inputs.to(memory_format=torch.channels_last)
            of_teacher = trial.teacher.signals(loaded.positions_B, images_BCHW, loaded.crops_B)
            batch = trial.batch(loaded, epoch, self.streams, 0)
            values = self.graph(self.step, StepInputs(batch, of_teacher, images_BCHW))
            self.seen.append({name: float(value.detach()) for name, value in values.items()})

    def run(self, epochs: int = 3) -> Loop:
        for epoch in range(1, epochs + 1):
            self.epoch(epoch)
        return self

    def everything(self) -> dict[str, Tensor]:
        found = {f"student.{name}": value for name, value in self.trial.student.state_dict().items()}
        found |= {f"objective.{name}": value for name, value in self.trial.objective.state_dict().items()}
        for index, state in enumerate(self.trial.optimizer.state.values()):
            found |= {f"{index}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
        found |= {name: generator.get_state() for name, generator in self.streams}
        return found | {"default": torch.get_rng_state()}


def assert_same(one: Loop, other: Loop) -> None:
    assert one.seen == other.seen
    ours, theirs = one.everything(), other.everything()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# ------------------------------------------------------------------------------------------------- recorded steps


@pytest.mark.parametrize("optimizer", ["sgd", "dot"])
def test_recorded_steps_have_the_numbers_of_plain_ones(optimizer: str) -> None:
    recorder = Rerun()
    recorded = Loop(make_trial(optimizer=optimizer), recorder).run()
    plain = Loop(make_trial(optimizer=optimizer), None).run()
    assert_same(recorded, plain)
    # milestones at 62.5 %, 75 % and 87.5 % of 3 epochs: the rate drops after epochs 2 and 3
    assert recorder.recordings == 2
    as_usual = 2 * graphs.WARMUP_STEPS + 3  # before each recording, and the short last batch of each epoch
    assert recorder.asides == as_usual
    assert recorder.launches == 3 * (FULL_BATCHES + 1) - as_usual
    assert recorded.graph.is_recorded
    recorded.graph.release()
    assert not recorded.graph.is_recorded


@pytest.mark.parametrize(
    ("method", "views", "training", "recordings"),
    [
        ({"name": "kd"}, {"name": "none"}, {}, 1),
        ({"name": "kd"}, {"name": "none"}, {"schedule": "cosine"}, 3),
        ({"name": "dkd", "warmup_epochs": 2}, {"name": "none"}, {}, 2),
        ({"name": "ctkd", "ramp_epochs": 10}, {"name": "none"}, {}, 3),
        ({"name": "kd"}, {"name": "tekap"}, {}, 1),
    ],
    ids=["kd", "rate", "weights", "epoch", "draws"],
)
def test_a_recording_lasts_as_long_as_its_numbers(
    method: dict[str, Any], views: dict[str, Any], training: dict[str, Any], recordings: int
) -> None:
    recorder, settings = Rerun(), {"milestones": [3], **training}
    recorded = Loop(make_trial([method], views, **settings), recorder).run()
    assert recorder.recordings == recordings
    assert_same(recorded, Loop(make_trial([method], views, **settings), None).run())


def test_a_step_that_cannot_be_recorded_runs_as_usual_after_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Rerun(fails=True)
    tried = Loop(make_trial(), recorder).run()
    assert capsys.readouterr().out == (
        "warning: no CUDA graphs: operation not permitted when stream is capturing; the numbers are the same\n"
    )
    assert recorder.recordings == 1 and recorder.launches == 0
    assert_same(tried, Loop(make_trial(), None).run())


def test_a_step_that_replaces_a_tensor_is_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    class Replacing(Loop):
        def step(self, inputs: StepInputs) -> Values:
            values, objective = super().step(inputs), self.trial.objective
            objective.mean = 0.9 * objective.mean + values["total"].detach()
            return values

    def replacing(recorder: graphs.Recorder | None) -> Loop:
        trial = make_trial()
        trial.objective.register_buffer("mean", torch.zeros(()))
        return Replacing(trial, recorder).run(1)

    recorder = Rerun()
    tried = replacing(recorder)
    assert "a step puts another tensor in the place of Objective.mean; " in capsys.readouterr().out
    assert recorder.recordings == 1 and recorder.launches == 0
    assert_same(tried, replacing(None))


def test_mixed_images_are_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    mixed, recorder = {**DIGITS, "augmentation": {"mixup": 0.4}}, Rerun()
    Loop(make_trial(of_data=mixed), recorder).run(1)
    assert capsys.readouterr().out.count("no CUDA graphs: images are mixed") == 1
    assert recorder.recordings == 0


@pytest.mark.parametrize(
    ("methods", "training", "why"),
    [
        ([{"name": "kd"}, {"name": "crd"}], {}, None),
        ([{"name": "kd"}, {"name": "last_batch"}], {}, "a method keeps what the student said one step ago"),
        ([{"name": "kd"}], {"optimizer": "adamw"}, "the optimiser AdamW counts its steps on the host"),
        ([{"name": "kd"}], {"optimizer": "dot"}, None),
    ],
)
def test_what_says_itself_that_it_cannot_be_recorded(
    methods: list[dict[str, Any]], training: dict[str, Any], why: str | None
) -> None:
    trial = make_trial(methods, {"name": "none"}, **training)
    assert refusal(trial.optimizer, trial.objective, trial.student) == why


def test_a_component_may_refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trial, recorder = make_trial(), Rerun()
    assert refusal(trial.optimizer, trial.views) is None
    for component, why in (
        (trial.objective.methods["crd"], "method 'crd' is not made for it"),
        (trial.views, "views 'Angular' is not made for it"),
        (trial.student, f"{type(trial.student).__name__} is not made for it"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(type(component), "capturable", False, raising=False)
            assert refusal(trial.optimizer, trial.objective, trial.student) == why
    monkeypatch.setattr(type(trial.views), "capturable", False, raising=False)
    assert refusal(trial.optimizer, trial.views) == "views 'Angular' is not made for it"
    Loop(trial, recorder).run(1)
    assert capsys.readouterr().out.count("views 'Angular' is not made for it") == 1
    assert recorder.asides == recorder.recordings == 0


def test_reading_the_epoch_is_noticed_unless_the_objective_does() -> None:
    batch = Batch(torch.arange(4), torch.arange(4), torch.arange(4), 3, torch.Generator())
    readers: set[str] = set()
    watched = graphs.WatchedBatch.watching(batch, readers)
    assert replace(watched, repeated=2).repeated == 2 and watched.labels_B is batch.labels_B
    assert readers == set()
    assert replace(watched, repeated=2).epoch == 3
    assert readers == {__name__}


def test_inputs_come_apart_and_together_again() -> None:
    generator = torch.Generator()

    def of_tensors(inputs: StepInputs) -> tuple[list[Tensor], Any]:
        tensors: list[Tensor] = []
        return tensors, graphs.taken_apart(inputs, tensors)

    def make(offset: float) -> StepInputs:
        signals = Signals(
            torch.full((2, 3), offset), torch.full((2, 5), offset + 1), (torch.full((2, 1, 2, 2), offset + 2),),
            classifier=(torch.full((3, 5), offset + 3), torch.full((3,), offset + 4)),
            others=(Signals(torch.full((2, 3), offset + 5), torch.full((2, 4), offset + 6)),),
        )  # fmt: skip
        ids = torch.tensor([0, 1]), torch.tensor([5, 6]), torch.tensor([7, 8])
        batch = Batch(*ids, 1, generator, streams=(("views", generator),))
        return StepInputs(batch, signals, torch.full((2, 1, 4, 4), offset + 7))

    (ours, kind), (theirs, same_kind) = of_tensors(make(0)), of_tensors(make(100))
    assert kind == same_kind and hash(kind) == hash(same_kind) and len(ours) == 11
    moved = graphs.rebuilt(make(0), iter(theirs))
    assert all(one is other for one, other in zip(of_tensors(moved)[0], theirs, strict=True))
    assert moved.batch.generator is generator
    assert moved.batch.streams == (("views", generator),)
    changes = [
        replace(make(0), inputs=torch.zeros(2, 1, 4, 5)),
        replace(make(0), inputs=torch.zeros(2, 1, 4, 4, dtype=torch.float16)),
        replace(make(0), inputs=torch.zeros(2, 1, 4, 4).transpose(2, 3)),
        replace(make(0), teacher=None),
        replace(make(0), batch=replace(make(0).batch, repeated=1)),
        replace(make(0), batch=replace(make(0).batch, generator=torch.Generator())),
        replace(make(0), batch=replace(make(0).batch, streams=(("views", torch.Generator()),))),
    ]
    assert all(of_tensors(changed)[1] != kind for changed in changes)
    assert of_tensors(replace(make(0), batch=replace(make(0).batch, epoch=2)))[1] == kind


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_snapshot_brings_everything_back_in_place(name: str, steps: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    optimizer = getattr(torch.optim, name)(network.parameters(), lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
    generator = torch.Generator().manual_seed(1)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = network(torch.randn(8, 3, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for _ in range(steps):
        step()
    before = Snapshot([network], optimizer, [generator])
    places = [tensor.data_ptr() for tensor in network.state_dict().values()]
    momenta = [state[key].data_ptr() for state in optimizer.state.values() for key in state]
    first = [step(), step(), step()]
    weights = [tensor.clone() for tensor in network.state_dict().values()]
    before.restore()
    assert len(optimizer.state) == (4 + 2 if steps else 0)
    assert [state[key].data_ptr() for state in optimizer.state.values() for key in state] == momenta
    assert [step(), step(), step()] == first
    assert all(map(torch.equal, network.state_dict().values(), weights))
    assert [tensor.data_ptr() for tensor in network.state_dict().values()] == places
    assert before.rebound() == []
    network[1].register_buffer("running_mean", torch.zeros(4))
    assert before.rebound() == ["Sequential.1.running_mean"]


def test_the_cpu_has_nothing_to_record_with() -> None:
    assert graphs.recorder(CPU, wanted=True) is None
    assert graphs.recorder(CUDA, wanted=False) is None


# --------------------------------------------------------------------------------------------------- whole trials

TIMINGS = {"wall_time_s", "images_per_s", "peak_memory_mib", "teacher_cache_hit_rate", "teacher_cache_fill_rate"}
CONSTRAINED = {"name": "angular", "variant": "constrained", "num_views": 2}


def numbers(trial: Trial, state: dict[str, Any] | None = None) -> list[tuple[str, int, dict[str, Any]]]:
    return [
        (one.stage, one.epoch, {key: value for key, value in one.row.items() if key not in TIMINGS})
        for one in trial.run(state)
    ]


@pytest.mark.parametrize(
    ("methods", "views", "training", "recordings"),
    [
        ([{"name": "kd"}, {"name": "crd", "num_negatives": 64}], CONSTRAINED | {"warmup_epochs": 3}, {}, 1 + 3),
        ([{"name": "at"}, {"name": "kd"}], {"name": "none"}, {}, 1),
        ([{"name": "mlkd"}], {"name": "none"}, {}, 1),
        ([{"name": "simkd"}], {"name": "none"}, {"precision": "bf16"}, 1),
        ([{"name": "kd"}, {"name": "last_batch"}], {"name": "none"}, {}, 0),
        ([{"name": "mlkd"}], {"name": "none"}, {"rounding": 1}, 1),
    ],
    ids=["warm-up", "maps", "strong", "bf16", "refused", "replica"],
)
def test_a_whole_trial_with_recorded_steps(
    methods: list[dict[str, Any]],
    views: dict[str, Any],
    training: dict[str, Any],
    recordings: int,
) -> None:
    """Also one that goes on from a state of a trial without them."""
    settings = {"milestones": [3], **training}
    whole = list(make_trial(methods, views, **settings).run())
    recorder = Rerun()
    recorded = numbers(make_trial(methods, views, recorder, **settings))
    assert recorder.recordings == recordings
    plain = numbers(make_trial(methods, views, **settings))
    assert recorded == plain
    assert numbers(make_trial(methods, views, Rerun(), **settings), whole[-2].state) == plain[-1:]


def test_a_trial_goes_with_its_last_reference() -> None:
    """A cycle would keep its memory on the device until Python looks for cycles."""
    trial = make_trial(recorder=Rerun())
    trial.student_epoch(1, lambda: False)
    trial.release()  # what this recorder gives holds the step; a CUDA graph does not
    there = weakref.ref(trial)
    gc.collect()
    gc.disable()
    try:
        del trial
        assert there() is None
    finally:
        gc.enable()


@pytest.mark.gpu
def test_a_whole_trial_with_cuda_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    methods, views = [{"name": "kd"}, {"name": "crd"}], CONSTRAINED | {"warmup_epochs": 2}
    recorded = numbers(make_trial(methods, views, device="cuda", cuda_graphs=True))
    assert "no CUDA graphs" not in capsys.readouterr().out
    plain = numbers(make_trial(methods, views, device="cuda"))
    for (*head, one), (*other_head, other) in zip(recorded, plain, strict=True):
        assert head == other_head
        losses = {key: value for key, value in other.items() if key.startswith("loss.")}
        assert {key: one[key] for key in losses} == pytest.approx(losses, rel=2e-2)


# ------------------------------------------------------------------------------------------------ rows on the device


@pytest.mark.parametrize(
    ("resident_mib", "epoch_mib", "free_mib", "expected"),
    [
        (4150, 36, 139 * 1024, "resident"),  # CIFAR-100, 256 numbers in fp16, an empty H200
        (4150, 36, 16_600, "resident"),
        (4150, 36, 16_599, "epoch"),
        (4150, 36, 144, "epoch"),
        (4150, 36, 143, "batch"),
        (0, 0, 0, "resident"),  # all there already
    ],
)
def test_where_rows_lie(resident_mib: int, epoch_mib: int, free_mib: int, expected: str) -> None:
    assert placement(resident_mib * 2**20, epoch_mib * 2**20, free_mib * 2**20) == expected


class World:
    """A data set, a teacher, and the rows of its training images."""

    def __init__(self, folder: Path, device: torch.device, seed: int = 0, dtype: str = "fp16") -> None:
        self.device = device
        self.dataset = load_data(DataSettings(**DIGITS), device)
        self.split = self.dataset.split("subset").train
        self.variants = self.dataset.augmentation.variants
        built = networks.build({"name": "cnn", "widths": [4, 8]}, self.dataset.inputs, seed)
        network = built.to(device).eval().requires_grad_(False)
        settings = CacheSettings(location=str(folder), dtype=dtype)
        caching = Caching(settings, self.dataset.images_key, "digits", CacheLimits(spare_bytes=0))
        self.rows = TeacherRows(network, self.split, self.dataset.augmentation, caching)

    def epoch(self, number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The row of every position, and the order of positions."""
        order_N, crops_N = self.split.drawn(0, number)
        rows_N = self.split.rows_N * self.variants + crops_N.variant_N(self.dataset.augmentation)
        return rows_N.cpu().numpy(), order_N.cpu().numpy()

    def read(self, on_device: DeviceRows, number: int) -> Iterator[tuple[Signals, np.ndarray[Any, Any]]]:
        """Every batch of an epoch, and the rows it asked for."""
        rows_N, order_N = self.epoch(number)
        on_device.expect(rows_N, order_N)
        for positions in np.array_split(order_N, 9):
            tensors = [torch.from_numpy(one).to(self.device) for one in (positions, rows_N[positions])]
            yield on_device.signals(*tensors), rows_N[positions]


@pytest.fixture
def nothing_resident() -> Iterator[None]:
    """Tables are kept within a process; these tests begin and end without."""
    forget_resident()
    yield
    forget_resident()


def check_rows(folder: Path, device: torch.device, free_bytes: int, place: str) -> None:
    """Two epochs through the device have the numbers of rows asked for one batch at a time."""
    # only the CPU computes the same bits whatever else is in a batch; elsewhere both must read what one of them stored
    world, other = World(folder / "one", device), World(folder / ("other" if device == CPU else "one"), device)
    (on_device,) = device_rows([world.rows], len(world.split), device, free_bytes, chunk=128)
    assert on_device.place == place
    for number in (1, 2, 1):
        for said, rows in world.read(on_device, number):
            expected = other.rows.signals(rows)
            assert torch.equal(said.logits_BK, expected.logits_BK) and torch.equal(said.pooled_BC, expected.pooled_BC)
            assert said.pooled_BC.device.type == device.type


@pytest.mark.parametrize(("free_bytes", "place"), [(2**30, "resident"), (2**18, "epoch"), (2**10, "batch")])
@pytest.mark.usefixtures("nothing_resident")
def test_rows_on_the_device_are_the_rows(tmp_path: Path, free_bytes: int, place: str) -> None:
    check_rows(tmp_path, CPU, free_bytes, place)


@pytest.mark.usefixtures("nothing_resident")
def test_what_is_on_the_device_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, CPU)
    asked: list[int] = []
    values = TeacherRows.values
    monkeypatch.setattr(TeacherRows, "values", lambda self, rows: (asked.append(len(rows)), values(self, rows))[1])

    def epoch(on_device: DeviceRows, number: int) -> int:
        """Rows that were read."""
        asked.clear()
        list(world.read(on_device, number))
        return sum(asked)

    images = len(world.split)
    (resident,) = device_rows([world.rows], images, CPU, 2**30)
    assert epoch(resident, 1) == images
    assert 0 < epoch(resident, 2) < images and epoch(resident, 1) == 0
    (again,) = device_rows([world.rows], images, CPU, 0)  # the next trial: nothing more is needed
    assert again.place == "resident" and epoch(again, 2) == 0
    world.rows.rates()
    list(world.read(again, 3))
    counts = world.rows.rates()
    assert counts["found"] + counts["computed"] >= images and counts["computed"] > 0

    different = World(tmp_path, CPU, seed=1)
    (epochwise,) = device_rows([different.rows], images, CPU, 2**18)
    assert epochwise.place == "epoch"
    (gone,) = device_rows([world.rows], images, CPU, 0)
    assert gone.place == "batch", "the tables of another trial do not stay"


@pytest.mark.usefixtures("nothing_resident")
def test_rows_that_nobody_announced_are_right_too(tmp_path: Path) -> None:
    world = World(tmp_path, CPU, dtype="fp32")
    (resident,) = device_rows([world.rows], len(world.split), CPU, 2**30)
    rows_N, order_N = world.epoch(4)
    said = resident.signals(torch.from_numpy(order_N[:7]), torch.from_numpy(rows_N[order_N[:7]]))
    assert torch.equal(said.logits_BK, world.rows.signals(rows_N[order_N[:7]]).logits_BK)


# ------------------------------------------------------------------------------------------------- on a real device


@pytest.mark.gpu
@pytest.mark.parametrize("methods", [[{"name": "kd"}], [{"name": "dkd", "warmup_epochs": 2}, {"name": "crd"}]])
def test_cuda_graphs_have_the_numbers_of_plain_steps(methods: list[dict[str, Any]]) -> None:
    """Up to the order in which a GPU adds: nothing else may differ, draws included."""
    recorded = Loop(make_trial(methods, device="cuda"), graphs.CudaRecorder(CUDA)).run()
    assert recorded.graph.is_recorded
    plain = Loop(make_trial(methods, device="cuda"), None).run()
    for one, other in zip(recorded.seen, plain.seen, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.gpu
def test_cuda_graphs_draw_what_plain_steps_draw() -> None:
    def draws(recorder: graphs.Recorder | None) -> list[float]:
        layer, names = nn.Linear(2, 2, device="cuda"), ("views", "method/one", "method/idle")
        streams = tuple((name, torch.Generator("cuda").manual_seed(3)) for name in names)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, fused=True)
        torch.manual_seed(4)

        def step(inputs: StepInputs) -> Values:
            optimizer.zero_grad(set_to_none=True)
            layer(inputs.inputs).sum().backward()
            optimizer.step()
            givens = {name: inputs.batch.given_to(name) for name in names[:2]}  # the third draws nothing
            own = {
                name: torch.rand(16, generator=given.generator, device="cuda").sum() for name, given in givens.items()
            }
            return {**own, "default": torch.rand(16, device="cuda").sum()}

        graph, found = StepGraph([layer], optimizer, recorder), []
        for epoch in (1, 2):
            for number, (_, generator) in enumerate(streams):
                generator.manual_seed(10 * number + epoch)
            torch.manual_seed(epoch)
            for _ in range(8):
                ids_B = torch.arange(4, device="cuda")
                batch = Batch(ids_B, ids_B, ids_B, epoch, streams[0][1], streams=streams)
                values = graph(step, StepInputs(batch, None, torch.ones(4, 2, device="cuda")))
                found += [float(value) for value in values.values()]
        assert graph.is_recorded == (recorder is not None)
        return found

    assert draws(graphs.CudaRecorder(CUDA)) == draws(None)


@pytest.mark.gpu
def test_a_step_that_waits_for_the_device_is_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    class Waiting(Loop):
        def step(self, inputs: StepInputs) -> Values:
            values = super().step(inputs)
            return {**values, "waited": torch.tensor(float(values["total"].detach()), device="cuda")}

    kd = [{"name": "kd"}]
    tried = Waiting(make_trial(kd, device="cuda"), graphs.CudaRecorder(CUDA)).run()
    assert capsys.readouterr().out.count("no CUDA graphs: ") == 1
    plain = Waiting(make_trial(kd, device="cuda"), None).run()
    for one, other in zip(tried.seen, plain.seen, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.gpu
@pytest.mark.usefixtures("nothing_resident")
@pytest.mark.parametrize(("free_bytes", "place"), [(2**30, "resident"), (2**18, "epoch"), (2**10, "batch")])
def test_rows_on_a_gpu_are_the_rows(tmp_path: Path, free_bytes: int, place: str) -> None:
    check_rows(tmp_path, CUDA, free_bytes, place)
