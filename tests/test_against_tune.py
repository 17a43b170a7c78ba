"""What `benchmarks/against_tune.py` compares is one search; what it counts is there."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from akdtune import networks
from akdtune.registry import kept, register
from akdtune.signals import InputSpec
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.teacher.checkpoints import weights_hash
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.checkout import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))
with kept():  # the made-up images are no data set of other tests
    against_tables = importlib.import_module("against_tables")
    against_tune = importlib.import_module("against_tune")
    one_search = importlib.import_module("one_search")
    patterned_images = importlib.import_module("patterned_images")
    plain_tune = importlib.import_module("plain_tune")
    process_tree = importlib.import_module("process_tree")
    reference_step = importlib.import_module("reference_step")


@pytest.fixture(autouse=True)
def made_up_images() -> Iterator[None]:
    with kept():
        register("patterned", kind="data")(patterned_images.Patterned)
        yield


def options(*given: str) -> argparse.Namespace:
    return against_tune.parsed(["--quick", "--pair", "resnet8->resnet8", "--trials", "3", *given])


def search_in(folder: Path, setting: str, precision: str = "fp32", *given: str) -> dict[str, Any]:
    search: dict[str, Any] = one_search.search_of(options(*given), setting, precision)
    network = networks.build("resnet8", InputSpec(3, 32, patterned_images.CLASSES), 0)
    torch.save(network.state_dict(), folder / "teacher.pt")
    teacher = TeacherFile(str(folder / "teacher.pt"), "", weights_hash(network), "resnet8", None, None, True)
    search["settings"]["training"]["batch_size"] = 16
    for method in search["settings"]["method"]:
        if method["name"] == "crd":
            method["num_negatives"] = 8
    return search | {"teacher": teacher.plain()}


def config_at(search: dict[str, Any], point: dict[str, float]) -> TrialConfig:
    settings = one_search.settings_at(search["settings"], point)
    return TrialConfig.parse(TrialRequest.parse({"settings": settings, "teacher_file": search["teacher"]}))


# ------------------------------------------------------------------------------------------------ one search


@pytest.mark.parametrize("setting", ["kd", "angular_kd_crd"])
@pytest.mark.parametrize("more", [(), ("--warmup", "1")])
def test_both_sides_train_the_same_configurations(tmp_path: Path, setting: str, more: tuple[str, ...]) -> None:
    search = search_in(tmp_path, setting, "fp32", *more)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(one_search.study_of(search)))
    study = spec.load(file)
    (proposals,) = Outline(study).enqueued.values()
    assert len(proposals) == study.search.trials == len(search["points"])
    assert [dict(proposal.params) for proposal in proposals] == search["points"]
    assert list(study.rungs) == [1] and study.epochs == search["epochs"]
    for proposal, point in zip(proposals, search["points"], strict=True):
        request = {"settings": proposal.settings, "teacher_file": search["teacher"]}
        assert TrialConfig.parse(TrialRequest.parse(request)) == config_at(search, point)


def test_points_differ_lie_in_their_domains_and_are_always_the_same(tmp_path: Path) -> None:
    search, again = (search_in(tmp_path, "angular_kd_crd") for _ in range(2))
    assert search["points"] == again["points"]
    assert search["points"][0].keys() == {"training.lr", "method.kd.weight", "method.crd.weight", "views.margin"}
    for path, domain in search["domains"].items():
        ((low, high),) = domain.values()
        values = [point[path] for point in search["points"]]
        assert len(set(values)) == len(values)
        assert all(low <= value <= high for value in values)


# ------------------------------------------------------------------------------------------------ the plain side


def test_a_plain_trial_begins_where_ours_does_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    search = search_in(tmp_path, "angular_kd_crd", "fp32", "--warmup", "1")
    point = search["points"][0]
    trial = plain_tune.PlainTrial(point, search)
    ours = Trial(config_at(search, point))
    theirs = trial.step.student.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.student.state_dict().items())
    assert len(trial.loader.dataset) == len(ours.train)
    torch.manual_seed(0)
    heads = [parameter.clone() for parameter in trial.step.heads.parameters()]
    trial.warm_up()
    assert any(not torch.equal(*pair) for pair in zip(heads, trial.step.heads.parameters(), strict=True))
    trial.epoch(1)
    trial.save(tmp_path, {"epoch": 1})
    fresh = plain_tune.PlainTrial(point, search)
    assert fresh.load(tmp_path) == {"epoch": 1}
    accuracies = []
    for one in (trial, fresh):
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002 - as published
        accuracies.append(one.epoch(2))
    assert accuracies[0] == accuracies[1]
    for name in ("student", "heads", "crd"):
        of_both = (getattr(one.step, name).state_dict().values() for one in (trial, fresh))
        assert all(torch.equal(*pair) for pair in zip(*of_both, strict=True)), name


def test_heads_warm_up_on_the_penalties_of_a_trial(tmp_path: Path) -> None:
    search = search_in(tmp_path, "angular_kd_crd", "fp32", "--warmup", "1")
    trial = Trial(config_at(search, search["points"][0]))
    step = reference_step.ReferenceStep(trial)
    loaded = reference_step.first_loaded(trial, 1)
    labels_B = trial.train.training_labels_N[loaded.positions_B]
    with torch.no_grad():
        teacher = step.teacher(loaded.inputs)
    heads = trial.views.train().heads
    views = heads(teacher.pooled_BC, True, torch.Generator().manual_seed(3))
    ours = trial.views.penalties(teacher, views, labels_B)
    masks_VBC = heads.dropped_VBC(torch.ones_like(teacher.pooled_BC), torch.Generator().manual_seed(3))
    batch = reference_step.PlainBatch(loaded.inputs, labels_B, loaded.positions_B)
    plain = step.warmup_terms(batch, masks_VBC)
    assert plain.keys() == {f"views.{name}" for name in ours}
    for name, value in ours.items():
        torch.testing.assert_close(plain[f"views.{name}"], value, rtol=1e-4, atol=1e-6)


def test_under_autocast_networks_say_nearly_the_same_in_float32(tmp_path: Path) -> None:
    search = search_in(tmp_path, "kd", "bf16")
    trial = plain_tune.PlainTrial(search["points"][0], search)
    batch = next(trial.batches())
    plain, half = trial.step.student.network(batch.images_BCHW), trial.step.student(batch.images_BCHW)
    assert half.logits_BK.dtype == torch.float32
    off = float((plain.logits_BK - half.logits_BK).detach().norm() / plain.logits_BK.detach().norm())
    assert 1e-5 < off < 5e-2
    assert all(parameter.dtype == torch.float32 for parameter in trial.step.student.parameters())


# ------------------------------------------------------------------------------------------------ what is counted


def used_by(folder: Path, program: str, kill_when: str = "lambda: False") -> dict[str, Any]:
    """In a process of its own, as it adopts orphans for good."""
    counting = f"""
