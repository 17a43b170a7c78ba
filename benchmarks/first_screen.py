"""What a user waits for: how soon a command says something useful, and how long it is silent after that.

    python benchmarks/first_screen.py [RUN] [--only NAME ...] [--plans STUDY ...] [--json FILE] [--against CHECKOUT]
    python benchmarks/first_screen.py --first-trial digits_angular [--cache cold|teacher|warm ...] [--to-the-end]
    ... --piped

Each command runs on a terminal of 80 columns of its own, or its output is piped; RUN is a study directory (default: one
of 100 made-up trials, written by the project's own writers). Of each:

    screen     seconds, and CPU seconds of the process, until anything readable stands on the screen
    answer     the same until the first line of what was asked for, on standard output
    silent     the longest time in which no text changed (a turning spinner is no text)
    total      seconds, and CPU seconds, until the command ended

--first-trial runs a study up to its first trial's end (or its own, with --to-the-end), in a directory and a cache of
its own: `cold` with an empty cache, `teacher` with the teacher alone in it, `warm` with all that a former run left.
Seconds from Enter; the trial's moments are read from the ledger. CPU seconds are those of all processes below.

Wall times count on a quiet machine only. Exit code 1 when a target is missed: something useful on the screen within
3 s, no silence longer than 3 s, the first trial of a study with a trained teacher ended within 25 s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import sentence
from study_overhead import descendants_cpu_s

SCREEN_S, SILENT_S, FIRST_TRIAL_S = 3.0, 3.0, 25.0
TICK = os.sysconf("SC_CLK_TCK")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")
SPINNER = re.compile("[\u2800-\u28ff]")
TRIALS = 100

READING = {
    "show": ["show", "RUN"],
    "best": ["best", "RUN"],
    "trial": ["trial", "RUN", "TRIAL"],
    "diff": ["diff", "RUN", "TRIAL", "OTHER"],
    "logs": ["logs", "RUN", "TRIAL"],
    "compare": ["compare", "RUN", "RUN"],
    "table": ["table", "RUN"],
    "report": ["report", "RUN", "--out", "FOLDER"],
    "verify": ["verify", "RUN"],
    "importance": ["analyze", "importance", "RUN"],
    "diversity_accuracy": ["analyze", "diversity_accuracy", "RUN"],
    "ablation": ["analyze", "ablation", "RUN"],
}
LISTING = {
    "help": ["--help"],
    "spaces": ["spaces"],
    "methods": ["methods"],
    "views": ["views"],
    "networks": ["networks"],
    "data": ["data"],
    "schema": ["schema"],
    "teacher list": ["teacher", "list"],
    "cache list": ["cache", "list"],
}


class Watched(NamedTuple):
    """What was seen of one command."""

    command: str
    code: int
    screen_s: float
    screen_cpu_s: float
    answer_s: float
    answer_cpu_s: float
    silent_s: float
    silent_before: str
    total_s: float
    cpu_s: float
    first: str


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far, threads included and children not."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def text_of(chunk: bytes) -> str:
    """What is readable in something that was written to a terminal."""
    return " ".join(SPINNER.sub("", ESCAPES.sub("", chunk.decode("utf-8", "replace"))).split())


def watch(
    command: Sequence[str],
    environment: Mapping[str, str],
    enough: Callable[[], bool] = lambda: False,
    piped: bool = False,
) -> Watched:
    """Runs a command on a terminal and times what appears there.

    Args:
        command: what is run.
        environment: its variables.
        enough: whether it has done what is waited for; it is interrupted then, as by Ctrl-C.
        piped: whether its output goes into pipes instead.
    """
    ends = {name: os.pipe() if piped else pty.openpty() for name in ("out", "err")}
    started = time.perf_counter()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=ends["out"][1], stderr=ends["err"][1], env=dict(environment)
    )
    for _, inner in ends.values():
        os.close(inner)
    names = {outer: name for name, (outer, _) in ends.items()}
    first: dict[str, tuple[float, float, str]] = {}
    last, shown, silent, before, told = started, "", 0.0, "", False
    while names:
        if not told and enough():
            told = True
            child.send_signal(signal.SIGINT)
        for outer in select.select(list(names), [], [], 0.05)[0]:
            chunk = b""
            with contextlib.suppress(OSError):  # nobody holds the other end any more
                chunk = os.read(outer, 65536)
            if not chunk:
                os.close(outer)
                del names[outer]
                continue
            text, now = text_of(chunk), time.perf_counter()
            if not text or text == shown:
                continue
            seen = (now - started, cpu_of(child.pid) if child.poll() is None else float("nan"), text)
            first.setdefault("screen", seen)
            if names[outer] == "out":
                first.setdefault("answer", seen)
            if now - last > silent:
                silent, before = now - last, text
            last, shown = now, text
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    nothing = (float("nan"), float("nan"), "")
    screen, answer = first.get("screen", nothing), first.get("answer", nothing)
    total = time.perf_counter() - started
    return Watched(
        " ".join(command), child.returncode, *screen[:2], *answer[:2], silent, before[:60], total,
        usage.ru_utime + usage.ru_stime, screen[2][:60],
    )  # fmt: skip


def surroundings(folder: Path, checkout: Path | None) -> dict[str, str]:
    """Variables of a command: 80 columns, a cache of its own, and another checkout if one is given."""
    own = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    own |= {"WANDB_MODE": os.environ.get("WANDB_MODE", "offline"), "PYTHONUNBUFFERED": ""}
    own |= {"AKDTUNE_CACHE": os.environ.get("AKDTUNE_CACHE", str(folder / "cache"))}
    return {**os.environ, **own} | ({"PYTHONPATH": str(checkout)} if checkout else {})


def made_up(folder: Path) -> Path:
    """A study of made-up trials."""
    root = folder / "made_up"
    root.mkdir()
    script = Path(__file__).with_name("scaling.py")
    command = [sys.executable, str(script), "--part", "driver", "--root", str(root), "--sizes", str(TRIALS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return root


def commands_of(run: Path, folder: Path) -> dict[str, list[str]]:
    """The commands that read a study, with the names of two trials of it."""
    trials = sorted(path.parent.name for path in run.glob("trials/*/outcome.json"))[:2]
    given = {"RUN": str(run), "TRIAL": trials[0], "OTHER": trials[-1], "FOLDER": str(folder / "report")}
    return {name: [given.get(word, word) for word in words] for name, words in READING.items()}


def screens(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All commands, a row each."""
    commands = {**LISTING, **commands_of(arguments.run or made_up(folder), folder)}
    commands |= {f"plan {study}": ["plan", study] for study in arguments.plans}
    if arguments.only:
        commands = {name: words for name, words in commands.items() if name.split()[0] in arguments.only}
    rows = []
    print(f"{'':>34} {'screen':>13} {'answer':>13} {'silent':>7} {'total':>14}\n{'':>34} {'s':>6} {'CPU s':>6}"
          f" {'s':>6} {'CPU s':>6} {'s':>7} {'s':>7} {'CPU s':>6}")  # fmt: skip
    for name, words in commands.items():
        for checkout, label in checkouts_of(arguments):
            command = [sys.executable, "-m", "akdtune.cli", *words]
            seen = watch(command, surroundings(folder, checkout), piped=arguments.piped)
            rows.append({"name": label + name, **seen._asdict()})
            note = f"  exit code {seen.code}: {seen.first}" if seen.code else ""
            note += f"  silent before: {seen.silent_before}" if seen.silent_s > SILENT_S else ""
            print(
                f"{label + name:>34} {seen.screen_s:6.2f} {seen.screen_cpu_s:6.2f} {seen.answer_s:6.2f} "
                f"{seen.answer_cpu_s:6.2f} {seen.silent_s:7.2f} {seen.total_s:7.2f} {seen.cpu_s:6.2f}{note}",
                flush=True,
            )
    return rows


