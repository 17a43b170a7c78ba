"""From a study to trials: quotas, probes, ids, the lock file, and the dry run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from akdtune import dry_run, lockfile, spec, teacher
from akdtune.errors import StudyError
from akdtune.identity import Identity, initial_rows
from akdtune.plan_cost import surviving_share
from akdtune.prepared import Prepared
from akdtune.proposals import (
    grid_proposals,
    probe_count,
    probe_proposals,
    qmc_proposals,
    quotas,
    random_proposals,
    search_count,
)
from akdtune.reports import duration
from tests.ray.studies import TINY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def identity(file: Path) -> Identity:
    study = spec.load(file)
    prepared = Prepared.load(study)
    stand_in = teacher.TeacherFile("t.pt", "key", "weights", study.teacher.network, 80.0, 81.0, False)
    return Identity(study, prepared, stand_in)


def test_trials_are_dealt_evenly_and_the_first_arms_get_the_rest(file: Path) -> None:
    assert quotas(spec.load(file)) == {"angular/kd": 3, "angular/crd": 3}
    assert quotas(spec.load(file, ["search.trials=7"])) == {"angular/kd": 4, "angular/crd": 3}
    assert quotas(spec.load(file, ["search.fair=pooled"])) == {"pooled": 6}


def test_a_grid_counts_its_configurations(file: Path) -> None:
    study = spec.load(file, ["search={algorithm: grid}", "views.margin=0.3", "method.kd.weight={grid: [1, 2]}"])
    assert quotas(study) == {"angular/kd": 6, "angular/crd": 3}
    assert search_count(study) == 9
    assert [name for name, _ in grid_proposals(study)][:4] == ["angular/kd", "angular/crd"] * 2


def test_random_proposals_do_not_depend_on_how_many_there_are(file: Path) -> None:
    few = random_proposals(spec.load(file, ["search={algorithm: random, trials: 4}"]))
    many = random_proposals(spec.load(file, ["search={algorithm: random, trials: 12}"]))
    assert [p.raw for _, p in few] == [p.raw for _, p in many[:4]]


def test_quasi_random_proposals_spread_over_every_setting_of_an_arm(file: Path) -> None:
    study = spec.load(file, ["search={algorithm: qmc, trials: 16}", "probe=null"])
    proposals = qmc_proposals(study)
    assert [name for name, _ in proposals] == ["angular/kd", "angular/crd"] * 8
    kd = [proposal for name, proposal in proposals if name == "angular/kd"]
    for low, high in ((0.1, 0.35), (0.35, 0.6)):  # every half holds half of the points of the first base
        assert sum(low <= p.params["views.margin"] < high for p in kd) in (3, 4, 5)
    assert len({p.params["method.kd.weight"] for p in kd}) == 8
    assert {p.params["views.num_views"] for p in kd} == {1, 2, 3}
    assert [p.raw for p in kd] == [p.raw for name, p in qmc_proposals(study) if name == "angular/kd"]
    few = qmc_proposals(spec.load(file, ["search={algorithm: qmc, trials: 4}"]))
    assert [p.raw for _, p in few] == [p.raw for _, p in proposals[:4]], "more trials keep the first ones"
    pooled = qmc_proposals(spec.load(file, ["search={algorithm: qmc, trials: 8, fair: pooled}"]))
    assert {proposal.arm for _, proposal in pooled} == {"angular/kd", "angular/crd"}


def test_quasi_random_search_of_nothing_is_one_configuration(identity: Identity, file: Path) -> None:
    fixed = ["search={algorithm: qmc, trials: 4}", "views.margin=0.3", "views.num_views=2", "method=kd", "probe=null"]
    study = spec.load(file, fixed)
    assert len(initial_rows(study, dataclasses.replace(identity, study=study))) == 1


def test_probes_vary_the_views_alone_and_every_seed_has_every_cell(file: Path) -> None:
    study = spec.load(file, ["probe={trials: 12, seeds: [5, 6]}"])
    proposals = probe_proposals(study)
    assert len(proposals) == 6 and probe_count(study) == 12
    kd = [p for p in proposals if p.arm == "angular/kd"]
    assert len({p.params["method.kd.weight"] for p in kd}) == 1
    assert len({p.params["views.margin"] for p in proposals}) == 6, "arms probe different points"


def test_probe_rows_are_paired_by_seed(identity: Identity, file: Path) -> None:
    study = spec.load(file, ["probe={trials: 8, seeds: [5, 6]}"])
    rows = initial_rows(study, dataclasses.replace(identity, study=study))
    assert [row["role"] for row in rows] == ["probe"] * 8
    assert sorted(row["cell_id"] for row in rows if row["seed"] == 5) == sorted(
        row["cell_id"] for row in rows if row["seed"] == 6
    )


def test_duplicate_configurations_are_planned_once(identity: Identity, file: Path) -> None:
    overrides = ["search={algorithm: random, trials: 12}", "views.margin=0.3", "method.kd.weight=1", "probe=null"]
    study = spec.load(file, overrides)
    rows = initial_rows(study, dataclasses.replace(identity, study=study))
    assert len({row["trial_id"] for row in rows}) == len(rows) <= 6


def test_an_id_depends_on_what_determines_the_result_and_on_nothing_else(identity: Identity, file: Path) -> None:
    proposal = identity.study.arms[0].random(0)
    base = identity.search_trial(proposal)
    elsewhere = spec.load(file, ["resources.cpu=2", "search.trials=99", "tracking.finish_timeout_s=9"])
    assert dataclasses.replace(identity, study=elsewhere).search_trial(elsewhere.arms[0].random(0)) == base
    other = dataclasses.replace(identity.teacher, weights_hash="others")
    assert dataclasses.replace(identity, teacher=other).search_trial(proposal) != base
    longer = spec.load(file, ["training.epochs=7"])
    assert dataclasses.replace(identity, study=longer).search_trial(longer.arms[0].random(0)) != base


def test_the_lock_file_refuses_another_study_and_shows_the_difference(identity: Identity, file: Path) -> None:
    lock = lockfile.lock_content(identity.study, identity)
    weights = {"training.ce_weight[kd]": 0.1, "training.ce_weight[crd]": 1.0}
    assert lock["resolved"] == {"method.crd.negatives": 270, **weights}
    lockfile.refuse_changes(spec.load(file, ["resources.cpu=2"]), lock, file.parent)
    with pytest.raises(StudyError, match=r"data\.label_noise\.fraction: \(absent\) -> 0\.1"):
        lockfile.refuse_changes(spec.load(file, ["data.label_noise={fraction: 0.1}"]), lock, file.parent)


def test_the_share_of_epochs_that_asha_runs(file: Path) -> None:
    study = spec.load(file, ["training.epochs=8", "scheduler={name: asha, grace_period: 2, reduction_factor: 2}"])
    assert study.rungs == [2, 4]
    assert surviving_share(study) == pytest.approx((2 + 2 / 2 + 4 / 4) / 8)
    assert surviving_share(spec.load(file, ["scheduler=null"])) == 1.0


def test_the_dry_run_says_what_a_study_would_do_and_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = dry_run.plan_report(spec.load(file, ["teacher.seed=4321"]))  # one that no other test trains
    text = "\n".join(lines)
    for part in (
        "2 arms: angular/kd, angular/crd", "6 search trials", "2 probes", "ASHA decides after epoch 2, 4",
        "views.margin  uniform [0.1, 0.6]", "300 training, 600 validation, 897 test images", "not trained yet",
        "method.crd.negatives = 270", "at once: at most",
    ):  # fmt: skip
        assert part in text, part
    assert [p.name for p in tmp_path.iterdir()] == ["study.yaml"]


def test_missing_data_is_named_and_nothing_is_timed(file: Path, tmp_path: Path) -> None:
    study = spec.load(file, ["data={name: cifar100, root: " + str(tmp_path / "none") + ", validation: 5000}"])
    text = "\n".join(dry_run.plan_report(study))
    assert "missing data" in text and "no time estimate" in text
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (89.6, "90 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
