"""Every kind of bad input on the real command line: one clear message, exit code 2, nothing half-written."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
import yaml
from filelock import FileLock
from PIL import Image

from akdtune import cli, networks
from akdtune.records.files import LOCK, PLAN
from akdtune.signals import InputSpec
from tests.study_fixture import StudyBuilder

STUDY = """\
study: small
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 4]}, epochs: 1}
student: {network: {name: cnn, widths: [2, 2]}}
views: {name: angular, num_views: 2, margin: {uniform: [0.1, 0.5]}, warmup_epochs: 1}
method: {name: kd, weight: {log_uniform: [0.1, 4.0]}}
training: {epochs: 4, milestones: [2]}
search: {trials: 2}
scheduler: {name: asha, grace_period: 3}
resources: {cpu: 1, gpu: 0}
tracking: {wandb: null}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a good study; whatever gets as far as starting Ray has not been refused in time."""

    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was about to start")

    monkeypatch.setattr(ray, "init", start)
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.chdir(place)
    Path("study.yaml").write_text(STUDY)
    return place


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder, with what the files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.is_socket() and not path.is_fifo()
    }


Refused = Callable[..., str]


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused and returns its message, on one line."""

    def call(*arguments: str, unchanged: Path | None = None) -> str:
        folder = unchanged or home
        before = contents(folder)
        capsys.readouterr()
        code = cli.main(arguments)
        message = capsys.readouterr().err
        check_refusal(code, message)
        assert contents(folder) == before
        cache = Path(os.environ["AKDTUNE_CACHE"])
        assert not [path for path in cache.rglob("*") if path.name.startswith(".building") or path.suffix == ".tmp"]
        return message.removeprefix("akdtune: ").removesuffix("\n")

    return call


def check_refusal(code: int, message: str) -> None:
    """One message, code 2, no traceback."""
    assert code == 2, message
    assert message.startswith("akdtune: ")
    assert message.count("akdtune: ") == 1
    assert "Traceback" not in message
    assert "Error(" not in message


def check_words(message: str, words: list[str]) -> None:
    for word in words:
        assert word in message