# ------------------------------------------------------------------------------------------- the first trial


def events_of(ledger: Path) -> list[dict[str, Any]]:
    """What stands in a ledger so far."""
    if not ledger.exists():
        return []
    lines = ledger.read_text(errors="replace").splitlines()
    events = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the line that is being written
            events.append(json.loads(line))
    return events


def first_trial(study: str, cache: str, folder: Path, checkout: Path | None, arguments: Any) -> dict[str, Any]:
    """Runs a study until its first trial has ended, or to its end."""
    environment = surroundings(folder, checkout)
    root = folder / f"{study}-{cache}"
    moments: dict[str, float] = {}
    began, began_cpu, cpu = time.time(), descendants_cpu_s(), 0.0

    def ended() -> bool:
        nonlocal cpu
        for event in events_of(root / "ledger.jsonl"):
            kind = str(event.get("event"))
            moments.setdefault(kind, time.time() - began)
        cpu = max(cpu, descendants_cpu_s() - began_cpu)
        return not arguments.to_the_end and bool(set(moments) & {"done", "pruned", "diverged", "failed"})

    words = ["run", study, *arguments.set, "--dir", str(root)]
    seen = watch([sys.executable, "-m", "akdtune.cli", *words], environment, ended, arguments.piped)
    ended()
    first_end = min((moments[name] for name in ("done", "pruned", "diverged", "failed") if name in moments), default=0)
    return {
        "name": f"{study}, {cache}", "screen_s": seen.screen_s, "silent_s": seen.silent_s,
        "silent_before": seen.silent_before, "began_s": moments.get("started", 0.0),
        "first_end_s": first_end, "total_s": seen.total_s, "cpu_s": cpu, "code": seen.code, "moments": moments,
    }  # fmt: skip