import json, sys
from dataclasses import asdict
from pathlib import Path
import process_tree
process_tree.ENDING_S = 0.5
used = process_tree.used_by([sys.executable, "-c", {program!r}], Path("log"), {{}}, {kill_when})
print(json.dumps(asdict(used)))
"""
    done = subprocess.run(
        [sys.executable, "-c", counting],
        cwd=folder, env={"PYTHONPATH": str(BENCHMARKS)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    counted: dict[str, Any] = json.loads(done.stdout)
    return counted


BURN = """
import os, signal, sys, time
def burn(seconds):
    while time.process_time() < seconds: pass
"""


def test_workers_that_nobody_waits_for_and_that_are_killed_count(tmp_path: Path) -> None:
    program = (
        BURN
        + """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # their times reach no parent
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        burn(0.6)
        os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.1)
if os.fork() == 0:
    if os.fork() == 0:  # an orphan at once
        burn(0.6)
        open("orphan", "w").close()
    os._exit(0)
while not os.path.exists("orphan"): time.sleep(0.05)
while len(os.listdir("/proc")) and any(
    open(f"/proc/{p}/stat").read().rpartition(")")[2].split()[1] == str(os.getpid())
    for p in os.listdir("/proc") if p.isdigit() and os.path.exists(f"/proc/{p}/stat")
): time.sleep(0.05)
"""
    )
    used = used_by(tmp_path, program)
    assert used["code"] == 0
    assert used["processes"] in (4, 5)  # one may end between two looks
    assert 3 * (0.6 - 0.1) < used["cpu_s"] < 10
    assert used["left"] == 0
    assert used["peak_mib"] > 5


def test_what_outlives_its_command_is_killed_and_counted(tmp_path: Path) -> None:
    program = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(600)\ntime.sleep(0.3)"
    used = used_by(tmp_path, program)
    assert (used["left"], used["code"]) == (1, 0)


def test_the_command_itself_is_killed_when_asked(tmp_path: Path) -> None:
    used = used_by(tmp_path, "open('up', 'w').close(); import time; time.sleep(600)", "Path('up').exists")
    assert (used["left"], used["code"]) == (0, -9)


def test_epochs_are_counted_by_trial_with_those_trained_again_and_the_seconds_of_their_steps(tmp_path: Path) -> None:
    root = tmp_path / "cold_0"
    assert not against_tune.trained(root) and against_tune.steps_s(root) == 0
    lines = ("0.1 warmup 1 2.0", "0.1 student 1 0.5", "0.1 student 2 0.25", "0.2 student 1 1.0", "0.1 student 2 0.25")
    root.with_suffix(".trace").write_text("\n".join(lines) + "\n")
    assert against_tune.trained(root) == {("0.1", "1"): 1, ("0.1", "2"): 2, ("0.2", "1"): 1}
    assert sum(against_tune.trained(root, "warmup").values()) == 1
    assert against_tune.steps_s(root) == 4.0


def test_an_epochs_evaluation_is_not_counted_among_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(patterned_images.TRACE, str(tmp_path / "trace"))
    clock = [0.0]
    monkeypatch.setattr(patterned_images.time, "thread_time", lambda: clock[0])

    def takes(seconds: float, of: Any = None) -> Any:
        def run(*given: Any) -> str:
            clock[0] += seconds
            return of(*given) if of else "row"

        return run

    trial = argparse.Namespace(config=argparse.Namespace(training=argparse.Namespace(lr=0.1)))
    evaluated = patterned_images._apart(takes(2.0))
    for epoch in (1, 2):
        assert patterned_images._noted(takes(3.0, evaluated), "student")(trial, epoch) == "row"
    assert (tmp_path / "trace").read_text() == "0.1 student 1 3.000\n0.1 student 2 3.000\n"


def test_ended_and_known_trials(tmp_path: Path) -> None:
    ours, plain = tmp_path / "cold_killed", tmp_path / "plain_killed"
    for root in (ours, plain):
        (root / "against").mkdir(parents=True)
    events = [{"event": name} for name in ("planned", "started", "epoch", "pruned", "started", "done")]
    (ours / "against" / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert (against_tune.ended_trials("cold", ours), against_tune.known_trials("cold", ours)) == (2, 2)
    plain.with_suffix(".log").write_text("Trial a completed after 2\nTrial b completed after 1\nTrial c started\n")
    assert against_tune.known_trials("plain", plain) == 0
    state = {"trial_data": [[json.dumps({"status": status}), "{}"] for status in ("TERMINATED", "RUNNING")]}
    (plain / "against" / "experiment_state-1.json").write_text(json.dumps(state))
    assert (against_tune.ended_trials("plain", plain), against_tune.known_trials("plain", plain)) == (2, 1)


def test_a_round_has_plain_between_cold_and_warm() -> None:
    ours = [("cold", "fp32"), ("cold", "bf16")], [("warm", "bf16"), ("warm", "fp32")]
    assert against_tune.order(options()) == [*ours[0], ("plain", "fp32"), *ours[1]]
    plain = [("plain", "fp32"), ("plain", "bf16")]
    assert against_tune.order(options("--autocast")) == [*ours[0], *plain, *ours[1]]
    assert against_tune.order(options("--sides", "warm", "cold", "--precisions", "bf16")) == [
        ("cold", "bf16"),
        ("warm", "bf16"),
    ]
    assert against_tune.order(options("--sides")) == []


def test_both_drivers_are_killed_unless_one_is_named() -> None:
    assert [options(*given).kill for given in ((), ("--kill",), ("--kill", "plain"))] == [
        [],
        ["plain", "cold"],
        ["plain"],
    ]


def runs_of(
    cpu_s: dict[tuple[str, str], float], epochs: dict[tuple[str, str], int]
) -> dict[tuple[str, str], list[Any]]:
    used = {side: process_tree.Used(cpu_s=seconds) for side, seconds in cpu_s.items()}
    return {side: [against_tables.Run(used[side], epochs[side], 30.0, 0, 0, 10, 1.0, 0.0)] for side in cpu_s}


COLD, PLAIN, WARM = ("cold", "fp32"), ("plain", "fp32"), ("warm", "bf16")


def test_ratios_as_a_whole_and_by_the_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    runs = runs_of({COLD: 50.0, PLAIN: 200.0, WARM: 40.0}, {COLD: 10, PLAIN: 20, WARM: 16})
    rows = against_tables.rows_of("kd", runs)
    assert [row["ratio"] for row in rows] == [4.0, 1.0, 5.0]
    assert [row["ratio_by_epoch"] for row in rows] == pytest.approx([2.0, 1.0, 4.0])
    assert against_tables.missed(rows) == ["kd fp32 cold: 2.00 (at least 3)"]
    assert len(against_tables.missed([row | {"setting": "angular_kd_crd"} for row in rows])) == 2
    against_tables.print_rows("a search", rows)
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[3].split() == ["fp32", "cold", "50.0", "30.0", "10.0", "5.00", "2.00", "4.00", "0.0"]
    assert shown[4].split()[:2] == ["plain", "200.0"] and shown[5].startswith("bf16 warm")


def test_without_the_plain_search_nothing_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    rows = against_tables.rows_of(
        "kd", runs_of({COLD: 50.0, ("plain", "bf16"): 60.0}, {COLD: 10, ("plain", "bf16"): 20})
    )
    assert [row["ratio"] for row in rows] == [row["ratio_by_epoch"] for row in rows] == [None, None]
    assert against_tables.missed(rows) == []
    against_tables.print_rows("a search", rows)
    shown = capsys.readouterr().out.splitlines()
    assert shown[3].split()[-3:] == ["-", "-", "0.0"] and shown[4].startswith("plain, autocast ")


def test_at_cifars_size_only_steps_count_and_each_crop_is_computed_once() -> None:
    size = {"trials": 16, "epochs_each": 4, "epochs": 32}
    rows = [
        {"side": side, "precision": precision, "cpu_s": cpu_s, "steps_s": steps_s, **size}
        for (side, precision), cpu_s, steps_s in ((COLD, 60, 40), (PLAIN, 180, 80), (("warm", "fp32"), 50, 32))
    ]
    steps = {"reference": 500.0, "cold_fp32": 450.0, "warm_fp32": 200.0}
    found = against_tables.scaled(rows, steps, "fp32")
    there = 0.5 * 16 * 240 * 782
    warm_s = 18 + there * 0.2
    assert found["warm"] == pytest.approx((100 + there * 0.5) / warm_s)
    crops = 162 * (1 - (161 / 162) ** 240)
    assert found["cold"] == pytest.approx((100 + there * 0.5) / (warm_s + crops * 782 * 0.25))


def test_the_computed_ratios_are_printed_against_autocast_too(capsys: pytest.CaptureFixture[str]) -> None:
    size = {"trials": 16, "epochs_each": 4, "epochs": 32, "cpu_s": 100.0, "steps_s": 100.0}
    sides = [("cold", "bf16"), PLAIN, WARM]
    rows = [{"side": side, "precision": precision, **size} for side, precision in sides]
    steps = {"reference": 800.0, "cold_fp32": 700.0, "warm_fp32": 350.0, "cold_bf16": 100.0, "warm_bf16": 100.0}
    steps["autocast"] = 400.0
    against_tables.print_scaled(rows, steps)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "  bf16: 8.00 cold, 8.00 warm (4.00 and 4.00 against autocast)"


def test_what_survived_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"setting": "angular_kd_crd", "epochs_at_kill": 16, "ended": 5, "known": 4, "again": 3, "processes_left": 2}
    sides = {"side": "plain", "precision": "fp32"}, {"side": "cold", "precision": "bf16"}
    against_tables.print_killed([row | side | {"cpu_s_after": 1234.5} for side in sides])
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[4].split() == ["angular_kd_crd", "plain", "16", "5", "4", "3", "2", "1234.5"]
    assert shown[5].split()[1:3] == ["bf16", "cold"]


WHOLE = "import process_tree, sys; process_tree.ENDING_S = 2.0; import against_tune; sys.exit(against_tune.main())"
"""What is left over is not waited for so long."""


@pytest.mark.slow
@pytest.mark.ray
def test_the_whole_benchmark_at_its_smallest(tmp_path: Path) -> None:
    """Our search from its beginning to its end, and the plain one killed and gone on with, as that is whole, too."""
    asked = ["--quick", "--pair", "resnet8->resnet8", "--trials", "2", "--settings", "kd", "--precisions", "bf16"]
    asked += ["--sides", "cold", "--kill", "plain", "--step-images", "200", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, *asked],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(len(line) for line in done.stdout.partition("\n\n")[2].splitlines()) <= 80
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["steps"]["kd"]) == {"reference", "cold_bf16", "warm_bf16", "autocast"}
    (row,), (killed,) = found["rows"], found["killed"]
    assert (row["side"], row["precision"], row["again"], row["left"]) == ("cold", "bf16", 0, 0)
    assert 3 <= row["epochs"] <= 4
    assert 5 < row["steps_s"] + 5 < row["cpu_s"] and row["peak_mib"] > 300 and row["files"] > 10
    assert killed["side"] == "plain" and 1 <= killed["epochs_at_kill"] <= 3
    assert killed["known"] <= killed["ended"] + 1 and killed["ended_at_last"] >= 2
    assert 3 <= killed["epochs"] - killed["again"] <= 4