# ----------------------------------------------------------------------------------------------- the settings file


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("margin:", "margn:", ["study.yaml:5: views.margn: unknown key 'margn'; did you mean 'margin'?"]),
        ("data:", "dta:", ["2 problems", "study.yaml:2: dta: unknown section 'dta'; did you mean 'data'?"]),
        ("epochs: 4,", "epochs: four,", ["study.yaml:7: training.epochs: must be a whole number, got 'four'"]),
        ("{uniform: [0.1, 0.5]}", "{uniform: [0.1, 0.5], choice: [1]}",
         ["study.yaml:5: views.margin: a domain has exactly one key out of choice, grid", "got 'uniform', 'choice'"]),
        ("{uniform: [0.1, 0.5]}", "{choice: []}",
         ["study.yaml:5: views.margin: 'choice' needs a list of at least one option, got an empty list"]),
        ("{uniform: [0.1, 0.5]}", "{uniform: [0.5, 0.1]}",
         ["study.yaml:5: views.margin: 'uniform' has its low end 0.5 above its high end 0.1"]),
        ("log_uniform: [0.1, 4.0]", "log_uniform: [0, 4.0]",
         ["study.yaml:6: method.weight: 'log_uniform' needs a low end above 0, got 0"]),
        ("name: angular", "name: anguler",
         ["study.yaml:5: views.name: unknown view 'anguler'; did you mean 'angular'?", "allowed: angular, clients"]),
        ("name: kd", "name: kdd",
         ["study.yaml:6: method.name: unknown method 'kdd'; did you mean 'kd'?", "allowed: at, branch_self, cat_kd"]),
        ("{name: cnn, widths: [2, 2]}", "resnet8x5",
         ["study.yaml:4: student.network: unknown network 'resnet8x5'; did you mean 'resnet8x4'?"]),
        ("{name: cnn, widths: [4, 4]}", "cnnn", ["study.yaml:3: teacher.network: unknown network 'cnnn'"]),
        ("name: digits", "name: digit",
         ["study.yaml:2: data.name: unknown data set 'digit'; did you mean 'digits'?", "cifar100"]),
        ("grace_period: 3", "grace_period: 4",
         ["study.yaml:9: scheduler.grace_period: must be below training.epochs (4)", "got 4"]),
        ("study: small", "study: small\nconfirm: {top: 3}",
         ["study.yaml:2: confirm.seeds: is missing"]),
        ("study: small", "study: small\nplugins: [no_such_module]",
         ["study.yaml:2: plugins: cannot import 'no_such_module'"]),
        ("study: small", "study: small\nplugins: [broken_plugin]",
         ["study.yaml:2: plugins: cannot import 'broken_plugin'", "broken_plugin.py", "NameError", "not_defined"]),
        ("study: small", "study: small\nplugins: ['']", ["study.yaml:2: plugins"]),
        ("study: small", "study: small\nstudy: other",
         ["study.yaml:2: study: stands twice; the first time in line 1"]),
        ("num_views: 2", "num_views: 5",
         ["study.yaml: views.num_views: 5 views cannot be orthogonal in 4 dimensions", "at most 4",
          "(teacher network: cnn (widths: [4, 4]))"]),
        ("num_views: 2", "num_views: {choice: [2, 5]}",
         ["study.yaml: views.num_views: 5 views cannot be orthogonal in 4 dimensions", "at most 4",
          "(teacher network: cnn (widths: [4, 4]))"]),
        ("num_views: 2", "num_views: {int_uniform: [2, 5]}", ["views.num_views: 5 views cannot be orthogonal"]),
        ("widths: [4, 4]", "widths: [4, 4, 4, 4, 4]",
         ["study.yaml: teacher.network", "5 widths halve images of 8 pixels below one pixel", "at most 4"]),
        ("widths: [2, 2]", "widths: [2, 2, 2, 2, 2]",
         ["study.yaml: student.network", "5 widths halve images of 8 pixels below one pixel", "at most 4"]),
        ("validation: 600", "validation: 900", ["data.validation", "900 of 900 images", "no training image"]),
        ("{network: {name: cnn, widths: [4, 4]}, epochs: 1}", "none",
         ["2 problems", "study.yaml:5: views: 'angular' needs a teacher, and teacher.network is none",
          "study.yaml:6: method: 'kd' needs a teacher, and teacher.network is none (without one: branch_self,"]),
        ("epochs: 1}", "epochs: 1, others: [{network: cnnn}, {network: resnet8,\n  epochs: 0}]}",
         ["2 problems", "study.yaml:3: teacher.others[0].network: unknown network 'cnnn'; did you mean 'cnn'?",
          "study.yaml:4: teacher.others[1].epochs: must be above 0, got 0"]),
        ("epochs: 1}", "epochs: 1, distilled_from: [{network: {name: cnn, widths: [2, 2, 2, 2, 2]}}]}",
         ["study.yaml: teacher.distilled_from[0].network: network cnn: 5 widths halve images of 8 pixels"]),
        ("epochs: 1}", "checkpoint: pretrained}",
         ["study.yaml:3: teacher.checkpoint: pretrained needs a network with weights of its own: 'cnn' has none"]),
        ("name: angular, num_views: 2, margin: {uniform: [0.1, 0.5]}, warmup_epochs: 1", "name: multi_teacher",
         ["study.yaml:5: views: 'multi_teacher' needs further teachers: list them under teacher.others"]),
        ("widths: [2, 2]}}", "widths: [2, 2]}, checkpoint: study.yaml}",
         ["study.yaml: student.checkpoint: ", "/study.yaml: not a readable checkpoint of weights only"]),
        ("widths: [2, 2]}}", "widths: [2, 2]}, train: classifier}",
         ["study.yaml:4: student.train: train is classifier, which needs a checkpoint"]),
        ("{trials: 2}", "{trials: 2, seeds: [0, 0]}", ["study.yaml:8: search.seeds: seeds must differ, got [0, 0]"]),
        ("{trials: 2}", "{trials: 2, time_budget: 2 hours}",
         ["study.yaml:8: search.time_budget: must be a number of seconds above 0", "text like 90m, 1h30m or 2d"]),
        ("{trials: 2}", "{trials: 2, time_budget: 1:30}",
         ["study.yaml:8: search.time_budget: '1:30' may be 1 h 30 min or 1 min 30 s: write 1h30m or 1m30s"]),
        ("{trials: 2}", "{trials: 100000000000}",
         ["study.yaml:8: search.trials: must be at most 100000, got 100000000000"]),
        ("epochs: 4,", "epochs: 1:30,",
         ["study.yaml:7: training.epochs: must be a whole number, got '1:30'; write a number without ':'"]),
        ("study: small", "study: 20241129",
         ["study.yaml:1: study: must be a name of letters", "got 20241129; a name that is also a number", "in quotes"]),
        ("study: small", "study: " + "ä" * 100,
         ["study.yaml:1: study: must have at most 150 bytes, as a folder is called so: 'ää"]),
        ("study: small", "study: small\nplugins: [test]",
         ["study.yaml:2: plugins: 'test' is a module of Python itself"]),
        ("{trials: 2}", "{trials: 2, objectives: [macs]}",
         ["study.yaml:8: search.objectives: objectives must hold accuracy, and each at most once"]),
        ("{trials: 2}", "{trials: 2, objectives: [accuracy, macs]}",
         ["study.yaml:8: search.objectives: must be [accuracy] with scheduler.name asha, got [accuracy, macs]"]),
        ("{name: asha, grace_period: 3}", "{name: median, grace_period: 4}",
         ["study.yaml:9: scheduler.grace_period: must be below training.epochs (4), so that something can be stopped"]),
        ("{name: asha, grace_period: 3}", "{name: median}", ["study.yaml:9: scheduler: grace_period is needed"]),
        ("{name: asha, grace_period: 3}", "{name: racing}",
         ["study.yaml:8: search.algorithm: must be grid, random or qmc with scheduler.name racing, got 'tpe'",
          "search.seeds: must hold at least scheduler.min_seeds (6) seeds with scheduler.name racing, got null"]),
        ("{name: kd, weight: {log_uniform: [0.1, 4.0]}}", "at",
         ["study.yaml:6: method: nothing of the views 'angular' would reach the student: 'at' reads no views"]),
        ("milestones: [2]}", "milestones: [2], optimizer: dot, momentum: 0.95}",
         ["study.yaml:7: training", "dot_delta must be at most momentum and 1 - momentum", "got 0.075"]),
    ],
)  # fmt: skip
def test_a_wrong_setting(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, command: str, old: str, new: str, words: list[str]
) -> None:
    assert old in STUDY
    Path("study.yaml").write_text(STUDY.replace(old, new, 1))
    Path("broken_plugin.py").write_text("value = not_defined\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    check_words(refused(command, "study.yaml"), words)


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["study.yaml: ", "must be a mapping of settings, got nothing"]),
        (b"# nothing but a comment\n", ["study.yaml: ", "must be a mapping of settings"]),
        (b"hello\n", ["study.yaml: ", "must be a mapping of settings, got 'hello'"]),
        (b"study: [small\ndata: 3\n", ["study.yaml:2: ", "cannot be parsed"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", ["study.yaml: is not a text file in UTF-8"]),
        (b"PK\x03\x04\x00\x00", ["study.yaml:1: ", "cannot be parsed", "the character #x03, is this a text file?"]),
    ],
)
def test_a_file_that_is_no_settings(refused: Refused, command: str, content: bytes, words: list[str]) -> None:
    Path("study.yaml").write_bytes(content)
    message = refused(command, "study.yaml")
    assert "\n" not in message
    check_words(message, words)


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stdy.yaml", ["stdy.yaml: there is no such file", "did you mean 'study.yaml'?"]),
        ("digits_angulr", ["did you mean the packaged 'digits_angular'?"]),
        ("nothing/at/all.yaml", ["nothing/at/all.yaml: there is no such file", "packaged: adaspec, angular_ablation"]),
        (".", [".: is a folder, not a YAML file"]),
    ],
)
def test_a_file_that_is_not_there(refused: Refused, command: str, name: str, words: list[str]) -> None:
    check_words(refused(command, name), words)


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs", ["command line: training.epochs: must have the form key.path=value"]),
        ("trainin.epochs=2", ["trainin.epochs: unknown section 'trainin'; did you mean training.epochs=2?"]),
        ("training.epoch=2", ["command line: training.epoch: unknown key 'epoch'; did you mean 'epochs'?"]),
        ("views.margn=0.2", ["command line: views.margn: unknown key 'margn'; did you mean 'margin'?"]),
        ("training.epochs=two", ["command line: training.epochs: must be a whole number, got 'two'"]),
        ("data.root={a", ["command line: data.root: cannot be parsed"]),
        ("confirm={top: 3}", ["command line: confirm.seeds: is missing"]),
        ("scheduler.grace_period=9", ["command line: scheduler.grace_period: must be below training.epochs (4)"]),
    ],
)
def test_a_wrong_override(refused: Refused, command: str, override: str, words: list[str]) -> None:
    check_words(refused(command, "study.yaml", override), words)


