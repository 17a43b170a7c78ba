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
    rows = json.loads((tmp_path / "rows.json").read_text())
    stored = [mode for mode in trial_speed.modes_of_this_version() if not mode.startswith("live")]
    assert [(row["pair"], row["setting"], row["mode"]) for row in rows] == [
        (PAIR, "angular_kd_crd", mode) for mode in stored
    ]
    for row in rows:
        assert row.keys() == {"pair", "setting", "mode", "cpu_ms_per_step", "ratio"}
        assert row["ratio"] == pytest.approx(rows[0]["cpu_ms_per_step"] / row["cpu_ms_per_step"])
    table = capsys.readouterr().out
    assert "a batch of images" in table and f"CRD of a batch, {PAIR}" in table
    assert ("MISSED" in table) or ("met" in table)


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
    assert trial_speed.judged(1.99, 2.0).endswith("MISSED") and trial_speed.judged(2.0, 2.0).endswith("met")
    assert trial_speed.judged(1.0, 0.0) == ""
    assert np.isfinite([target for targets in trial_speed.TARGETS.values() for target in targets]).all()
