"""The table at the end of a run: faults by kind, and what became of the trials."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("planned", "ended", "lost", "twice", "differing", "orphans", "gaps", "temporary", "exits", "tracebacks")
HEADS = ("planned", "ended", "lost", "twice", "differ", "orphans", "gaps", "temp", "exit 0", "traces")


def summed(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Faults by kind, and the counts of all cases."""
    kinds: Counter[str] = Counter()
    for case in cases:
        kinds.update(case["injected"])
    of_kind = {
        kind: {
            "injected": kinds[kind],
            "cases": sum(kind in case["injected"] for case in cases),
            "failed": sum(kind in case["injected"] and bool(case["found"]) for case in cases),
            **{name: sum(case.get(name, 0) for case in cases if kind in case["injected"]) for name in COLUMNS},
        }
        for kind in sorted(kinds)
    }
    total = {name: sum(case.get(name, 0) for case in cases) for name in COLUMNS}
    failed = sum(bool(case["found"]) for case in cases)
    all_cases = {"injected": kinds.total(), "cases": len(cases), "failed": failed, **total}
    return {"kinds": of_kind, "all": all_cases, "cases": list(cases)}


def lines(cases: Sequence[dict[str, Any]]) -> list[str]:
    """The table as text; a case with several kinds of faults counts in the row of each."""
    known = summed(cases)
    rows = [("fault", "injected", "cases", "failed", *HEADS)]
    for kind, row in [*known["kinds"].items(), ("all", known["all"])]:
        rows.append((kind, *(str(row[name]) for name in ("injected", "cases", "failed", *COLUMNS))))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def write(file: Path, cases: Sequence[dict[str, Any]]) -> None:
    """The same as JSON, with every case."""
    file.write_text(json.dumps(summed(cases), indent=1) + "\n")
