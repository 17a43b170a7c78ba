"""Distilled students against independent ones: what of their teacher's function they have taken over, and how surely.

Differences, tests and effect sizes are within teachers. Every set-up (a row of a design) is tested on every measure of
`TESTED`, one-sided towards more of the teacher's function, by van Elteren's test (Mann and Whitney's with one teacher),
with Holm's correction over all of them. Mason-Williams et al. (2025, arXiv 2510.12615) name hypothesis tests and an
asymmetry towards negative transfer; which test, which level and which formula are our choice:

- share: what incorrect agreement gains, as a share of what agreement gains; only where neither part falls;
- difference: by how much agreement gains more where the teacher is wrong (c-) than where it is right (c+), in points;
- by headroom: the same with each gain as a percentage of what the control left to gain. Where the teacher is right
  students agree with it anyway, and what is nearly full cannot gain much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from akdtune.reports.transfer.measures import MEASURES, Measure
from akdtune.reports.transfer.students import Block, Cell, Students
from akdtune.statistics.association import LEVEL
from akdtune.statistics.blocks import Groups, MeanDifference, RankTest, mean_difference, rank_test
from akdtune.statistics.paired import holm

ALPHA = 0.05
ASYMMETRY = "asymmetry"
BY_HEADROOM = "asymmetry_by_headroom"
COMPARED: Mapping[str, Measure] = {
    **MEASURES,
    BY_HEADROOM: Measure(
        "by headroom", "percent", 1, 2, "the same, each part as a percentage of what its control left to gain"
    ),
}
"""Measures with what is made of two of them."""
TRANSFER = tuple(name for name in COMPARED if name not in ("accuracy", ASYMMETRY, BY_HEADROOM))
"""Measures that say by themselves how much of its teacher a student has."""
TESTED = tuple(COMPARED)
PARTS = ("agreement_right", "agreement_wrong")


@dataclass(frozen=True)
class Compared:
    """One measure of a cell against its control, within teachers.

    Attributes:
        measure: a name of `COMPARED`.
        difference: of the means, in the measure's unit.
        test: one-sided, of "the cell's students do not have more of their teacher".
        p_holm: corrected over all tests of the family; None outside it, and where nothing could be tested.
    """

    measure: str
    difference: MeanDifference
    test: RankTest
    p_holm: float | None = None

    @property
    def resolved(self) -> bool:
        """Whether the test rejects after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA


@dataclass(frozen=True)
class Finding:
    """A cell against its control.

    Attributes:
        cell: which.
        compared: by measure, as far as both have values.
        gained: what of the control's headroom c+ and c- gained, in percent of it, by `agreement_right` and
            `agreement_wrong`; the headroom counts as known.
        share: the first form of asymmetry; None where a part fell or nothing was gained.
        independent: whether no seed stands in several blocks: students of one seed begin with the same weights, and
            those without a teacher are the same student.
        beside_noise: agreement against the students of the noise control; None without one.
    """

    cell: Cell
    compared: Mapping[str, Compared]
    gained: Mapping[str, MeanDifference]
    share: float | None
    independent: bool
    beside_noise: Compared | None

    @property
    def is_setup(self) -> bool:
        """Whether it is a row of a design, and so in the family of tests."""
        return not self.cell.is_control


@dataclass(frozen=True)
class Comparison:
    """Every cell against its control.

    Attributes:
        students: that were compared.
        findings: in the order of the designs, without the controls that others are compared with.
    """

    students: Students
    findings: list[Finding]

    @property
    def setups(self) -> list[Finding]:
        """Those whose tests are corrected together."""
        return [finding for finding in self.findings if finding.is_setup]

    @property
    def family(self) -> list[Compared]:
        """Every test that Holm's correction runs over."""
        return [held for finding in self.setups for held in finding.compared.values() if held.p_holm is not None]

    @property
    def floor(self) -> float | None:
        """The smallest corrected p that so few students could give for any test; None where none is exact."""
        floors = [held.test.floor for held in self.family if held.test.floor is not None]
        return min(1.0, min(floors) * len(self.family)) if floors else None

    @property
    def failed_sanity(self) -> list[Finding]:
        """Noise controls whose students agree more with the teacher than independent ones, each test by itself."""
        return [finding for finding in self.findings if finding.cell.is_noise and _gains(finding, "agreement")]


def compare(students: Students) -> Comparison:
    """Compares every cell with the control of its own studies, within teachers."""
    compared = [cell for cell in students.cells if cell.label not in students.controls and _has(students, cell)]
    findings = [_finding(students, cell) for cell in compared]
    return Comparison(students, _corrected(findings))


