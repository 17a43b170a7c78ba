"""From a study to trials: brackets, quotas, proposals and how many trials there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from akdtune.study import spec
from akdtune.study.proposals import Outline
from tests.ray.studies import TINY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(TINY)
    return path


def test_trials_are_dealt_evenly_and_the_first_arms_get_the_rest(file: Path) -> None:
    assert Outline(spec.load(file)).quotas == {"angular/kd": 3, "angular/crd": 3}
    assert Outline(spec.load(file, ["search.trials=7"])).quotas == {"angular/kd": 4, "angular/crd": 3}
    assert Outline(spec.load(file, ["search.fair=pooled"])).quotas == {"pooled": 6}


def test_a_grid_counts_its_configurations(file: Path) -> None:
    study = spec.load(file, ["search={algorithm: grid}", "views.margin=0.3", "method.kd.weight={grid: [1, 2]}"])
    assert Outline(study).quotas == {"angular/kd": 6, "angular/crd": 3}
    assert Outline(study).search_trials == 9
    assert [name for name, _ in Outline(study).proposals][:4] == ["angular/kd", "angular/crd"] * 2


def test_random_proposals_do_not_depend_on_how_many_there_are(file: Path) -> None:
    few = Outline(spec.load(file, ["search={algorithm: random, trials: 4}"])).proposals
    many = Outline(spec.load(file, ["search={algorithm: random, trials: 12}"])).proposals
    assert [p.raw for _, p in few] == [p.raw for _, p in many[:4]]


def test_quasi_random_proposals_spread_over_every_setting_of_an_arm(file: Path) -> None:
    study = spec.load(file, ["search={algorithm: qmc, trials: 16}", "probe=null"])
    proposals = Outline(study).proposals
    assert [name for name, _ in proposals] == ["angular/kd", "angular/crd"] * 8
    kd = [proposal for name, proposal in proposals if name == "angular/kd"]
    for low, high in ((0.1, 0.35), (0.35, 0.6)):  # every half holds half of the points of the first base
        assert sum(low <= p.params["views.margin"] < high for p in kd) in (3, 4, 5)
    assert len({p.params["method.kd.weight"] for p in kd}) == 8
    assert {p.params["views.num_views"] for p in kd} == {1, 2, 3}
    assert [p.raw for p in kd] == [p.raw for name, p in Outline(study).proposals if name == "angular/kd"]
    few = Outline(spec.load(file, ["search={algorithm: qmc, trials: 4}"])).proposals
    assert [p.raw for _, p in few] == [p.raw for _, p in proposals[:4]], "more trials keep the first ones"
    pooled = Outline(spec.load(file, ["search={algorithm: qmc, trials: 8, fair: pooled}"])).proposals
    assert {proposal.arm for _, proposal in pooled} == {"angular/kd", "angular/crd"}


def test_probes_vary_the_views_alone_and_every_seed_has_every_cell(file: Path) -> None:
    study = spec.load(file, ["probe={trials: 12, seeds: [5, 6]}"])
    proposals = Outline(study).probes
    assert len(proposals) == 6 and Outline(study).probe_trials == 12
    kd = [p for p in proposals if p.arm == "angular/kd"]
    assert len({p.params["method.kd.weight"] for p in kd}) == 1
    assert len({p.params["views.margin"] for p in proposals}) == 6, "arms probe different points"