SAID = "longer than the file system takes"
"""The system's own words where a folder is made, ours where it is looked for."""


@pytest.mark.parametrize("name", ["n" * 300, "ä" * 200, f"deep/{'n' * 256}/run"])
def test_a_folder_whose_name_is_too_long(refused: Refused, name: str) -> None:
    assert SAID in refused("run", "study.yaml", "--dir", name).replace("too long", SAID)
    assert "no such study directory" in refused("show", name)
    refused("plan", name)


def test_two_mistakes_come_in_one_message(refused: Refused) -> None:
    message = refused("run", "study.yaml", "views.margn=0.2", "training.epochs=two")
    assert message.splitlines()[0] == "2 problems:"
    check_words(message, ["views.margn", "training.epochs"])


# ------------------------------------------------------------------------------------------------- data and teacher


def images(file: Path, labels: list[int], size: int = 8) -> Path:
    """A Parquet file of grey images."""
    encoded = []
    for number in range(len(labels)):
        buffer = io.BytesIO()
        Image.fromarray(np.full((size, size), number % 256, np.uint8)).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({"image": encoded, "label": labels}), file)
    return file


PARQUET = "data={name: parquet, train: train.parquet, test: test.parquet, validation: 4}"


@pytest.mark.parametrize(
    ("train", "test", "data", "words"),
    [
        (None, [0, 1], PARQUET, ["data.train: no file matches", "train.parquet"]),
        ([0, 1] * 8, None, PARQUET, ["data.test: no file matches", "test.parquet"]),
        ([0, 1] * 8, [0, 7], PARQUET, ["test.parquet: row 1: label 7 is out of range (allowed: 0..1)"]),
        ([0, -1] * 8, [0, 1], PARQUET, ["train.parquet: row 1: label -1 is out of range (allowed: 0 and above)"]),
        ([0, 9] * 8, [0, 1], PARQUET, ["test.parquet: row 1: label 1 has no training image (allowed: 0, 9)"]),
        ([0, 1] * 8, [0, 1], PARQUET.replace("}", ", image_column: imge}"),
         ["train.parquet: data.image_column: unknown column 'imge'; did you mean 'image'?"]),
        ([0, 1] * 8, [0, 1], PARQUET.replace("validation: 4", "validation: 16"),
         ["data.validation", "16 of 16 images"]),
    ],
)  # fmt: skip
def test_wrong_data_files(
    refused: Refused, train: list[int] | None, test: list[int] | None, data: str, words: list[str]
) -> None:
    for name, labels in (("train.parquet", train), ("test.parquet", test)):
        if labels is not None:
            images(Path(name), labels)
    for command in ("run", "plan") if train and test else ("run",):
        check_words(refused(command, "study.yaml", data), words)


