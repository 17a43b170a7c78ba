"""What the move of the packages must not change, against values recorded before the first file moved.

`python -m tests.test_unchanged` prints the values as they are now, in the form of tests/unchanged/recorded.json.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from akdtune import cli
from akdtune.data.dataset import load_data
from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.prepared import Prepared
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import CacheSettings, TeacherSettings
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.proposals import Outline
from akdtune.study.schema import json_schema
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import find_teacher, load_teacher, teacher_key
from akdtune.teacher.rows import Caching, TeacherRows
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest
from akdtune.training.teachers import train_teachers
from akdtune.training.trial import Trial
from tests.checkout import ROOT
from tests.extras import readable_studies

HERE = Path(__file__).parent / "unchanged"
CPU = torch.device("cpu")
TIMES = ("wall_time_s", "images_per_s", "peak_memory_mib")
LATER = (
    "teacher_cosine", "teacher_cosine_prob", "train_loss", "right_agree", "right_differ", "wrong_agree", "wrong_differ",
)  # fmt: skip
"""Columns that are younger than the recorded numbers."""
DIGITS = {"name": "digits", "validation": 600}
CNN = {"network": {"name": "cnn", "widths": [4, 8]}, "epochs": 3, "batch_size": 32}
SETTINGS = {
    "data": DIGITS,
    "student": {"network": {"name": "cnn", "widths": [2, 4]}},
    "views": {"name": "angular", "variant": "constrained", "num_views": 3, "margin": 0.4, "warmup_epochs": 2},
    "method": [{"name": "kd"}, {"name": "crd"}],
    "training": {"epochs": 3, "batch_size": 32},
}
PLAIN = {**SETTINGS, "views": {"name": "none"}, "method": [{"name": "kd"}]}
"""Nothing draws: its numbers are those of the code before random streams had names."""

COMMANDS = {
    "show": ["show", "reference"],
    "show_summary": ["show", "reference", "--summary"],
    "show_csv": ["show", "reference", "--csv"],
    "show_search": ["show", "reference", "--role", "search", "--top", "3"],
    "best": ["best", "reference"],
}


def processor() -> str:
    """Whose last bits the recorded numbers have: kernels follow the instruction set, and torch's version."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}"


def digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, allow_nan=False)
    anywhere = text.replace(str(Path.cwd()), "HERE").replace(str(Path.home()), "/root")  # the home of the record
    return hashlib.sha256(anywhere.encode()).hexdigest()[:16]


def studies() -> dict[str, Any]:
    """Cell hashes of every arm's centre and of every known cell, and resolved settings, of every packaged study."""
    recorded = {}
    for name in sorted(readable_studies()):
        study = spec.load(name)
        arms = {arm.name: cell_hash(arm.centre().settings, "data", "teacher") for arm in study.arms}
        cells = study.cell_plan.cells if study.cell_plan is not None else ()
        recorded[name] = {
            "resolved": digest(study.resolved()),
            "arms": arms,
            "cells": {cell.name: cell_hash(cell.settings, "data", "teacher") for cell in cells},
        }
    return recorded


def schema() -> str:
    """Hash of the JSON schema."""
    return digest(json_schema())


def plan_ids() -> dict[str, Any]:
    """Trials that are planned at the start, and those of the ablation's cells, with a teacher that is only named."""
    recorded = {}
    for name in ("digits_angular", "digits_ablation", "digits_zoo"):
        study = spec.load(name)
        prepared = Prepared.load(study)
        named = TeacherFile(**{**TeacherFile.untrained(study.teacher).plain(), "weights_hash": "named"})
        identity = Identity(study, prepared, named)
        cells = study.cell_plan.cells if study.cell_plan is not None else ()
        recorded[name] = {
            "initial": [row["trial_id"] for row in initial_rows(Outline(study), identity)],
            "centres": [identity.search_trial(arm.centre()) for arm in study.arms],
            "cells": [identity.cell_id(cell.settings, "ablation") for cell in cells],
        }
    return recorded