def _gains(finding: Finding, measure: str) -> bool:
    held = finding.compared.get(measure)
    return held is not None and held.test.p is not None and held.test.p < ALPHA


def _has(students: Students, cell: Cell) -> bool:
    """Whether some teacher has both students of the cell and of its control."""
    return any(_both(block, cell.label) for block in students.blocks)


def _both(block: Block, label: str) -> bool:
    return block.control is not None and bool(block.students.get(block.control)) and bool(block.students.get(label))


def _finding(students: Students, cell: Cell) -> Finding:
    blocks = [block for block in students.blocks if _both(block, cell.label)]
    controls = [(block, block.control or "") for block in blocks]
    independent = _apart([(block, cell.label) for block in blocks]) and _apart(controls)
    values = {name: [_groups(block, cell.label, name) for block in blocks] for name in MEASURES}
    scaled = {name: [_scaled(block, cell.label, name) for block in blocks] for name in PARTS}
    headroom = [_less(wrong, right) for right, wrong in zip(*scaled.values(), strict=True)]
    compared = {
        name: found
        for name, groups in (*values.items(), (BY_HEADROOM, headroom))
        if (found := _compared(name, groups, independent)) is not None
    }
    return Finding(
        cell, compared, {name: mean_difference(scaled[name], independent=independent) for name in PARTS},
        _share(blocks, cell.label), independent, _beside_noise(students, cell, blocks),
    )  # fmt: skip


def _compared(name: str, groups: Sequence[Groups], independent: bool) -> Compared | None:
    """None where no teacher has values of both."""
    sign = COMPARED[name].sign
    towards = [Groups(*({seed: sign * value for seed, value in side.items()} for side in block)) for block in groups]
    test = rank_test(towards, level=LEVEL, independent=independent)
    if test.p is None:
        return None
    return Compared(name, mean_difference(groups, level=LEVEL, independent=independent), test)


def _corrected(findings: Sequence[Finding]) -> list[Finding]:
    """With Holm's p of every test of a set-up."""
    family = [held for finding in findings if finding.is_setup for held in finding.compared.values()]
    steps = iter(holm([held.test.p for held in family if held.test.p is not None]))
    return [
        replace(finding, compared={n: replace(held, p_holm=next(steps)[0]) for n, held in finding.compared.items()})
        if finding.is_setup
        else finding
        for finding in findings
    ]


# ------------------------------------------------------------------------------------------------- values


def _groups(block: Block, label: str, measure: str) -> Groups:
    """Values of the cell and of its control."""
    return _against(block, label, block.control, measure)


def _against(block: Block, label: str, other: str | None, measure: str) -> Groups:
    return Groups(block.values(label, measure), {} if other is None else block.values(other, measure))


def _scaled(block: Block, label: str, measure: str) -> Groups:
    """An agreement as a percentage of what the control left to 100 percent; empty where it left nothing."""
    groups = _groups(block, label, measure)
    left = 100 - fmean(groups.reference.values()) if groups.reference else 0.0
    if left <= 0:
        return Groups({}, {})
    return Groups(*({seed: 100 * value / left for seed, value in side.items()} for side in groups))


def _less(first: Groups, second: Groups) -> Groups:
    """The difference of two measures of the same students."""
    return Groups(
        *(
            {seed: a[seed] - b[seed] for seed in a.keys() & b.keys()}
            for a, b in ((first.cell, second.cell), (first.reference, second.reference))
        )
    )


def _share(blocks: Sequence[Block], label: str) -> float | None:
    """What incorrect agreement gained, as a share of what agreement gained."""
    right, wrong = (
        mean_difference([_groups(block, label, name) for block in blocks]).value
        for name in ("right_agree", "wrong_agree")
    )
    if right is None or wrong is None or min(right, wrong) < 0 or right + wrong <= 0:
        return None
    return wrong / (right + wrong)


def _apart(held: Sequence[tuple[Block, str]]) -> bool:
    """Whether no seed of a cell, by its label in each block, stands in two of the blocks: such students begin alike."""
    seeds = [set(block.students.get(label, {})) for block, label in held]
    return sum(map(len, seeds)) == len(set().union(*seeds))


def _beside_noise(students: Students, cell: Cell, blocks: Sequence[Block]) -> Compared | None:
    """Agreement against the noise control's, which had the same losses; of several such controls the first."""
    noise = next((other.label for other in students.cells if other.is_noise), None)
    if noise is None or cell.is_control:
        return None
    groups = [_against(block, cell.label, noise, "agreement") for block in blocks]
    independent = all(_apart([(block, label) for block in blocks]) for label in (cell.label, noise))
    return _compared("agreement", groups, independent)