@pytest.mark.parametrize("keep", [0, 0.5, -1])
def test_a_truncated_parquet_file(refused: Refused, keep: float) -> None:
    whole = images(Path("train.parquet"), [0, 1] * 8).read_bytes()
    images(Path("test.parquet"), [0, 1])
    Path("train.parquet").write_bytes(whole[:-1] if keep == -1 else whole[: int(len(whole) * keep)])
    check_words(refused("run", "study.yaml", PARQUET), ["train.parquet: not a readable Parquet file, perhaps cut"])


def test_missing_cifar(refused: Refused) -> None:
    overrides = ["resources={cpu: 1, gpu: 0}", "tracking=null", "data.root=here", "data.download=false"]
    message = refused("run", "cifar_angular", *overrides)
    check_words(message, ["here/cifar-100-python/train: no such file", "data.download=true"])


def test_a_checkpoint_that_is_not_there(refused: Refused) -> None:
    message = refused("run", "study.yaml", "teacher.checkpoint=no/such.pt")
    check_words(message, ["no/such.pt: no such file", "teacher.checkpoint"])


def test_files_of_students_and_of_further_teachers_that_are_not_there(refused: Refused, home: Path) -> None:
    message = refused("run", "study.yaml", "student.checkpoint={choice: [no/a.pt, no/b.pt]}")
    check_words(message, ["2 problems", f"study.yaml: student.checkpoint: {home}/no/a.pt: no such file", "no/b.pt"])
    other = "teacher.others=[{network: resnet8, checkpoint: no/such.pt}]"
    check_words(refused("run", "study.yaml", "views=multi_teacher", other), [f"{home}/no/such.pt: no such file"])


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["teacher.checkpoint=no/such.pt"], ["missing checkpoint: {home}/no/such.pt (teacher.checkpoint)"]),
        (["student.checkpoint={choice: [no/a.pt, no/b.pt]}"],
         ["missing checkpoint: {home}/no/a.pt (student.checkpoint)",
          "missing checkpoint: {home}/no/b.pt (student.checkpoint)",
          "no time estimate before the students' checkpoints are there"]),
        (["views=multi_teacher", "teacher.others=[{network: resnet8, checkpoint: no/such.pt}]"],
         ["missing checkpoint: {home}/no/such.pt (teacher.others[0].checkpoint)"]),
        ([PARQUET], ["missing data (has to be put there):", "    {home}/train.parquet", "    {home}/test.parquet"]),
        (["data={name: cifar10, root: here, validation: 4}"],
         ["missing data (has to be put there, or fetched with data.download=true):",
          "    {home}/here/cifar-10-batches-py/data_batch_1"]),
        (["data={name: cifar10, root: here, validation: 4, download: true}"],
         ["missing data (`akdtune run` downloads it):", "    {home}/here/cifar-10-batches-py/data_batch_1",
          "no time estimate before the data is there"]),
        (["resources.cpu=4096"], ["on this machine `akdtune run` is refused: resources.cpu: a trial asks for 4096"]),
    ],
)  # fmt: skip
def test_a_plan_says_what_is_missing(
    home: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], lines: list[str]
) -> None:
    before = contents(home)
    assert cli.main(["plan", "study.yaml", *overrides]) == 0
    printed = capsys.readouterr().out
    check_words(printed, [line.format(home=home) for line in lines])
    assert contents(home) == before


