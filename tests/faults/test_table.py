"""The table at the end counts every case once, and a case with several kinds of faults in the row of each."""

from __future__ import annotations

from tests.faults import table

CASES = [
    {"injected": {"kill": 2, "signal": 1}, "planned": 4, "ended": 3, "lost": 1, "found": ["lost: a: has no end"]},
    {"injected": {"kill": 1}, "planned": 4, "ended": 4, "found": []},
]


def test_counts() -> None:
    known = table.summed(CASES)
    kill = known["kinds"]["kill"]
    assert (kill["injected"], kill["cases"], kill["failed"], kill["planned"], kill["lost"]) == (3, 2, 1, 8, 1)
    assert (known["all"]["injected"], known["all"]["planned"], known["all"]["ended"]) == (4, 8, 7)


def test_lines() -> None:
    lines = table.lines(CASES)
    assert [line.split()[:6] for line in lines[1:]] == [
        ["kill", "3", "2", "1", "8", "7"],
        ["signal", "1", "1", "1", "4", "3"],
        ["all", "4", "2", "1", "8", "7"],
    ]
    assert len({len(line) for line in lines}) == 1
