"""What to do next with a study: the exact command, why, and what it costs in trials and time."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from akdtune.folders import packaged
from akdtune.metric import of_trials
from akdtune.records.ledger.judgements import SeedsNeeded
from akdtune.records.run_names import RUNS
from akdtune.reports.ablation.seed_words import rounded_up
from akdtune.reports.standing.arms import configurations
from akdtune.reports.standing.leader import Leader, Unresolved
from akdtune.reports.standing.progress import Awaited, Durations, Seconds
from akdtune.reports.standing.table import broken_command, wrapped
from akdtune.reports.text import counted
from akdtune.roles import TERMINAL
from akdtune.statistics.power import more_seeds

Row: TypeAlias = Mapping[str, Any]

CONFIRM_SEEDS = 5
"""Of a confirmation that is proposed."""

FIRST_SEED = 100
"""The first of them, as in the packaged studies; those that the search has used are passed over."""

MOST_SEEDS = 50
"""More further seeds than that are not proposed: the difference is too small for this study."""


def joined(words: Iterable[str]) -> str:
    """Words as a line for a shell, each in the quotes that are easiest to read."""
    return " ".join(
        f'"{word}"' if "'" in word and not any(sign in word for sign in '"$`\\!') else shlex.quote(word)
        for word in words
    )


@dataclass(frozen=True)
class Asked:
    """What a study was asked for.

    Attributes:
        root: its directory.
        settings: all of them, with defaults; empty where no lock says them.
        arms: their names.
        source: the settings file as it was named.
        overrides: that were given beside it.
        full_teacher: whether a teacher of all training images is there, or none is needed.
    """

    root: Path
    settings: Mapping[str, Any]
    arms: Sequence[str] = ()
    source: str = ""
    overrides: Sequence[str] = ()
    full_teacher: bool = True

    @classmethod
    def of_lock(cls, root: Path, lock: Mapping[str, Any] | None) -> Asked:
        """As the lock of a study directory says it."""
        if lock is None:
            return cls(root, {})
        settings = lock.get("settings") or {}
        return cls(
            root=root,
            settings=settings,
            arms=tuple(lock.get("arms") or ()),
            source=str(lock.get("source") or ""),
            overrides=tuple(lock.get("overrides") or ()),
            full_teacher="report_teacher" in lock or not _trains_teacher(settings),
        )

    @property
    def is_here(self) -> bool:
        """Whether the settings file is found from this folder."""
        try:
            return self.source in packaged() or Path(self.source).expanduser().is_file()
        except (OSError, RuntimeError, ValueError):
            return False

    def command(self, added: Iterable[str] = (), *, extend: bool = False) -> str:
        """The study's own command, `akdtune run FILE ...`; what is added takes the place of the same key."""
        added = list(added)
        keys = {text.partition("=")[0] for text in added}
        kept = [text for text in self.overrides if text.partition("=")[0] not in keys]
        name = self.settings.get("study")
        at_home = name is not None and self.root == RUNS / str(name)
        place = [] if at_home else ["--dir", str(self.root)]
        return joined(["akdtune", "run", self.source, *kept, *added, *place, *(["--extend"] if extend else [])])


def _trains_teacher(settings: Mapping[str, Any]) -> bool:
    """Whether a phase that reports needs a teacher of its own, trained on all training images."""
    teacher, report = settings.get("teacher") or {}, settings.get("report") or {}
    needs = report.get("train_on", "full") == "full" and teacher.get("checkpoint", "auto") == "auto"
    return bool(needs and teacher.get("network") not in (None, "none"))


@dataclass(frozen=True)
class NextStep:
    """What to do next.

    Attributes:
        why: in a few words.
        command: for a shell.
        trials: how many it trains, at most; None where it trains none, or where that is not known.
        time: that it takes; None where nothing can tell.
        note: what else has to be known; empty for nothing.
    """

    why: str
    command: str
    trials: int | None = None
    time: Seconds | None = None
    note: str = ""

    @property
    def cost(self) -> str:
        """`at most 20 trials, about 4 min`; empty where there is none."""
        parts = [f"at most {counted(self.trials, 'trial')}"] if self.trials else []
        parts += [self.time.words] if self.time is not None else []
        return ", ".join(parts)

    def lines(self, width: int | None = None) -> list[str]:
        """The reason with the cost, the command on lines of its own as a shell takes them, and the note."""
        cost = f": {self.cost}" if self.cost else ""
        note = wrapped([f"({self.note})"] if self.note else [], width, "  ")
        return [*wrapped([f"next ({self.why}){cost}"], width), *broken_command(self.command, width), *note]


