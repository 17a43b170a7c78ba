"""What `gpu_all.sh` found, as one JSON file and as a Markdown table for docs/speed.md.

python benchmarks/gpu_table.py begin FOLDER        the machine, written down and printed
python benchmarks/gpu_table.py end FOLDER DRY      results.json and results.md; DRY is 1 where no GPU ran
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from machine import facts

TIME_IS_UP = (124, 137)
NO_NUMBERS = "Dry run on the CPU in tiny sizes: that it ends is all it shows, no number means anything."


def machine() -> dict[str, Any]:
    """Versions, GPU and driver, as far as they are there."""
    there = torch.cuda.is_available()
    found = {
        "gpu": torch.cuda.get_device_name() if there else None,
        "gpu_mib": torch.cuda.get_device_properties(0).total_memory // 2**20 if there else None,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if there else None,
        **facts(),
        "torch": torch.__version__,
    }
    return {name: value for name, value in found.items() if value is not None}


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.split("\n")[0].strip() or None


def collected(folder: Path, dry: bool) -> dict[str, Any]:
    """Everything that the parts left, whole or not."""
    return {
        "machine": _json(folder / "machine.json", {}),
        "dry_run": dry,
        "parts": _parts(folder / "parts.tsv"),
        "tests": _tests(folder / "tests.xml"),
        "trials": _json(folder / "gpu.json", []),
        "stacked": _json(folder / "stacked.json", []),
        "stacked_graphs": _json(folder / "stacked_graphs.json", []),
        "study": _study(folder / "study"),
    }


def _json(file: Path, otherwise: Any) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # its part did not get so far
        return otherwise


def _parts(file: Path) -> list[dict[str, Any]]:
    parts = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        name, limit, seconds, code = line.split("\t")
        ended = "done" if code == "0" else "ended at its limit" if int(code) in TIME_IS_UP else f"failed ({code})"
        parts.append({"part": name, "limit_s": int(limit), "seconds": int(seconds), "ended": ended})
    return parts


def _tests(file: Path) -> dict[str, Any] | None:
    """How many passed, failed and were skipped, and the first line of what failed."""
    try:
        cases = list(ElementTree.parse(file).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return None
    bad = [(case, part) for case in cases for part in (*case.iter("failure"), *case.iter("error"))]
    skipped = sum(case.find("skipped") is not None for case in cases)
    failed = {case.get("name", ""): part.get("message", "").split("\n")[0][:200] for case, part in bad}
    return {"passed": len(cases) - skipped - len(failed), "skipped": skipped, "failed": failed}


def _study(folder: Path) -> dict[str, Any]:
    """How the trials of a study ended, and on which devices."""
    outcomes = [_json(file, {}) for file in sorted(folder.glob("trials/*/outcome.json"))]
    devices = Counter(str(outcome.get("trained_on", {}).get("device")) for outcome in outcomes)
    return {"outcomes": dict(Counter(str(outcome.get("outcome")) for outcome in outcomes)), "devices": dict(devices)}


def markdown(found: dict[str, Any]) -> str:
    """The tables of a page."""
    lines = [NO_NUMBERS, ""] if found["dry_run"] else []
    lines += [", ".join(f"{name} {value}" for name, value in found["machine"].items()), ""]
    lines += _table(["part", "limit, s", "took, s", "ended"], [list(part.values()) for part in found["parts"]])
    tests = found["tests"]
    if tests is not None:
        lines += [
            "",
            f"Tests marked gpu: {tests['passed']} passed, {len(tests['failed'])} failed, {tests['skipped']} skipped.",
        ]
        lines += [f"- `{name}`: {why}" for name, why in tests["failed"].items()]
    lines += ["", "Student epochs of 50,000 images a second, all trials together:", ""]
    names = ["pair", "setting", "mode", "trials", "epochs/s", "ms a step", "MiB", "found", "rows", "note"]
    lines += _table(names, [_trial_row(row) for row in found["trials"]])
    for name, title in (("stacked", "Seeds of one cell as one program"), ("stacked_graphs", "The same as CUDA graphs")):
        if found[name]:
            columns = list(found[name][0])
            rows = [[_short(row.get(column)) for column in columns] for row in found[name]]
            lines += ["", f"{title} (`benchmarks/stacked_seeds.py`):", "", *_table(columns, rows)]
    lines += ["", f"A study through Ray: trials {found['study']['outcomes']}, on {found['study']['devices']}."]
    return "\n".join(lines) + "\n"


def _trial_row(row: dict[str, Any]) -> list[Any]:
    names = [row[name] for name in ("pair", "setting", "mode", "trials")]
    if row["epochs_per_s"] is None:
        return [*names, "-", "-", "-", "-", "-", row["note"]]
    found = "-" if row["found"] is None else f"{row['found']:.0%}"
    numbers = [f"{row['epochs_per_s']:.3g}", f"{row['ms_per_step']:.3g}", f"{row['device_mib']:,.0f}"]
    return [*names, *numbers, found, row["rows"] or "-", row["note"]]


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(names: list[str], rows: list[list[Any]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [names, *rows]]
    head, *body = ("| " + " | ".join(row) + " |" for row in cells)
    return [head, "|" + "---|" * len(names), *body]


def main(argv: list[str]) -> None:
    """See above."""
    folder = Path(argv[1])
    if argv[0] == "begin":
        there = machine()
        (folder / "machine.json").write_text(json.dumps(there, indent=1) + "\n", encoding="utf-8")
        print(", ".join(f"{name} {value}" for name, value in there.items()))
        return
    found = collected(folder, argv[2] == "1")
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))
    print(f"{os.path.relpath(folder)}/results.json, results.md: please send both")


if __name__ == "__main__":
    main(sys.argv[1:])
