"""What a study directory says about its trials, by JSON and Arrow alone: nothing of akdtune is imported here.

Whatever was done to a study, at its end every planned trial has ended once, with epochs 1..n and the numbers of a study
that nobody disturbed; nothing of it runs any more, and no half-written file lies about.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ENDS = ("done", "pruned", "diverged", "failed")
OF_THE_RUN = {
    "wall_time_s", "warmup_time_s", "images_per_s", "peak_memory_mib", "attempt", "teacher_cache_hit_rate",
    "teacher_cache_fill_rate",
}  # fmt: skip
"""Columns that are times, memory, attempts, or what somebody else left in the cache: no numbers of a trial."""

Rows = list[dict[str, Any]]


@dataclass
class Verdict:
    """What was found; every list empty where a study is as it should be.

    Attributes:
        planned: trials of the plan.
        ended: those with an end.
        lost: planned trials (or trials of the undisturbed study) without an end, or whose files at the end are not
            there.
        twice: trials with more than one end, or trained again after their end.
        gaps: epochs that are missing, repeated, out of order, or other ones in ledger and rows.
        differing: what is not bit-identical to the undisturbed study.
        temporary: files of writers that were killed.
        orphans: processes that still run.
        exits: exit codes that say 0 while a planned trial has no end.
    """

    planned: int = 0
    ended: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)

    @property
    def found(self) -> list[str]:
        """Everything that is wrong, a sentence each."""
        kinds = ("lost", "twice", "gaps", "differing", "temporary", "orphans", "exits")
        return [f"{kind}: {what}" for kind in kinds for what in getattr(self, kind)]


def judge(
    root: Path,
    undisturbed: Path | None = None,
    *,
    attempts: Mapping[str, int] | None = None,
    folders: Iterable[Path] = (),
) -> Verdict:
    """Reads a study that is over.

    Args:
        root: its directory.
        undisturbed: the directory of a study of the same file that nobody disturbed; None compares nothing.
        attempts: how often each trial had been begun when it was known to have ended; more says it ran again.
        folders: further folders in which no half-written file may lie (a cache).
    """
    verdict = Verdict()
    plan, problems = _try(lambda: planned(root))
    verdict.lost += problems
    events = list(ledger(root))
    expected = list(dict.fromkeys([*(plan or {}), *(planned(undisturbed) if undisturbed else {})]))
    verdict.planned = len(expected)
    for trial_id in expected:
        if trial_id not in (plan or {}):
            verdict.lost.append(f"{trial_id}: not in the plan")
            continue
        _judge_trial(verdict, root, trial_id, [event for event in events if event.get("trial_id") == trial_id])
        if undisturbed is not None:
            verdict.differing += differences(root, undisturbed, trial_id)
    retried = {event.get("trial_id") for event in events if event.get("event") == "retried"}
    for trial_id, count in (attempts or {}).items():
        if trial_id not in retried and (now := begun(root, trial_id)) > count:
            verdict.twice.append(f"{trial_id}: had ended after {count} attempts, and has {now} now")
    if plan is not None:
        _judge_settings(verdict, root, plan)
    verdict.temporary = [str(path) for folder in (root, *folders) for path in left_over(folder)]
    return verdict


def _judge_trial(verdict: Verdict, root: Path, trial_id: str, events: Sequence[Mapping[str, Any]]) -> None:
    """One trial: its ends, its epochs in ledger and rows, its files."""
    ends: list[str] = []
    seen: list[Mapping[str, Any]] = []
    for event in events:
        kind = event.get("event")
        if kind == "retried":
            ends = []
        elif kind in ENDS:
            ends.append(str(kind))
        elif kind == "epoch":
            if event["epoch"] == 1 and seen and not ends and any(e.get("event") == "retried" for e in events):
                seen = []  # tried again, from its beginning
            seen.append(event)
    if not ends:
        verdict.lost.append(f"{trial_id}: has no end")
        return
    verdict.ended += 1
    if len(ends) > 1:
        verdict.twice.append(f"{trial_id}: ended {len(ends)} times ({', '.join(ends)})")
    rows, problems = _try(lambda: _rows(root, trial_id))
    if rows is None:
        verdict.lost += [f"{trial_id}: {problem}" for problem in problems]
        return
    epochs = [row["epoch"] for row in rows]
    if epochs != list(range(1, len(epochs) + 1)):
        verdict.gaps.append(f"{trial_id}: epochs.parquet holds the epochs {_short(epochs)}")
    told = [event["epoch"] for event in seen]
    if told != list(range(1, len(told) + 1)):
        verdict.gaps.append(f"{trial_id}: the ledger holds the epochs {_short(told)}")
    elif len(told) != len(epochs) and ends[-1] != "pruned":  # a pruned trial's last rows may never have been reported
        verdict.gaps.append(f"{trial_id}: {len(told)} epochs in the ledger, {len(epochs)} in epochs.parquet")
    values = {row["epoch"]: row.get("val_accuracy") for row in rows}
    for event in seen:
        epoch, value = event["epoch"], event.get("value")
        if epoch in values and _bits(value) != _bits(values[epoch]):
            verdict.differing.append(f"{trial_id}: epoch {epoch} is {value} in the ledger, {values[epoch]} in its rows")
            break
    if ends[-1] == "done":
        for name in ("outcome.json", "predictions.parquet", "checkpoint.pt"):
            if not _folder(root, trial_id).joinpath(name).exists():
                verdict.lost.append(f"{trial_id}: done without {name}")
        outcome, problems = _try(lambda: json.loads((_folder(root, trial_id) / "outcome.json").read_text()))
        if not isinstance(outcome, dict) or (outcome.get("outcome"), outcome.get("epoch")) != ("done", len(epochs)):
            verdict.lost.append(f"{trial_id}: done, and its outcome says {outcome} {' '.join(problems)}")


def _judge_settings(verdict: Verdict, root: Path, plan: Mapping[str, Mapping[str, Any]]) -> None:
    """Trials that are done have trained for as many epochs as their settings say."""
    done = {event["trial_id"] for event in ledger(root) if event.get("event") == "done"}
    for trial_id in done & set(plan):
        asked = json.loads(plan[trial_id]["settings"])["training"]["epochs"] if plan[trial_id].get("settings") else None
        rows, _ = _try(lambda trial_id=trial_id: _rows(root, trial_id))  # type: ignore[misc]
        if rows is not None and asked is not None and len(rows) != asked:
            verdict.gaps.append(f"{trial_id}: done after {len(rows)} of {asked} epochs")


# ------------------------------------------------------------------------------------------------------- comparing


def differences(root: Path, undisturbed: Path, trial_id: str) -> list[str]:
    """Where a trial is not, bit by bit, what it is in the undisturbed study."""
    found = []
    ends = [_end_of(folder, trial_id) for folder in (root, undisturbed)]
    if ends[0] is not None and ends[0] != ends[1]:
        found.append(f"{trial_id}: {ends[0]}, undisturbed {ends[1]}")
    for name, key in (("epochs.parquet", "epoch"), ("predictions.parquet", "sample_id")):
        there = _folder(undisturbed, trial_id) / name
        if not there.exists():
            continue
        ours, problems = _try(lambda name=name: pq.read_table(_folder(root, trial_id) / name))  # type: ignore[misc]
        if ours is None:
            found += [f"{trial_id}: {problem}" for problem in problems]
            continue
        found += [f"{trial_id}/{name}: {what}" for what in _compared(ours, pq.read_table(there), key)]
    return found


def _compared(ours: pa.Table, theirs: pa.Table, key: str) -> Iterator[str]:
    for name in sorted({*ours.schema.names, *theirs.schema.names} - OF_THE_RUN):
        if name not in ours.schema.names or name not in theirs.schema.names:
            yield f"{name} is a column of only one of the two"
            continue
        left, right = ([_bits(value) for value in table[name].to_pylist()] for table in (ours, theirs))
        if left == right:
            continue
        if len(left) != len(right):
            yield f"{name}: {len(left)} rows, undisturbed {len(right)}"
            continue
        at = next(index for index, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1])
        yield f"{name} differs first at {key} {theirs[key][at]}: {ours[name][at]}, undisturbed {theirs[name][at]}"


def _bits(value: Any) -> Any:
    """A value that is equal only to the same bits: -0.0 is not 0.0, and NaN is itself."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, list):
        return [_bits(one) for one in value]
    return value