# -------------------------------------------------------------------------------------------------------- decisions


def next_step(
    asked: Asked,
    rows: Sequence[Row],
    durations: Durations,
    to_come: Sequence[Awaited],
    leader: Leader | None,
    design: Mapping[str, Any],
    needed: SeedsNeeded | None = None,
    held_back: bool = False,
) -> NextStep | None:
    """What to do next; None while the study runs.

    Args:
        asked: what the study was asked for.
        rows: of all trials.
        durations: how long they take.
        to_come: trials that are not planned yet.
        leader: which arm leads.
        design: content of design.json.
        needed: what a pilot asks for.
        held_back: whether trials without an end are held back by the time budget, so that the study is through.
    """
    if durations.spans.live:
        return None
    waiting = [row for row in rows if row["status"] not in TERMINAL]
    failed = [row for row in rows if row["status"] == "failed"]
    if (waiting or to_come) and not held_back:
        return _go_on(asked, waiting, to_come, durations)
    if failed:
        return NextStep(
            f"{counted(len(failed), 'trial')} failed", joined(["akdtune", "retry", str(asked.root)]), len(failed),
            durations.of((row["role"], row["arm"]) for row in failed), "once what they raised is mended",
        )  # fmt: skip
    return (
        _take_pilot(asked, rows, design, needed, durations)
        or _confirm(asked, rows, design, durations)
        or _more_seeds(asked, rows, design, leader, durations)
        or _read(asked, rows, leader)
    )


def _go_on(asked: Asked, waiting: Sequence[Row], to_come: Sequence[Awaited], durations: Durations) -> NextStep | None:
    trials = len(waiting) + sum(phase.trials or 0 for phase in to_come)
    causes = {row["stop_reason"] for row in waiting if row["status"] == "interrupted" and row.get("stop_reason")}
    note = "once what interrupted them is mended" if causes else ""
    if any(phase.trials is None for phase in to_come):
        note = "; ".join(filter(None, (note, "and the ablation, whose size the search decides")))
    return _located(
        asked, NextStep("not finished", asked.command(), trials, durations.remaining(waiting, to_come), note)
    )


def _located(asked: Asked, step: NextStep) -> NextStep | None:
    """The step, with a word where the settings file is not found from here; None where no lock names one."""
    if not asked.source:
        return None
    if asked.is_here:
        return step
    where = f"in the folder that {asked.source} was named from"
    return NextStep(step.why, step.command, step.trials, step.time, "; ".join(filter(None, (where, step.note))))


def _take_pilot(
    asked: Asked,
    rows: Sequence[Row],
    design: Mapping[str, Any],
    needed: SeedsNeeded | None,
    durations: Durations,
) -> NextStep | None:
    """The seeds that a pilot proposes, where the study ends with the proposal."""
    ablation = design.get("ablation") or {}
    auto = (asked.settings.get("ablation") or {}).get("seeds")
    if needed is None or ablation.get("seeds") or not isinstance(auto, Mapping):
        return None
    first, most = int(auto.get("first", FIRST_SEED)), int(auto.get("at_most", needed.needed))
    seeds = list(range(first, first + min(needed.needed, most)))
    cells = [cell for cell in ablation.get("cells") or [] if cell.get("planned", True)]
    trials = [(str(cell.get("role") or "ablation"), cell.get("arm")) for cell in cells for _ in seeds]
    return _located(
        asked,
        NextStep(
            f"the pilot asks for {needed.needed} seeds", asked.command([_list("ablation.seeds", seeds)], extend=True),
            len(trials), durations.of(trials),
        ),
    )  # fmt: skip


def _confirm(asked: Asked, rows: Sequence[Row], design: Mapping[str, Any], durations: Durations) -> NextStep | None:
    """A confirmation of the best of each arm, where nothing is confirmed and a search has something to confirm."""
    settings = asked.settings
    if design.get("confirm") or design.get("ablation") or settings.get("confirm") or settings.get("ablation"):
        return None
    found = [known for known in configurations(rows) if known.role == "search"]
    if not found:
        return None
    arms = list(dict.fromkeys(configuration.arm for configuration in found))
    used = {row["seed"] for row in rows}
    seeds = [seed for seed in range(FIRST_SEED, FIRST_SEED + CONFIRM_SEEDS + len(used)) if seed not in used]
    seeds = seeds[:CONFIRM_SEEDS]
    baseline = _baseline(settings) if len(arms) == 1 else None
    cells = [*arms, *([None] if baseline else [])]
    trials = [("confirm", arm) for arm in cells for _ in seeds]
    added = ["confirm.top=1", _list("confirm.seeds", seeds)]
    added += [f"confirm.baselines=[{baseline}]"] if baseline else []
    best = "the best of each arm" if len(arms) > 1 else f"its best beside {baseline}" if baseline else "its best"
    note = f"{best} with {CONFIRM_SEEDS} fresh seeds, test images read once"
    if not asked.full_teacher:
        note += "; a teacher is trained on all training images first"
    step = NextStep("nothing is confirmed", asked.command(added, extend=True), len(trials), durations.of(trials), note)
    return _located(asked, step)


