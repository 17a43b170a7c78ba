"""What the verdict on diversity and accuracy claims, simulated: false associations, Simpson, power, coverage.

The simulations are those of benchmarks/association_statistics.py, which prints them with more studies. A number fails
when it is four standard errors on the wrong side; seeds are fixed.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.checkout import ROOT


@pytest.fixture
def simulations(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("association_statistics")


NAMES = {
    "false_associations": 200, "intervals_and_signs": 240, "power": 200, "coverage": 160, "further_fits": 160,
    "paths": 160,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_simulated_numbers_are_those_claimed(simulations: ModuleType, name: str) -> None:
    assert [simulate.__name__ for simulate in simulations.SIMULATIONS] == list(NAMES)
    rows = list(getattr(simulations, name)(NAMES[name]))
    missed = [f"{row.what}: {row.simulated:.3f} (+-{row.error:.3f}), {row.relation} {row.nominal}" for row in rows
              if not row.holds]  # fmt: skip
    assert rows
    assert not missed, "\n".join(missed)


def test_the_simulation_notices_a_verdict_without_correction(
    simulations: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulations, "holm", lambda ps: [(p, 1) for p in ps])
    assert not next(simulations.false_associations(300)).holds


def test_the_layout_of_digits_angular_finds_a_half(simulations: ModuleType) -> None:
    """44 cells of four arms: the file's arithmetic, and the sentence that the report would say."""
    from akdtune.study import spec

    study = spec.load("digits_angular")
    assert study.probe is not None
    cells = study.probe.trials // len(study.probe.seeds)
    assert cells % len(study.arms) == 0
    assert simulations.detectable(cells) <= 0.5 < simulations.detectable(cells - len(study.arms))