def test_a_checkpoint_of_another_architecture(refused: Refused) -> None:
    other = networks.build({"name": "cnn", "widths": [4, 6]}, InputSpec(1, 8, 10), 0)
    torch.save({"model": other.state_dict()}, "other.pt")
    for command in ("run", "plan"):
        message = refused(command, "study.yaml", "teacher.checkpoint=other.pt")
        check_words(message, ["other.pt: not a checkpoint of cnn for 10 classes", "different shapes", "[6, 4, 3, 3]"])


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04" + bytes(30)])
def test_a_file_that_is_no_checkpoint(refused: Refused, content: bytes) -> None:
    Path("odd.pt").write_bytes(content)
    message = refused("run", "study.yaml", "teacher.checkpoint=odd.pt")
    check_words(message, ["odd.pt: not a readable checkpoint"])
    assert "\n" not in message


# -------------------------------------------------------------------------------------------------------- resources


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("resources.gpu=512", ["resources.gpu: a trial asks for 512 GPUs, this machine has", "set resources.gpu="]),
        ("resources.cpu=4096", ["resources.cpu: a trial asks for 4096 CPUs, this machine has", "set resources.cpu="]),
    ],
)
def test_more_than_the_machine_has(refused: Refused, override: str, words: list[str]) -> None:
    check_words(refused("run", "study.yaml", override), words)