def _baseline(settings: Mapping[str, Any]) -> str | None:
    """What the only arm of a study is compared with: without its selection, else its views, else its teacher."""
    views, teacher = settings.get("views"), settings.get("teacher") or {}
    if settings.get("selection"):
        return "step_matched"
    if isinstance(views, Mapping) and views.get("name") not in (None, "none"):
        return "plain"
    return None if teacher.get("network") in (None, "none") else "student_only"


def _more_seeds(
    asked: Asked,
    rows: Sequence[Row],
    design: Mapping[str, Any],
    leader: Leader | None,
    durations: Durations,
) -> NextStep | None:
    """Further seeds where these do not resolve what leads; none where it would take too many."""
    left = None if leader is None else leader.open
    if left is None:
        return None
    count = _further(left)
    known = _seeds_of(asked, design, left.phase)
    if count is None or not known or count > MOST_SEEDS:
        return None
    seeds = [*known, *_fresh(known, {row["seed"] for row in rows}, count)]
    new, trials = seeds[len(known) :], []
    if left.phase == "search":
        trials = [("search", arm) for arm in dict.fromkeys(row["arm"] for row in rows if row["role"] == "search")]
    else:
        cells = [cell for cell in design[left.phase].get("cells") or [] if cell.get("planned", True)]
        trials = [(str(cell.get("role") or left.phase), cell.get("arm")) for cell in cells]
    trials = [trial for trial in trials for _ in new]
    note = (
        f"{counted(count, 'more seed')} resolve {left.resolve:g} points with power .8 as far as these tell; a second "
        "look at the same alpha"
    )
    step = NextStep(
        "not resolved", asked.command([_list(f"{left.phase}.seeds", seeds)], extend=True), len(trials),
        durations.of(trials), note,
    )  # fmt: skip
    return _located(asked, step)


def _further(left: Unresolved) -> int | None:
    """The larger number of seeds that the report would ask for, rounded up; None where that is not known."""
    found = more_seeds(left.sd, left.n, left.resolve, alpha=left.alpha)
    return None if found is None or not found[1] else rounded_up(found[1])


def _seeds_of(asked: Asked, design: Mapping[str, Any], phase: str) -> list[int]:
    written = design[phase].get("seeds") if phase in design else (asked.settings.get(phase) or {}).get("seeds")
    return [int(seed) for seed in written] if isinstance(written, list) else []


def _fresh(known: Sequence[int], used: set[int], count: int) -> list[int]:
    """Seeds that follow the known ones and that no trial has used."""
    taken, seed = used | set(known), max(known) + 1
    fresh: list[int] = []
    while len(fresh) < count:
        if seed not in taken:
            fresh.append(seed)
        seed += 1
    return fresh


def _read(asked: Asked, rows: Sequence[Row], leader: Leader | None) -> NextStep | None:
    """The analysis that says more; trains nothing."""
    analysis = None
    if leader is not None and leader.phase in ("confirm", "ablation"):
        analysis = "ablation"
    elif any(row["role"] == "probe" for row in rows):
        analysis = "diversity_accuracy"
    if analysis is None or leader is None:
        return None
    why = "resolved; all comparisons" if leader.resolved else "all comparisons"
    if analysis == "diversity_accuracy":
        why = f"how diversity and {of_trials(rows[0]).words} go together"
    if leader.open is not None and (count := _further(leader.open)) is not None:
        why = f"not resolved: {leader.open.resolve:g} points need up to {counted(count, 'more seed')}; all comparisons"
    return NextStep(why, joined(["akdtune", "analyze", analysis, str(asked.root)]))


def _list(key: str, seeds: Sequence[int]) -> str:
    return f"{key}=[{', '.join(map(str, seeds))}]"