def _end_of(root: Path, trial_id: str) -> str | None:
    """Kind and epoch of a trial's end."""
    ends = [e for e in ledger(root) if e.get("trial_id") == trial_id and e.get("event") in (*ENDS, "retried")]
    last = ends[-1] if ends else {"event": "retried"}
    return None if last["event"] == "retried" else f"{last['event']} at epoch {last.get('epoch')}"


# --------------------------------------------------------------------------------------------------------- reading


def planned(root: Path) -> dict[str, dict[str, Any]]:
    """Every planned trial: of plan.parquet, and what the ledger has planned since."""
    rows: Rows = pq.read_table(root / "plan.parquet").to_pylist() if (root / "plan.parquet").exists() else []
    found = {str(row["trial_id"]): row for row in rows}
    if len(found) < len(rows):
        raise ValueError("plan.parquet holds a trial twice")
    for event in ledger(root):
        if event.get("event") == "planned" and event["trial_id"] not in found:
            row = dict(event["plan"])
            if not isinstance(row.get("settings"), str):
                row["settings"] = json.dumps(row.get("settings"))
            found[event["trial_id"]] = row
    return found


def ledger(root: Path) -> Iterator[dict[str, Any]]:
    """The events, in order; lines that are none, or not what their check word was made from, are passed over."""
    path = root / "ledger.jsonl"
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        body, has_check, word = line.rpartition(b', "check": "')
        if has_check and word != b'%08x"}' % zlib.crc32(body):
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield event