def first_trials(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One study with each kind of cache, a row each."""
    rows = []
    for checkout, label in checkouts_of(arguments):
        own = folder / (label.rstrip(": ") or "now")
        for kind in arguments.cache:
            os.environ["AKDTUNE_CACHE"] = str(own / "cache")
            for name in {"cold": ("",), "teacher": ("warmups", "teacher_cache"), "warm": ()}[kind]:
                shutil.rmtree(own / "cache" / name, ignore_errors=True)
            row = first_trial(arguments.first_trial, kind, own, checkout, arguments)
            rows.append({**row, "name": label + row["name"]})
            print(
                f"{label}{row['name']}: screen {row['screen_s']:.1f} s, first trial began {row['began_s']:.1f} s and "
                f"ended {row['first_end_s']:.1f} s, longest silence {row['silent_s']:.1f} s (before "
                f"{row['silent_before']!r}), {row['total_s']:.1f} s in all, {row['cpu_s']:.1f} CPU s",
                flush=True,
            )
    return rows


def checkouts_of(arguments: argparse.Namespace) -> list[tuple[Path | None, str]]:
    """This checkout, and the one that it is compared with."""
    return [(None, ""), *([(arguments.against, "before: ")] if arguments.against else [])]


def missed_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per target that was missed."""
    missed = []
    for row in rows:
        name = row["name"]
        if row["screen_s"] > SCREEN_S:
            missed.append(f"{name}: the first words after {row['screen_s']:.1f} s (within {SCREEN_S:g})")
        if row["silent_s"] > SILENT_S:
            missed.append(f"{name}: silent for {row['silent_s']:.1f} s (at most {SILENT_S:g})")
        if row.get("first_end_s", 0.0) > FIRST_TRIAL_S and not name.endswith("cold"):
            missed.append(f"{name}: the first trial ended after {row['first_end_s']:.1f} s (within {FIRST_TRIAL_S:g})")
    return missed


def main(argv: list[str] | None = None) -> int:
    """Prints a table; 0 when every target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a study directory (default: a made-up one)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these commands, e.g. show plan")
    parser.add_argument("--plans", nargs="+", default=["digits_angular"], metavar="STUDY", help="studies to plan")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="each command there as well")
    parser.add_argument("--first-trial", metavar="STUDY", help="run it until its first trial has ended")
    parser.add_argument("--cache", nargs="+", default=["cold", "teacher", "warm"], help="before that run")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of that run")
    parser.add_argument("--piped", action="store_true", help="into a pipe instead of a terminal")
    parser.add_argument("--to-the-end", action="store_true", help="run the study to its end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    arguments = parser.parse_args(argv)
    print(sentence())
    with tempfile.TemporaryDirectory() as temporary:
        measure = first_trials if arguments.first_trial else screens
        rows = measure(arguments, Path(temporary))
    missed = missed_in(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    print("\n".join(f"missed: {line}" for line in missed) or "all targets are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
