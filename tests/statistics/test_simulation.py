"""What intervals, families and effects claim, simulated: coverage, family-wise error, power, within Monte-Carlo error.

The simulations are those of benchmarks/paired_statistics.py, which prints them with more replicates. A number fails
when it is four standard errors on the wrong side; seeds are fixed.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from akdtune.statistics import paired
from akdtune.statistics.power import t_quantile
from tests.checkout import ROOT

REPLICATES = {
    "pilots": 400, "effects": 600, "bca_coverage": 1000, "families": 1000, "max_t": 600, "further_seeds": 1000,
    "sign_flips": 1000,
}  # fmt: skip


@pytest.fixture(scope="module")
def simulations() -> ModuleType:
    path = ROOT / "benchmarks" / "paired_statistics.py"
    spec = importlib.util.spec_from_file_location("paired_statistics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


NAMES = [
    "t_coverage", "percentile_coverage", "bca_coverage", "sign_flips", "families", "max_t", "power",
    "further_seeds", "pilots", "equivalence", "effects", "crossed", "noise_floors",
]  # fmt: skip


def test_every_simulation_is_run(simulations: ModuleType) -> None:
    assert [simulate.__name__ for simulate in simulations.SIMULATIONS] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_simulated_numbers_are_those_claimed(simulations: ModuleType, name: str) -> None:
    rows = list(getattr(simulations, name)(REPLICATES.get(name, 2000)))
    missed = [f"{row.what}: {row.simulated:.4f} (+-{row.error:.4f}), {row.relation} {row.nominal}" for row in rows
              if not row.holds]  # fmt: skip
    assert rows
    assert not missed, "\n".join(missed)


def test_the_simulations_notice_intervals_that_are_too_narrow(
    simulations: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def normal(tail: float, n: int) -> float:
        return t_quantile(tail, 10_000)

    monkeypatch.setattr(paired, "t_quantile", normal)
    rows = {row.what: row for row in [*simulations.t_coverage(1000), *simulations.families(500)]}
    assert not rows["t interval, n = 5: coverage"].holds
    assert not rows["Bonferroni, n = 5, no effects: simultaneous coverage"].holds


def test_the_simulations_notice_a_family_without_correction(
    simulations: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "holm", lambda ps: [(p, 1) for p in ps])
    rows = {row.what: row for row in simulations.families(500)}
    assert not rows["Holm, n = 8, no effects: family-wise error"].holds