def unfinished(root: Path) -> list[str]:
    """Planned trials without an end (or tried again since)."""
    try:
        trials = planned(root)
    except (OSError, ValueError, pa.ArrowException):
        return ["(the plan cannot be read)"]
    return [trial_id for trial_id in trials if _end_of(root, trial_id) is None]


def ended(root: Path) -> dict[str, int]:
    """How often each trial that has an end had been begun by now."""
    return {trial_id: begun(root, trial_id) for trial_id in planned(root) if _end_of(root, trial_id) is not None}


def begun(root: Path, trial_id: str) -> int:
    """Attempts of a trial, as the ledger or its own files tell them."""
    told = [e for e in ledger(root) if e.get("trial_id") == trial_id and e.get("event") == "started"]
    return max(len(told), len(list((_folder(root, trial_id) / "attempts").glob("[0-9]*.json"))))


def left_over(folder: Path) -> Iterator[Path]:
    """Files whose writer never came to rename them."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        ours = not {".ray", "wandb"} & set(inside)  # of which others are the authors
        if ours and path.is_file() and (path.name.endswith((".tmp", ".part")) or path.name == ".probe"):
            yield path


def _rows(root: Path, trial_id: str) -> Rows:
    rows: Rows = pq.read_table(_folder(root, trial_id) / "epochs.parquet").to_pylist()
    return rows


def _folder(root: Path, trial_id: str) -> Path:
    return root / "trials" / trial_id


def _try(read: Any) -> tuple[Any, list[str]]:
    """What was read, or None and why it could not be."""
    try:
        return read(), []
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        return None, [f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"]


def _short(epochs: Sequence[Any]) -> str:
    """What is wrong with a row of epochs that is not 1..n."""
    missing = sorted(set(range(1, max(epochs, default=0) + 1)) - set(epochs))
    repeated = sorted({epoch for epoch in epochs if list(epochs).count(epoch) > 1})
    order = "" if missing or repeated else ", out of order"
    return f"1..{max(epochs, default=0)}, missing {missing}, repeated {repeated}{order}"


# ------------------------------------------------------------------------------------------------------- processes


def processes_of(marker: str, root: Path | None = None) -> dict[int, str]:
    """Processes that carry a marker in their environment, or a study's directory in their command line.

    Args:
        marker: text that stood in the environment of the command; whatever it started has inherited it.
        root: a study's directory.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        named = root is not None and f"{root}" in command
        if state not in "ZX" and (marker.encode() in environment or named):
            found[int(entry.name)] = command[:160]
    return found


def orphans(marker: str, root: Path, known: Iterable[tuple[int, str]] = (), within_s: float = 30.0) -> list[str]:
    """What still runs of a command that has ended, after so many seconds at most.

    Args:
        marker: as in `processes_of`.
        root: the study's directory.
        known: process ids and start times (`started`) of what the command was seen to have started.
        within_s: how long they may take to leave.
    """
    until = time.monotonic() + within_s
    while True:
        alive = processes_of(marker, root)
        alive |= {pid: "seen as its child" for pid, start in known if pid not in alive and started(pid) == start}
        if not alive or time.monotonic() > until:
            return [f"{pid}: {command}" for pid, command in sorted(alive.items())]
        time.sleep(0.2)


def started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None where it runs no more."""
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if parts[0] in "ZX" else parts[19]
