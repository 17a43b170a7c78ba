"""The published step that `benchmarks/trial_speed.py` times against computes what a trial computes, and can tell."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from akdtune import networks
from akdtune.methods.crd import CRD
from akdtune.registry import kept, register
from akdtune.training.trial import Trial
from akdtune.views._angular_settings import AngularSettings
from akdtune.views.angular import Angular
from tests.checkout import ROOT

sys.path.append(str(ROOT / "benchmarks"))
reference_step = importlib.import_module("reference_step")
trial_speed = importlib.import_module("trial_speed")

PAIR = "resnet14->resnet8"
IMAGES, BATCH = 300, 12
ANGULAR = {"num_views": 2, "train_heads": "joint", "margin": 0.9}  # wide enough that some gates are open


@pytest.fixture(autouse=True)
def few_images() -> Iterator[None]:
    with kept():
        register("noise", kind="data")(trial_speed.Noise.of(IMAGES))
        yield


def bench_in(folder: Path) -> Any:
    return trial_speed.Bench(PAIR, folder, IMAGES, BATCH)


def trial_of(folder: Path, setting: str, **angular: Any) -> Trial:
    config = bench_in(folder).config(setting, cached=False)
    if angular:
        config = replace(config, views=("angular", AngularSettings(**{**ANGULAR, **angular})))
    return Trial(config, limits=trial_speed.LIMITS)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("kd", {}),
    ("angular_kd", {}),
    ("angular_kd", {"variant": "paper"}),
    ("angular_kd", {"variant": "released"}),
    ("angular_kd", {"variant": "constrained", "gt_reduction": "mean"}),
    ("angular_kd_crd", {"variant": "paper"}),
    ("angular_kd_crd", {"variant": "released"}),
]


@pytest.mark.parametrize(("setting", "angular"), CASES, ids=lambda one: one if isinstance(one, str) else str(one))
def test_two_steps_are_those_of_a_trial(tmp_path: Path, setting: str, angular: dict[str, Any]) -> None:
    trial = trial_of(tmp_path, setting, **angular)
    layouts = networks.layout(trial.student), torch.contiguous_format
    references = [reference_step.ReferenceStep(trial, layout) for layout in layouts]
    alike, published = reference_step.compare(trial, references)
    assert max(alike.terms, alike.gradient, alike.update, published.terms) < 1e-4
    assert max(published.gradient, published.update) < 1e-2
    for again in reference_step.compare(trial, references, 2):  # begins with what the first left: heads, banks, ...
        assert again.terms < 1e-4
        assert max(again.gradient, again.update) < 1e-2
    reference = references[1]
    if isinstance(trial.views, Angular):
        together = trial.views.heads
        for index, head in enumerate(reference.heads):
            torch.testing.assert_close(together.weight_VCC[index].T, head.mix.weight, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(together.running_var_VC[index], head.norm.running_var, rtol=1e-4, atol=1e-6)
    if reference.crd is not None:
        crd = trial.objective.methods["crd"]
        assert isinstance(crd, CRD)
        moved = crd.student_bank_NE != trial_of(tmp_path, setting, **angular).objective.methods["crd"].student_bank_NE
        assert BATCH <= moved.any(dim=1).sum() <= 2 * BATCH
        torch.testing.assert_close(crd.student_bank_NE, reference.crd.student_bank_NE, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(crd.teacher_bank_NE, reference.crd.teacher_bank_NE, rtol=1e-4, atol=1e-6)


def test_the_compared_step_has_every_kind_of_term(tmp_path: Path) -> None:
    terms = reference_step.first_step(trial_of(tmp_path, "angular_kd_crd", variant="paper"), 1).loss.terms
    levels = [
        f"views.{level}_{kind}" for level in ("feature", "logit") for kind in ("constraint", "diversity", "intra")
    ]
    assert terms.keys() == {"ce", "kd", "crd", "views.ground_truth", *levels}
    assert all(float(value) > 0 for value in terms.values())


@pytest.mark.parametrize("wrong", ["temperature", "bank", "weight", "head"])
def test_a_wrong_step_is_told_apart(tmp_path: Path, wrong: str) -> None:
    trial = trial_of(tmp_path, "angular_kd_crd", variant="released")
    reference = reference_step.ReferenceStep(trial)
    if wrong == "temperature":
        reference.kd = reference.kd.model_copy(update={"temperature": 4.1})
    elif wrong == "bank":
        reference.crd.teacher_bank_NE.neg_()
    elif wrong == "weight":
        reference.weights["kd"] *= 1.01
    else:
        reference.heads[1].norm.weight.data.mul_(1.1)
    (found,) = reference_step.compare(trial, [reference])
    assert max(found.terms, found.gradient) > 1e-3


def test_without_given_masks_heads_drop_at_random_and_targets_do_not(tmp_path: Path) -> None:
    trial = trial_of(tmp_path, "angular_kd", variant="paper")
    reference = reference_step.ReferenceStep(trial)
    batch = reference_step.first_step(trial, 1).batch
    targets = [reference.view_targets(torch.ones(BATCH, 64))[0][0] for _ in range(2)]
    assert torch.equal(*targets)
    one, two = (reference.terms(batch) for _ in range(2))
    assert one["views.ground_truth"] != two["views.ground_truth"]


def test_the_published_loader_gives_our_images_and_other_classes(tmp_path: Path) -> None:
    trial = trial_of(tmp_path, "angular_kd_crd")
    images = trial_speed.published_images(trial, ("kd", "crd"))
    loaded = reference_step.first_loaded(trial, 1)
    pad = trial.dataset.augmentation.pad
    assert reference_step.loading_difference(trial.train, images, loaded, pad) < 1e-6
    assert reference_step.loading_difference(trial.train, images, loaded, pad - 1) > 0.1
    batch = next(reference_step.batches(images, BATCH))
    labels_N = trial.train.training_labels_N
    assert batch.images_BCHW.shape == (BATCH, 3, 32, 32)
    assert torch.equal(labels_N[batch.positions_B], batch.labels_B)
    assert torch.equal(batch.index_BS[:, 0], batch.positions_B)
    for label, negatives in zip(batch.labels_B, batch.index_BS[:, 1:], strict=True):
        assert len(set(negatives.tolist())) == len(negatives) == IMAGES - 3
        assert not (labels_N[negatives] == label).any()


def test_the_benchmark_writes_a_row_for_each_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--quick", "--settings", "angular_kd_crd", "--json", str(tmp_path / "rows.json")]
    asked += ["--pairs", PAIR, "--images", str(IMAGES), "--batch", str(BATCH)]
    monkeypatch.setattr(sys, "argv", ["trial_speed", *asked])
    trial_speed.main()
    found = json.loads((tmp_path / "rows.json").read_text())
    rows = found["rows"]
    assert {"processor", "flags", "torch"} < found["machine"].keys() and len(found["parts"]) == 2
    stored = [mode for mode in trial_speed.modes_of_this_version() if not mode.startswith("live")]
    assert [(row["pair"], row["setting"], row["mode"]) for row in rows] == [
        (PAIR, "angular_kd_crd", mode) for mode in stored
    ]
    for row in rows:
        assert row.keys() == {"pair", "setting", "mode", "cpu_ms_per_step", "ratio"}
        assert row["ratio"] == pytest.approx(rows[0]["cpu_ms_per_step"] / row["cpu_ms_per_step"])
    said = capsys.readouterr().out
    assert f"{found['machine']['processor']}, " in said.splitlines()[0]
    assert "a batch of images" in said and f"CRD of a batch, {PAIR}" in said


def test_a_warm_trial_that_computes_and_a_cold_one_that_finds_end_the_benchmark(tmp_path: Path) -> None:
    config = bench_in(tmp_path).config("kd")
    cold, warm = (Trial(config, limits=trial_speed.LIMITS) for _ in range(2))
    trial_speed.epoch_steps(cold, 1, 1)
    trial_speed.refuse_other_temperature(cold, "cold_fp32")
    trial_speed.epoch_steps(warm, 1, 1)
    trial_speed.refuse_other_temperature(warm, "warm_fp32")
    trial_speed.epoch_steps(warm, 2, 1)
    with pytest.raises(SystemExit, match="warm_fp32: 0% of the rows were found"):
        trial_speed.refuse_other_temperature(warm, "warm_fp32")
    trial_speed.epoch_steps(cold, 2, 1)
    with pytest.raises(SystemExit, match="cold_fp32: 100% of the rows were found"):
        trial_speed.refuse_other_temperature(cold, "cold_fp32")


def test_targets_are_judged_by_pair_and_mode() -> None:
    first, other = trial_speed.PAIRS[:2]
    of = {"setting": "kd", "mode": "warm_fp32"}
    assert trial_speed.target_of({**of, "pair": first}) == 2.0
    assert trial_speed.target_of({**of, "pair": other}) == 1.8
    assert trial_speed.target_of({**of, "pair": first, "mode": "cold_fp32"}) == 0
    ratios = {1.99: True, 2.0: False}
    assert {ratio: trial_speed.missed({**of, "pair": first, "ratio": ratio}) for ratio in ratios} == ratios
    assert not trial_speed.missed({**of, "pair": first, "mode": "cold_fp32", "ratio": 0.5})
    assert np.isfinite([target for targets in trial_speed.TARGETS.values() for target in targets]).all()


def test_one_table_has_both_precisions_and_the_cold_beside_the_warm(capsys: pytest.CaptureFixture[str]) -> None:
    pair, modes = (
        trial_speed.PAIRS[0],
        {"reference": 2000.0, "cold_fp32": 1600.0, "warm_fp32": 1250.0, "warm_bf16": 250.0},
    )
    live = {"reference": 4000.0, "live_fp32": 3200.0, "live_bf16": 2000.0}
    rows = [
        {"pair": pair, "setting": setting, "mode": mode, "cpu_ms_per_step": ms, "ratio": of["reference"] / ms}
        for setting, of in (("kd", modes), ("reviewkd", live))
        for mode, ms in of.items()
    ]
    part = {"name": "crd", "text": f"CRD of a batch, {pair}", "reference_ms": 1234.5, "ours_ms": 100.0, "ratio": 12.3}
    trial_speed.print_tables(rows, [part | {"difference": 5e-5}], 64)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    start = lines.index(pair)
    assert lines[start + 1].split() == ["published", "fp32", "cold", "fp32", "warm", "bf16", "cold", "bf16", "warm"]
    assert lines[start + 2].split() == ["kd", "2000", "1600", "1.25x", "1250", "1.60x*", "-", "250", "8.00x"]
    assert lines[start + 3].split() == ["reviewkd", "4000", "3200", "1.25x", "live", "2000", "2.00x", "live"]
    assert lines[start + 4] == f"missed: {pair} kd warm_fp32: 1.60 (at least 2)"
