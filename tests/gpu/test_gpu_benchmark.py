"""What measures a GPU: its processes' work on the stand-in, its rows, what is collected of parts that did not end."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from akdtune.registry import kept
from tests.gpu.test_stand_in import forget
from tests.stand_in_gpu import stand_in_gpu

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is here: pytest -m gpu")


@pytest.fixture(scope="module")
def gpu(repository: Path) -> Iterator[ModuleType]:
    """benchmarks/gpu.py."""
    with pytest.MonkeyPatch.context() as patch, kept():  # it brings a data set
        patch.syspath_prepend(str(repository / "benchmarks"))
        yield importlib.import_module("gpu")
        for name in ("gpu", "gpu_table", "reference_step", "step"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def table(gpu: ModuleType) -> ModuleType:
    """benchmarks/gpu_table.py."""
    return importlib.import_module("gpu_table")


def job(gpu: ModuleType, folder: Path, **changes: Any) -> Any:
    return replace(gpu.Job("cnn", "cnn", str(folder), 100, "cuda", 50, epochs=1), **changes)


@no_gpu
@pytest.mark.parametrize("setting", ["kd", "angular_kd_crd"])
def test_every_mode_runs_on_a_gpu(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(gpu, "PUBLISHED_WORKERS", 0)
    found = {}
    for mode in gpu.MODES:
        one = job(gpu, tmp_path, setting=setting, mode=mode, epochs=1 + (mode == "cold cache"))
        if one.mode.startswith("graphs"):
            continue  # without a stream there is nothing to record on
        with stand_in_gpu(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu.device_rows, "SHARE", 0.0 if mode == "host rows" else 0.25)
            answer = gpu._timed(one, 0, threading.Barrier(1))
        forget()
        assert answer["ended"] > answer["began"]
        found[mode] = answer["found"], answer["rows"]
    assert found["published"] == found["live teacher"] == (None, "")
    assert found["cold cache"] == (0.0, "resident")
    assert {found[mode] for mode in ("tf32", "bf16", "plain layout")} == {found["eager"]}
    assert found["eager"][1] == "resident" and found["host rows"][1] == "batch"


@pytest.mark.slow
def test_trials_at_once_and_what_has_no_time(gpu: ModuleType, tmp_path: Path) -> None:
    one = job(gpu, tmp_path, device="cpu", processes=2)
    row = gpu.measured(one, float("inf"), dry=True)
    assert row["trials"] == 2 and row["epochs_per_s"] > 0 and row["note"].startswith("dry run on the CPU")
    assert gpu.measured(one, 0.0, dry=False) | {"epochs_per_s": None} == {
        "pair": "cnn -> cnn", "setting": "kd", "mode": "eager", "trials": 2, "batch": 50, "images": 100,
        "epochs_per_s": None, "note": "not measured: no time left",
    }  # fmt: skip


def test_every_mode_is_in_both_lists(gpu: ModuleType, tmp_path: Path) -> None:
    base = job(gpu, tmp_path)
    for jobs in (gpu.jobs_of(base), gpu.dry_jobs_of(base)):
        assert {one.mode for one in jobs} == set(gpu.MODES)
        assert jobs[0].mode == "cold cache" and len(set(jobs)) == len(jobs)
    goal = [(one.setting, one.mode, one.processes) for one in gpu.jobs_of(base)]
    assert goal.index(("angular_kd_crd", "graphs bf16", 4)) < goal.index(("kd", "published", 1))


def test_parts_that_did_not_end_are_in_the_table(table: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(json.dumps({"gpu": "NVIDIA H200", "torch": "2.14"}))
    (tmp_path / "parts.tsv").write_text("tests\t75\t9\t1\ngpu\t250\t250\t124\nstudy\t60\t31\t0\n")
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure message="one | two&#10;three"/>'
        '</testcase><testcase name="c"><skipped/></testcase></testsuite></testsuites>'
    )
    row = {"pair": "t -> s", "setting": "kd", "mode": "eager", "trials": 1, "batch": 64, "images": 12500}
    numbers = {"epochs_per_s": 0.51234, "ms_per_step": 2.5, "device_mib": 1234.5, "found": 1.0, "rows": "resident"}
    failed = row | {"mode": "graphs", "epochs_per_s": None, "note": "RuntimeError: no | good"}
    (tmp_path / "gpu.json").write_text(json.dumps([row | numbers | {"note": ""}, failed]))
    trial = tmp_path / "study" / "trials" / "x"
    trial.mkdir(parents=True)
    (trial / "outcome.json").write_text(json.dumps({"outcome": "done", "trained_on": {"device": "NVIDIA H200"}}))
    table.main(["end", str(tmp_path), "0"])
    text = (tmp_path / "results.md").read_text()
    for line in (
        "gpu NVIDIA H200, torch 2.14",
        "| tests | 75 | 9 | failed (1) |",
        "| gpu | 250 | 250 | ended at its limit |",
        "| study | 60 | 31 | done |",
        "Tests marked gpu: 1 passed, 1 failed, 1 skipped.",
        "- `b`: one | two",
        "| t -> s | kd | eager | 1 | 0.512 | 2.5 | 1,234 | 100% | resident |  |",
        "| t -> s | kd | graphs | 1 | - | - | - | - | - | RuntimeError: no \\| good |",
        "A study through Ray: trials {'done': 1}, on {'NVIDIA H200': 1}.",
    ):
        assert line in text.splitlines()
    assert table.NO_NUMBERS not in text
    table.main(["end", str(tmp_path), "1"])
    assert (tmp_path / "results.md").read_text().startswith(table.NO_NUMBERS)


def test_nothing_left_is_a_table_too(table: ModuleType, tmp_path: Path) -> None:
    table.main(["begin", str(tmp_path)])
    table.main(["end", str(tmp_path), "1"])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["machine"]["torch"] == torch.__version__ and found["trials"] == found["parts"] == []