# -------------------------------------------------------------------------------------------------- study directory


def stored_study(root: Path, *overrides: str) -> Path:
    """A finished study as `akdtune run study.yaml` would have left it."""
    from akdtune.study import spec

    build = StudyBuilder(root)
    build.add("angular/kd", 60.0, 0.1, role="search")
    settings = spec.load("study.yaml", overrides)
    build.plan[0]["settings"] = settings.arms[0].centre().settings
    build.write()
    lock = {"settings": settings.resolved(), "data": {"hash": "d"}, "teacher": {"weights_hash": "t"}}
    (root / LOCK).write_text(yaml.safe_dump(lock))
    (root / ".lock").touch()
    return root


def test_the_directory_of_another_study(refused: Refused) -> None:
    stored_study(Path("there"), "study=other")
    message = refused("run", "study.yaml", "--dir", "there")
    assert message == "there: belongs to study 'other', not 'small'; choose another --dir"


def test_the_directory_of_the_same_study_with_other_settings(refused: Refused) -> None:
    stored_study(Path("there"))
    message = refused("run", "study.yaml", "training.lr=0.1", "--dir", "there")
    check_words(message, ["there: the settings differ", "  training.lr: 0.05 -> 0.1", "another --dir"])
    assert len(message.splitlines()) == 3


def test_a_folder_that_is_no_study(refused: Refused) -> None:
    Path("there").mkdir()
    Path("there/thesis.tex").write_text("mine")
    check_words(refused("run", "study.yaml", "--dir", "there"), ["there: not empty and not a study directory"])
    check_words(refused("show", "there"), ["there: is no study directory"])
    check_words(refused("best", "there"), ["there: is no study directory"])
    check_words(refused("analyze", "diversity_accuracy", "there"), ["there: is no study directory"])


def test_a_directory_that_is_a_file(refused: Refused) -> None:
    Path("there").write_text("mine")
    check_words(refused("run", "study.yaml", "--dir", "there"), ["there: is a file, not a directory", "--dir"])
    check_words(refused("run", "study.yaml", "--dir", "there/below"), ["there/below: cannot be written", "directory"])


@pytest.mark.parametrize("content", [b"", b"hello", b"a: [", b"\xff\xfe\x00", b"settings: 3\n"])
def test_a_damaged_lock_file(refused: Refused, content: bytes) -> None:
    (stored_study(Path("there")) / LOCK).write_bytes(content)
    check_words(refused("run", "study.yaml", "--dir", "there"), [f"there/{LOCK}: damaged", "settings"])
    check_words(refused("best", "there", "--export", "best.yaml"), [f"there/{LOCK}: damaged"])


