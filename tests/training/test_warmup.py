"""Shared warm-ups: found or trained, a trial's numbers are the same, and only what is the same is ever shared."""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from akdtune import atomic, registry
from akdtune.data.crops import Crops
from akdtune.data.dataset import load_data
from akdtune.data.splits import Split
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.settings.training import Seeds, StudentSettings
from akdtune.teacher import cache_files
from akdtune.training import warmup
from akdtune.training.config import TrialConfig
from akdtune.training.limits import TrialLimits
from akdtune.training.loop import Diverged, Epoch, Interrupted
from akdtune.training.trial import Trial
from akdtune.training.warmup import SharedWarmup, WarmupLimits
from tests import small_trials
from tests.small_trials import CACHE_RATES, CPU, DIGITS, TEACHER, TIMINGS, configured, numbers, trained

DATA = DataSettings(**DIGITS, label_noise={"fraction": 0.2})
ANGULAR = {**small_trials.ANGULAR, "num_views": 2}
Config = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def rows_location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.fixture
def config(rows_location: Path) -> Config:
    def make(
        views: dict[str, Any] = ANGULAR, methods: tuple[dict[str, Any], ...] = ({"name": "kd"},), **training: Any
    ) -> TrialConfig:
        changes = {"teacher_cache": CacheSettings(location=str(rows_location))}
        training = {"epochs": 1, "batch_size": 64, **training}
        return configured(DATA, trained(DATA), views, methods, changes=changes, **training)

    return make