def keys() -> dict[str, str]:
    """Content hash of the data, keys of the teacher and of its rows in the cache; nothing is trained."""
    dataset = load_data(DataSettings(**DIGITS), CPU)
    settings = TeacherSettings(**CNN)
    return {
        "data": dataset.content_hash,
        "teacher": teacher_key(settings, dataset, "subset"),
        "teacher_full": teacher_key(settings, dataset, "full"),
    }


def trained() -> dict[str, Any]:
    """A small teacher's weights, its cache's key, and the numbers of two small trials: one draws, one does not."""
    dataset = load_data(DataSettings(**DIGITS), CPU)
    settings = TeacherSettings(**CNN)
    list(train_teachers(settings, dataset, "subset", CPU))
    file = find_teacher(settings, dataset, "subset")
    assert file is not None
    cache = CacheSettings()
    caching = Caching(cache, dataset.images_key, dataset.name)
    split = dataset.split("subset").train
    rows = TeacherRows(load_teacher(file, dataset.inputs, CPU), split, dataset.augmentation, caching)
    requests = [TrialRequest(settings=of, teacher_file=file, teacher_cache=cache) for of in (SETTINGS, PLAIN)]
    drawing, plain = (numbers(Trial(TrialConfig.parse(request))) for request in requests)
    return {"teacher_weights": file.weights_hash, "cache_key": rows.store.key, **drawing, "plain": plain}


def numbers(trial: Trial) -> dict[str, Any]:
    """Every metric of every epoch, and a hash of the last logits."""
    epochs = [
        {"stage": epoch.stage, "epoch": epoch.epoch, **{k: hexadecimal(v) for k, v in epoch.row.items() if counts(k)}}
        for epoch in trial.run()
    ]
    _, predictions = trial.close()
    logits = hashlib.sha256(predictions.logits_NK.float().numpy().tobytes()).hexdigest()[:16]
    return {"epochs": epochs, "logits": logits}


def counts(column: str) -> bool:
    """Whether a column is the same whenever and wherever (the cache may be filled already) the trial runs."""
    return column not in (*TIMES, *LATER) and not column.startswith("teacher_cache")


def hexadecimal(value: Any) -> Any:
    """A number to its last bit."""
    return value.hex() if isinstance(value, float) else value


def texts() -> dict[str, str]:
    """What the reading commands print about a finished study; to be called beside it."""
    printed = {}
    for name, arguments in COMMANDS.items():
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            code = cli.main(arguments)
        printed[name] = f"{out.getvalue()}exit code {code}\n"
    return printed


@contextlib.contextmanager
def beside_the_reference(folder: Path) -> Iterator[None]:
    """Within it, the working directory is one in which the finished study lies under runs/."""
    with tarfile.open(HERE / "reference.tar.gz") as packed:
        packed.extractall(folder, filter="data")
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _chdir(folder):
        yield


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def recorded() -> Mapping[str, Any]:
    read: dict[str, Any] = json.loads((HERE / "recorded.json").read_text())
    return read


def test_packaged_studies(recorded: Mapping[str, Any]) -> None:
    now = studies()
    assert {name: now[name] for name in recorded["studies"]} == recorded["studies"]


def test_the_schema(recorded: Mapping[str, Any]) -> None:
    """In a process of its own: other tests register components, which the schema then holds."""
    code = "from tests.test_unchanged import schema; print(schema())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == recorded["schema"]


def test_plan_ids(recorded: Mapping[str, Any]) -> None:
    assert plan_ids() == recorded["plan_ids"]


def test_keys(recorded: Mapping[str, Any]) -> None:
    assert keys() == recorded["keys"]


def test_numbers_of_a_trial(recorded: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path))
    if processor() not in recorded["trained"]:
        pytest.skip(f"recorded on another kind of processor: {processor()}")
    assert trained() == recorded["trained"][processor()]


def test_texts_of_a_finished_study(tmp_path: Path) -> None:
    with beside_the_reference(tmp_path):
        now = texts()
    for name, text in now.items():
        assert text == (HERE / f"{name}.txt").read_text(), name


if __name__ == "__main__":
    values = {"studies": studies(), "schema": schema(), "plan_ids": plan_ids(), "keys": keys()}
    print(json.dumps(values | {"trained": {processor(): trained()}}, indent=1, sort_keys=True))