def test_a_damaged_plan(refused: Refused) -> None:
    plan = stored_study(Path("there")) / PLAN
    plan.write_bytes(plan.read_bytes()[:-20])
    check_words(refused("run", "study.yaml", "--dir", "there"), [f"there/{PLAN}: cannot be read, truncated"])


def test_a_running_study_in_the_same_directory(refused: Refused) -> None:
    root = stored_study(Path("there"))
    with FileLock(root / ".lock"):
        message = refused("run", "study.yaml", "--dir", "there")
    assert message == "there: another akdtune is running this study (its lock is held); wait or stop it"


def test_a_running_study_in_another_process(home: Path) -> None:
    """The whole command, in a process of its own, against a lock that this process holds."""
    root = stored_study(Path("there"))
    with FileLock(root / ".lock"):
        before = contents(home)
        ended = command("run", "study.yaml", "--dir", "there")
        assert contents(home) == before
    check_refusal(ended.returncode, ended.stderr[ended.stderr.index("akdtune: ") :])  # a busy machine says what it does
    assert ended.stdout == ""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "akdtune.cli", *arguments], capture_output=True, text=True)


# ------------------------------------------------------------------------------------------------ disks that refuse


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A small disk of our own at `place`; skips the test where this user may not mount one."""
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", place], check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_read_only_disk(refused: Refused) -> None:
    with mounted(Path("disk"), "ro"):
        message = refused("run", "study.yaml", "--dir", "disk/runs/small")
    assert message == "disk/runs/small: cannot be written: Read-only file system"


def test_a_read_only_study(refused: Refused, home: Path) -> None:
    with mounted(Path("disk"), "size=1m"):
        stored_study(Path("disk/small"))
        subprocess.run(["mount", "-o", "remount,ro", home / "disk"], check=True)
        message = refused("run", "study.yaml", "--dir", "disk/small")
        assert message == "disk/small: cannot be written: Read-only file system"
        assert cli.main(["show", "disk/small"]) == 0


def test_a_full_disk(refused: Refused) -> None:
    with mounted(Path("disk"), "size=8k"):
        message = refused("run", "study.yaml", "--dir", "disk/small")
    assert message == "disk/small: cannot be written: No space left on device"


@pytest.fixture
def taught(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The teacher of the study is in the cache, so that a run goes as far as its lock file."""
    assert cli.main(["teacher", "train", "study.yaml"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(("owner", "step"), [(Path, "mkdir"), (Path, "write_bytes"), (os, "replace")])
def test_a_disk_that_refuses_writing(
    refused: Refused, taught: None, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str
) -> None:
    """The same without a disk of our own: the system refuses one kind of writing below runs/, early or late."""
    real = getattr(owner, step)

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if "runs" in path.parts:
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr(owner, step, refuse)
    check_words(refused("run", "study.yaml"), ["runs/small: cannot be written: No space left on device"])


def test_a_folder_that_was_there_stays_as_it_was(refused: Refused) -> None:
    Path("mine").mkdir()
    refused("run", "study.yaml", PARQUET, "--dir", "mine")


def test_a_cache_folder_that_cannot_be_written(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("mine")
    monkeypatch.setenv("AKDTUNE_CACHE", "file/cache")
    for name in ("run", "plan"):
        message = refused(name, "study.yaml")
        check_words(message, ["cannot use the cache folder file/cache", "AKDTUNE_CACHE names another one"])


def test_an_export_that_cannot_be_written(refused: Refused) -> None:
    stored_study(Path("there"))
    Path("file").write_text("mine")
    message = refused("best", "there", "--export", "file/best.yaml")
    assert message == "file/best.yaml: cannot be written: Not a directory"