@pytest.fixture(autouse=True)
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for the artefacts of each test."""
    trained(DATA)  # kept for all tests
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    load_data(DATA, CPU)  # so that what tests do to writing meets the artefacts alone
    return tmp_path / "cache" / "warmups"


def rows(epochs: list[Epoch]) -> list[tuple[str, int, dict[str, Any]]]:
    """Every metric but timings and hit rates."""
    return numbers(epochs, CACHE_RATES)


def student_rows(epochs: list[Epoch]) -> list[tuple[str, int, dict[str, Any]]]:
    return [row for row in rows(epochs) if row[0] == "student"]


def heads(epochs: list[Epoch]) -> dict[str, torch.Tensor]:
    """The views after the last warm-up epoch."""
    objective = [e for e in epochs if e.stage == "warmup"][-1].state["objective"]
    return {name: value for name, value in objective.items() if name.startswith("views.")}


def assert_same(expected: list[Epoch], other: list[Epoch]) -> None:
    """Heads and everything after them, to the last bit."""
    assert student_rows(expected) == student_rows(other)
    ours, theirs = heads(expected), heads(other)
    assert ours.keys() == theirs.keys() and ours
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    students = expected[-1].state["student"], other[-1].state["student"]
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())


def stages(epochs: list[Epoch]) -> list[tuple[str, int]]:
    return [(e.stage, e.epoch) for e in epochs]


_computed: dict[str, list[Epoch]] = {}


def alone(of: TrialConfig) -> list[Epoch]:
    """The trial without sharing, computed once for all tests."""
    if repr(of) not in _computed:
        _computed[repr(of)] = list(Trial(of).run())
    return _computed[repr(of)]


def trial_of(of: TrialConfig, **limits: Any) -> Trial:
    """A trial that looks often whether another has finished; `limits` are further ones of the warm-up."""
    return Trial(of, limits=TrialLimits(warmup=WarmupLimits(**{"poll_s": 0.02, **limits})))


def run(of: TrialConfig, name: str = "first", state: Mapping[str, Any] | None = None, **limits: Any) -> list[Epoch]:
    return list(trial_of(of, **limits).run(state, share_warmup_as=name))


def shared(of: TrialConfig) -> SharedWarmup | None:
    trial = Trial(of)
    assert trial.teacher is not None
    return SharedWarmup.of(of, trial.dataset, trial.train, trial.teacher, trial.views, "asked")


def key(of: TrialConfig) -> str:
    warmup_of = shared(of)
    assert warmup_of is not None
    return warmup_of.key


def artefacts(location: Path) -> list[str]:
    return sorted(path.parent.name for path in location.glob("*/heads.pt"))


VIEWS = [
    ANGULAR,
    {**ANGULAR, "variant": "released"},
    {**ANGULAR, "train_heads": "pretrain", "constraint": "infonce_clip"},
    {**ANGULAR, "learnable_margin": True},
]


@pytest.mark.parametrize("views", VIEWS, ids=["constrained", "released", "pretrain", "learned margin"])
def test_a_trial_computes_the_same_whether_its_warm_up_is_trained_found_or_not_shared(
    config: Config, location: Path, views: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    of = config(views=views)
    expected = list(Trial(of).run())
    assert not location.exists() and "warm-up" not in capsys.readouterr().out
    cold = run(of, "first")
    said = capsys.readouterr().out
    assert stages(cold) == stages(expected) and rows(cold) == rows(expected)
    assert f"warm-up kept: {key(of)}" in said and artefacts(location) == [key(of)]
    warm = run(of, "second")
    said = capsys.readouterr().out
    assert f"warm-up found: {key(of)}, trained in " in said and said.rstrip().endswith("by first")
    assert stages(warm) == [("warmup", 3), ("student", 1)]
    assert rows(warm) == rows(expected)[2:]
    for other in (cold, warm):
        assert_same(expected, other)
    assert sorted(path.name for path in (location / key(of)).iterdir()) == ["header.json", "heads.pt", "train.lock"]


def test_what_is_found_costs_no_step_and_is_counted_as_what_it_cost(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = run(config())
    steps = itertools.count()

    def never(self: Trial, epoch: int, should_stop: Callable[[], bool]) -> dict[str, float | None]:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trial, "warmup_epoch", never)
    warm = list(Trial(config()).run(None, lambda: next(steps) < 0, "second"))
    assert next(steps) == 5, "asked in the student's steps alone"
    took_s = [sum(e.row["wall_time_s"] or 0.0 for e in epochs if e.stage == "warmup") for epochs in (cold, warm)]
    assert 0 < took_s[1] < took_s[0]


def test_what_is_computed_belongs_to_this_format(config: Config) -> None:
    """Where this fails a warm-up has other numbers: raise FORMAT (unless code of views or networks changed, or the
    teacher's own training, which are in the key), then write the new ones down here."""
    row = [e for e in alone(config()) if e.stage == "warmup"][-1].row
    losses = {name: value for name, value in row.items() if name.startswith("loss.")}
    expected = {
        "loss.views.feature_constraint": 0.04059,
        "loss.views.logit_constraint": 0.000148,
        "loss.views.feature_diversity": 0.55939,
        "loss.views.logit_diversity": 0.94163,
        "loss.views.feature_intra": 0.90428,
        "loss.views.logit_intra": 0.57016,
        "loss.views.ground_truth": 5.23456,
    }
    assert (warmup.FORMAT, losses) == (2, pytest.approx(expected, rel=0.01, abs=1e-4))


def test_the_header_says_what_it_is(config: Config, location: Path) -> None:
    cold = run(config(), "t00017")
    header = cache_files.read_header(location / key(config()))
    assert header is not None
    assert header["trained_by"] == "t00017" and header["trained_s"] > 0
    assert header["facts"]["views"]["num_views"] == 2 and header["facts"]["seeds"] == {
        "init": 0,
        "order": 0,
        "noise": 0,
    }
    losses = [{k: v for k, v in row.items() if k.startswith("loss.")} for row in header["rows"]]
    assert [row["epoch"] for row in header["rows"]] == [1, 2, 3]
    assert losses == [{k: v for k, v in e.row.items() if k.startswith("loss.")} for e in cold if e.stage == "warmup"]


# ---------------------------------------------------------------------------------------------------- what is shared


def test_trials_that_differ_in_student_and_methods_alone_share(config: Config, location: Path) -> None:
    of = config()
    others = [
        config(methods=({"name": "dkd"},)),
        config(methods=({"name": "kd"}, {"name": "crd"})),
        config(lr=0.01, milestones=[1], ce_weight=0.3, epochs=2, schedule="cosine"),
        config(optimizer="adamw"),
        replace(of, student=StudentSettings(network={"name": "cnn", "widths": [6]})),
        replace(of, role="probe"),
    ]
    assert {key(other) for other in others} == {key(of)}
    run(of)
    for other in others[:3]:
        expected, warm = alone(other), run(other)
        assert stages(warm)[0] == ("warmup", 3)
        assert_same(expected, warm)
    assert artefacts(location) == [key(of)]


TARGET_SETTINGS: list[dict[str, Any]] = [
    {"variant": "paper", "constraint": "hinge", "constraint_weight": 10.0}, {"train_heads": "pretrain"},
    {"ensemble": "weighted_l1"}, {"view_weight": 0.5}, {"target_temperature": 2.0}, {"detach_targets": False},
    {"target_mode": "train"}, {"margin_max": 0.7}, {"margin_penalty": 2.0},
]  # fmt: skip


def test_settings_that_are_not_read_in_the_warm_up_are_no_part_of_the_key(config: Config) -> None:
    alone = {**ANGULAR, "inter": False}
    declared = Trial(config(views=alone)).views.unused_in_warmup()
    tried = {"constraint", "constraint_weight"}  # with `variant`, which fills them in
    for base, changes in ((ANGULAR, TARGET_SETTINGS), (alone, [{"margin": 0.3}, {"logit_margin": 0.3}])):
        named, expected = key(config(views=base)), heads(list(itertools.islice(Trial(config(views=base)).run(), 3)))
        for change in changes:
            other = config(views={**base, **change})
            assert key(other) == named, change
            warmed = heads(list(itertools.islice(Trial(other).run(), 3)))
            assert all(torch.equal(value, expected[name]) for name, value in warmed.items()), change
            tried |= change.keys()
    assert declared == tried - {"constraint", "constraint_weight"}
    learned = {**ANGULAR, "learnable_margin": True, "inter": False}
    assert key(config(views=learned)) != key(config(views={**learned, "margin": 0.3}))


HEAD_SETTINGS = [
    {"num_views": 3}, {"margin": 0.3}, {"diversity_weight": 2.0}, {"warmup_epochs": 4}, {"warmup_lr": 0.05},
    {"dropout": 0.3}, {"gt_weight": 0.7}, {"heads_orthogonal": False}, {"variant": "paper"},
]  # fmt: skip


def test_everything_that_the_heads_depend_on_is_part_of_the_key(config: Config) -> None:
    of = config()
    values = DATA.model_dump()
    others = {
        **{str(change): config(views={**ANGULAR, **change}) for change in HEAD_SETTINGS},
        **{f"seed {name}": replace(of, seeds=Seeds(**{name: 1})) for name in ("init", "order", "noise")},
        "label noise": replace(of, data=DataSettings(**values | {"label_noise": {"fraction": 0.3}})),
        "its seed": replace(of, data=DataSettings(**values | {"label_noise": {"fraction": 0.2, "seed": 1}})),
        "right labels": replace(of, data=DataSettings(**values | {"label_noise": None})),
        "split": replace(of, data=DataSettings(**values | {"validation": 500})),
        "pixel noise": replace(of, data=DataSettings(**values | {"pixel_noise": {"std": 0.1}})),
        "augmentation": replace(of, data=DataSettings(**values | {"augmentation": {"pad": 2}})),
        "all of the pool": replace(of, role="confirm"),
        "batch size": config(batch_size=32),
        "momentum": config(momentum=0.8),
        "weight decay": config(weight_decay=1e-4),
        "precision of the cache": replace(of, teacher_cache=CacheSettings(dtype="fp32")),
        "precision of the teacher": replace(of, teacher_cache=CacheSettings(compute="bf16")),
        "live": replace(of, teacher_cache=None),
        "teacher": replace(of, teacher_file=trained(DATA, TEACHER.model_copy(update={"seed": 1}))),
    }
    keys = {"": key(of), **{name: key(other) for name, other in others.items()}}
    assert len(set(keys.values())) == len(keys), [name for name in others if list(keys.values()).count(keys[name]) > 1]
    assert key(of) == keys[""]


def test_threads_are_part_of_the_key_as_they_change_last_bits(config: Config) -> None:
    before, threads = key(config()), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert key(config()) != before
    finally:
        torch.set_num_threads(threads)


def test_seeds_and_report_roles_never_take_each_others_heads(config: Config, location: Path) -> None:
    of = config()
    for other in (of, replace(of, seeds=Seeds(init=1, order=1, noise=1)), replace(of, role="confirm")):
        expected, mine = alone(other), run(other)
        assert stages(mine) == stages(expected), "trained, not found"
        assert_same(expected, mine)
    assert len(artefacts(location)) == 3


@pytest.mark.parametrize(
    "views", [{"name": "none"}, {"name": "tekap"}, {**ANGULAR, "warmup_epochs": 0}, {**ANGULAR, "train_heads": "joint"}]
)
def test_views_without_a_warm_up_leave_nothing(config: Config, location: Path, views: dict[str, Any]) -> None:
    of = config(views=views)
    assert rows(run(of)) == rows(alone(of))
    assert shared(of) is None and not location.exists()


PLUGIN = """
from pydantic import Field

from akdtune.registry import register
from akdtune.views.angular import Angular, AngularSettings


class LaterSettings(AngularSettings):
    later: float = Field(1.0, description="acts on the student alone")


@register("later_angular")
class Later(Angular):
    Settings = LaterSettings

    def unused_in_warmup(self):
        return frozenset({"later"})
"""


def test_a_plugins_code_is_part_of_the_key_and_what_it_declares_as_unused_is_not(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "later_angular_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with registry.kept():
        module = importlib.import_module("later_angular_plugin")
        plugin = {**ANGULAR, "name": "later_angular"}
        first = key(config(views=plugin))
        assert key(config(views={**plugin, "later": 2.0})) == first
        assert key(config(views={**plugin, "margin": 0.3})) != first
        assert first != key(config())
        (tmp_path / "later_angular_plugin.py").write_text(PLUGIN + "\n# something else\n")
        assert key(config(views=plugin)) == first, "what this process has imported"
        importlib.invalidate_caches()
        importlib.reload(module)
        assert key(config(views=plugin)) != first
    del sys.modules["later_angular_plugin"]


# ---------------------------------------------------------------------------------------------------- interruptions


def test_a_trial_that_goes_on_in_the_middle_of_its_own_warm_up(config: Config, location: Path) -> None:
    of = config()
    expected = alone(of)
    running = Trial(of).run(None, share_warmup_as="first")
    begun = next(running)
    running.close()  # type: ignore[attr-defined]
    assert begun.stage == "warmup" and artefacts(location) == []
    rest = run(of, "first", begun.state)
    assert rows([begun, *rest]) == rows(expected)
    assert_same(expected, rest)
    assert artefacts(location) == [key(of)], "under the name of the heads as they were drawn"
    warm = run(of, "second")
    assert stages(warm)[0] == ("warmup", 3)
    assert_same(expected, warm)
    resumed = run(of, "third", begun.state)  # another trial has finished it meanwhile
    assert stages(resumed) == stages(warm)
    assert_same(expected, resumed)
    assert rows(run(of, "fourth", warm[0].state)) == rows(expected)[3:]


def test_a_trial_that_is_stopped_keeps_nothing_and_frees_the_others(config: Config, location: Path) -> None:
    of = config()
    expected = alone(of)
    steps = itertools.count()
    seen: list[Epoch] = []
    running = Trial(of).run(None, lambda: next(steps) == 7, "first")
    with pytest.raises(Interrupted):
        seen.extend(running)
    assert stages(seen) == [("warmup", 1)] and artefacts(location) == []
    rest = run(of, "second", seen[-1].state)
    assert rows(seen + rest) == rows(expected)
    assert artefacts(location) == [key(of)]


def test_heads_that_diverge_are_not_kept(config: Config, location: Path) -> None:
    of = config(views={**ANGULAR, "warmup_lr": 1e12})
    for name in ("first", "second"):
        with pytest.raises(Diverged) as raised:
            run(of, name)
        assert raised.value.epoch == 0
    assert artefacts(location) == []


def test_a_second_trial_of_the_same_process_does_not_wait_for_the_first(config: Config, location: Path) -> None:
    of = config()
    first = Trial(of).run(None, share_warmup_as="first")
    begun = [next(first)]
    second = run(of, "second")
    assert artefacts(location) == [], "it is the first one's to write"
    begun += first
    assert artefacts(location) == [key(of)]
    assert rows(second) == rows(begun)


def test_waiting_ends_when_asked_to_stop_and_when_the_other_is_silent(
    config: Config, location: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = config()
    folder = location / key(of)
    folder.mkdir(parents=True)
    (folder / "trainer").write_text("t00009")
    with FileLock(str(folder / "train.lock")):
        asked = itertools.count()
        with pytest.raises(Interrupted):
            list(trial_of(of).run(None, lambda: next(asked) == 3, "first"))
        assert f"warm-up: waits for {key(of)}, which t00009 trains" in capsys.readouterr().out
        started = time.monotonic()
        trial = run(of, "second", patience_s=0.3)
        assert time.monotonic() - started > 0.3
        assert "t00009 gave no sign for 0.3 s" in capsys.readouterr().out
        assert artefacts(location) == []
    assert rows(trial) == rows(alone(of))
    assert (trial[0].row["wall_time_s"] or 0.0) > 0.3, "waiting counts"


def test_who_trains_gives_signs_of_life(config: Config, location: Path) -> None:
    of = config()
    trainer = location / key(of) / "trainer"
    seen: list[int] = []

    def should_stop() -> bool:
        if trainer.exists():
            seen.append(trainer.stat().st_mtime_ns)
        return False

    list(trial_of(of, sign_s=0.0).run(None, should_stop, "first"))
    assert len(seen) == 15, "one for each step of the warm-up"
    assert len(set(seen)) > 3 and not trainer.exists()


# -------------------------------------------------------------------------------------------- damage and full disks


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "weights cut off": lambda folder: cut(folder / "heads.pt"),
    "one bit of the weights": lambda folder: flip(folder / "heads.pt"),
    "no weights": lambda folder: (folder / "heads.pt").unlink(),
    "header cut off": lambda folder: cut(folder / "header.json"),
    "another time": lambda folder: (folder / "header.json").write_text(
        (folder / "header.json").read_text().replace('"trained_s": ', '"trained_s": 1')
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_trained_anew(
    config: Config, location: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    of = config()
    cold = run(of)
    DAMAGE[damage](location / key(of))
    capsys.readouterr()
    again = run(of, "second")
    assert f"warning: warm-up: {key(of)} is damaged and is trained anew" in capsys.readouterr().out
    assert rows(again) == rows(cold)
    assert stages(run(of, "third"))[0] == ("warmup", 3)
    assert "trained in" in (said := capsys.readouterr().out) and said.rstrip().endswith("by second")


def test_the_artefact_of_another_key_is_never_taken(config: Config, location: Path) -> None:
    of, other = config(), config(views={**ANGULAR, "margin": 0.3})
    run(other)
    (location / key(other)).rename(location / key(of))
    assert stages(run(of))[:2] == [("warmup", 1), ("warmup", 2)]


def test_where_nothing_can_be_written_trials_train_for_themselves(
    config: Config, location: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = config()
    expected = alone(of)
    location.write_text("")
    assert rows(run(of)) == rows(expected)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["warning"]


@pytest.mark.parametrize("written", ["heads.pt", "header.json"])
def test_a_full_disk_costs_the_artefact_and_nothing_else(
    config: Config,
    location: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written: str,
) -> None:
    of = config()
    expected = alone(of)
    real = atomic.write

    def full(path: Path, content: bytes | str, *, durable: bool) -> None:
        if path.name == written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content, durable=durable)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write", full)
        assert rows(run(of)) == rows(expected)
    assert capsys.readouterr().out.count("No space left on device") == 1
    assert artefacts(location) == []
    run(of)
    assert artefacts(location) == [key(of)]


def test_what_a_killed_writer_left_is_swept_away(config: Config, location: Path) -> None:
    folder = location / key(config())
    folder.mkdir(parents=True)
    (folder / "heads.pt.4711.tmp").write_bytes(b"half")
    (folder / "trainer").write_text("dead")
    run(config())
    assert sorted(path.name for path in folder.iterdir()) == ["header.json", "heads.pt", "train.lock"]


# ---------------------------------------------------------------------------------------------------- images, processes


def test_the_warm_up_reads_no_image_when_the_teachers_rows_are_stored(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = config()
    cold = list(Trial(of).run())  # fills the teacher's rows
    trial = Trial(of)
    assert trial.teacher is not None and trial.teacher.fetches_images  # opened: it has seen a batch of images
    made: list[int] = []
    real = Split.images_of_rows

    def counted(self: Split, rows: torch.Tensor, crops: Crops | None = None) -> torch.Tensor:
        made.append(len(rows))
        return real(self, rows, crops)

    monkeypatch.setattr(Split, "images_of_rows", counted)
    running = trial.run(None, share_warmup_as="first")
    warmed = list(itertools.islice(running, 3))
    assert [e.row["teacher_cache_hit_rate"] for e in warmed] == [1.0] * 3
    assert made == []
    assert rows([*warmed, *running]) == rows(cold)
    assert made, "the student does look at images"
    other = Trial(of)
    assert other.teacher is not None and other.teacher.fetches_images
    made.clear()
    (warm,) = itertools.islice(other.run(None, share_warmup_as="second"), 1)
    assert warm.epoch == 3 and made == []


PROCESSES = """
import json, os, sys, time
from pathlib import Path
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial

given, folder, pauses = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])

def work(name, pause_s):
    sys.stdout = (folder / f"{name}.out").open("w", buffering=1)
    trial = Trial(TrialConfig.parse(TrialRequest.parse(given)))
    while not (folder / f"{name}.go").exists():
        time.sleep(0.01)

    def should_stop():
        time.sleep(pause_s)
        return False

    print(json.dumps([epoch.row for epoch in trial.run(None, should_stop, name) if epoch.stage == "student"]))

for name, pause_s in pauses.items():
    if not (pid := os.fork()):
        try:
            work(name, pause_s)
        finally:
            os._exit(0)
    (folder / f"{name}.pid").write_text(str(pid))
for _ in pauses:
    os.wait()
"""


class Processes:
    """Trials in processes of their own, each of which begins when its name is called."""

    def __init__(self, of: TrialConfig, folder: Path, pauses: dict[str, float]) -> None:
        settings = {
            "data": of.data.model_dump(),
            "student": of.student.model_dump(),
            "views": {"name": of.views[0], **of.views[1].model_dump()},
            "method": [{"name": name, **method.model_dump()} for name, method in of.methods],
            "training": of.training.model_dump(),
        }
        assert of.teacher_cache is not None
        trial = {"settings": settings, "seeds": {}, "role": of.role, "teacher_file": asdict(of.teacher_file)}
        given = json.dumps(trial | {"teacher_cache": of.teacher_cache.model_dump()})
        self.folder = folder
        self.all = subprocess.Popen(
            [sys.executable, "-c", PROCESSES, given, str(folder), json.dumps(pauses)],
            env={**os.environ, "AKDTUNE_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )

    def go(self, name: str) -> None:
        (self.folder / f"{name}.go").touch()

    def kill(self, name: str) -> None:
        os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)

    def said(self, name: str) -> str:
        out = self.folder / f"{name}.out"
        return out.read_text() if out.exists() else ""

    def rows(self, name: str) -> list[dict[str, Any]]:
        """What the student of a finished trial came to."""
        student = json.loads(self.said(name).splitlines()[-1])
        return [{k: v for k, v in row.items() if k not in TIMINGS | CACHE_RATES} for row in student]


def until(condition: Callable[[], object], bound_s: float = 180.0) -> None:
    end = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., Processes]]:
    started: list[Processes] = []

    def start(of: TrialConfig, **pauses: float) -> Processes:
        started.append(Processes(of, tmp_path, pauses))
        return started[-1]

    yield start
    for running in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.all.pid, signal.SIGKILL)
        running.all.wait()


def test_one_process_trains_and_when_it_is_killed_one_of_those_that_wait(
    config: Config, location: Path, processes: Callable[..., Processes]
) -> None:
    of = config()
    running = processes(of, killed=0.5, one=0.01, other=0.01)
    expected = alone(of)
    running.go("killed")
    trainer = location / key(of) / "trainer"
    until(lambda: trainer.exists() and trainer.read_text() == "killed")
    waiting = ("one", "other")
    for name in waiting:
        running.go(name)
    until(lambda: all(f"waits for {key(of)}, which killed trains" in running.said(name) for name in waiting))
    running.kill("killed")
    assert running.all.wait(180) == 0
    assert "warm-up" not in running.said("killed") and artefacts(location) == [key(of)]
    said = {name: running.said(name) for name in waiting}
    (winner,) = (name for name in waiting if f"warm-up kept: {key(of)}" in said[name])
    (finder,) = (name for name in waiting if "warm-up found" in said[name])
    assert {winner, finder} == set(waiting) and f" by {winner}" in said[finder]
    for name in waiting:
        assert running.rows(name) == [row for _, _, row in student_rows(expected)]
    third = run(of, "third")
    assert stages(third)[0] == ("warmup", 3)
    assert_same(expected, third)


def test_artefacts_are_bounded_and_the_longest_unused_go_first(config: Config, location: Path) -> None:
    made = []
    for margin in (0.2, 0.3, 0.4):
        list(Trial(config({**ANGULAR, "margin": margin})).run(share_warmup_as=f"m{margin}"))
        (new,) = [folder for folder in location.iterdir() if folder not in made and (folder / "heads.pt").exists()]
        made.append(new)
        os.utime(new / "header.json", (len(made), len(made)))  # the first was used longest ago
    size = (made[0] / "heads.pt").stat().st_size
    with FileLock(str(made[0] / "train.lock")):  # somebody trains it: the next one goes
        run(config({**ANGULAR, "margin": 0.5}), "m0.5", kept_bytes=3 * size + size // 2)
    kept = [folder for folder in location.iterdir() if (folder / "heads.pt").exists()]
    assert made[0] in kept and made[1] not in kept and made[2] in kept and len(kept) == 3
    assert not (made[1] / "header.json").exists()
