"""Where a study's numbers come from: processor, threads and versions that trained its trials, and that analysed them.

Two computers that round differently train different students from the same settings and seed, so that a verdict may
differ between them.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune import __version__
from akdtune.records import tables
from akdtune.records.lock_file import read_lock

NOT_RECORDED = "not recorded"
OF_A_TRIAL = ("processor", "capability", "onednn_max_cpu_isa", "threads", "device", "torch", "akdtune", "python")
ROUNDING = (
    "verdicts may differ between processors, numbers of threads and versions by rounding alone, since training "
    "amplifies it"
)


@dataclass(frozen=True)
class Origin:
    """What trained the finished trials of a study, and what has read them.

    Attributes:
        trained_on: the keys of `OF_A_TRIAL` with values or None, and `trials`: how many; the most frequent first.
            Trials from before this was recorded per trial have the versions with which their study began.
        commit: of akdtune's source when the study began, where it ran from a checkout.
        analysed_with: `akdtune`, `numpy` and `python`.
    """

    trained_on: tuple[Mapping[str, Any], ...]
    commit: str | None
    analysed_with: Mapping[str, str]

    def __str__(self) -> str:
        """One line: `trained on: AMD EPYC (AVX512), 1 thread a trial, cpu; torch 2.9.1, ...; analysed with: ...`."""
        return f"trained on: {self._machine()}; {self._versions()}; analysed with: {self._reader()}"

    def lines(self) -> list[str]:
        """The line, and what it is there for."""
        return [str(self), ROUNDING]

    @property
    def short(self) -> str:
        """Processor, threads and torch, for the margin of a figure."""
        torch = self._known("torch")
        return f"{self._processors()}, {self._threads()}" + (f", torch {', '.join(torch)}" if torch else "")

    def report(self) -> dict[str, Any]:
        """As plain JSON: `trained_on` and `analysed_with`."""
        return {
            "trained_on": [dict(where) for where in self.trained_on],
            "trained_from_commit": self.commit,
            "analysed_with": dict(self.analysed_with),
        }

    def markdown(self) -> str:
        """A paragraph for the end of a Markdown file."""
        return f"\n{self}; {ROUNDING}.\n"

    def tex(self) -> str:
        """A comment for the end of a LaTeX file."""
        return "".join(f"% {line}\n" for line in self.lines())

    def _known(self, key: str) -> list[str]:
        values = (where.get(key) for where in self.trained_on)
        return list(dict.fromkeys(str(value) for value in values if value is not None))

    def _processors(self) -> str:
        names = list(dict.fromkeys(_processor(where) for where in self.trained_on)) or [NOT_RECORDED]
        if names == [NOT_RECORDED]:
            return f"processor {NOT_RECORDED}"
        return names[0] if len(names) == 1 else f"{len(names)} processors: {', '.join(names)}"

    def _threads(self) -> str:
        threads = sorted(map(int, self._known("threads")))
        if not threads:
            return f"threads {NOT_RECORDED}"
        return f"{' or '.join(map(str, threads))} thread{'' if threads == [1] else 's'} a trial"

    def _machine(self) -> str:
        return ", ".join([self._processors(), self._threads(), *self._known("device")])

    def _versions(self) -> str:
        commit = "" if self.commit is None else f" from commit {self.commit[:7]}"
        named = (
            ("torch", self._known("torch"), ""),
            ("akdtune", self._known("akdtune"), commit),
            ("Python", self._known("python"), ""),
        )
        return ", ".join(f"{name} {' and '.join(known) or NOT_RECORDED}{more}" for name, known, more in named)

    def _reader(self) -> str:
        versions = self.analysed_with
        return f"akdtune {versions['akdtune']}, numpy {versions['numpy']}, Python {versions['python']}"


def _processor(where: Mapping[str, Any]) -> str:
    if where.get("processor") is None:
        return NOT_RECORDED
    details = [str(where["capability"])] if where.get("capability") else []
    limit = where.get("onednn_max_cpu_isa")
    details += [f"oneDNN at most {limit}"] if limit else []
    return f"{where['processor']} ({', '.join(details)})" if details else str(where["processor"])


def origin_of(run: Path) -> Origin:
    """Where the numbers of a study's finished trials come from.

    Args:
        run: the study directory; in one of an earlier version a processor is not recorded.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be read.
    """
    trials = tables.read_trials(run)
    columns = [name for name in ("status", "trained_on") if name in trials.column_names]
    done = [row for row in trials.select(columns).to_pylist() if row["status"] == "done"]
    lock = read_lock(run, ()) or {}
    source = lock.get("source_code") or {}
    return Origin(
        trained_on=_counted((row.get("trained_on") for row in done), _began_with(lock)),
        commit=source.get("commit"),
        analysed_with={
            "akdtune": __version__,
            "numpy": importlib.metadata.version("numpy"),
            "python": platform.python_version(),
        },
    )


def _began_with(lock: Mapping[str, Any]) -> dict[str, Any]:
    """The versions with which a study began, as far as its lock holds them."""
    packages, machine = lock.get("packages") or {}, lock.get("machine") or {}
    return {"torch": packages.get("torch"), "akdtune": lock.get("akdtune"), "python": machine.get("python")}


def _counted(recorded: Iterable[str | None], began_with: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    count = Counter(recorded)
    found = []
    for text, trials in count.most_common():
        held = began_with if text is None else json.loads(text)
        found.append({**{key: held.get(key) for key in OF_A_TRIAL}, "trials": trials})
    return tuple(found)
