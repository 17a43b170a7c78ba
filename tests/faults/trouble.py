"""One case of trouble: what was done to a study, what its commands said, and what the judge finds at the end."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import judge, studies
from tests.faults.studies import NEVER, Command, Study, patience

TRACEBACK = "Traceback (most recent call last)"

MOST_COMMANDS = 3
"""So often a study's command may be given after trouble until it is through."""


@dataclass
class Trouble:
    """What is done to studies in one test, and what came of it.

    Attributes:
        name: of the test.
        seed: of everything that is random in it.
        folder: where its studies lie.
        reference: the undisturbed study of a name: file, directory, and the cache that it left.
        injected: faults by kind.
        found: what is wrong, in sentences.
        counts: what the judge counted.
    """

    name: str
    seed: int
    folder: Path
    reference: Callable[[str], Study]
    injected: dict[str, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.seed} {self.name}")

    def study(self, name: str = "grid", begun: Path | None = None, **environment: str) -> Study:
        """A study to be disturbed, with a cache of its own that holds what the undisturbed study had to train.

        Args:
            name: of `studies.STUDIES`.
            begun: a study directory that it starts from; None begins anew.
            environment: further variables of its commands.
        """
        reference = self.reference(name)
        root, cache = self.folder / "run", self.folder / "cache"
        if not cache.exists():
            shutil.copytree(reference.environment["AKDTUNE_CACHE"], cache)
        if begun is not None:
            shutil.copytree(begun, root)
        return Study(
            reference.file,
            root,
            reference.root,
            {**reference.environment, "AKDTUNE_CACHE": str(cache), **environment},
            reference.overrides,
        )

    def begin(self, study: Study, **environment: str) -> Command:
        """Starts a study's command, and sees to it that nothing of it outlives the test."""
        self.commands.append(study.start(**environment))
        return self.commands[-1]

    def inject(self, kind: str) -> None:
        """Counts a fault."""
        self.injected[kind] = self.injected.get(kind, 0) + 1

    def kill(self, command: Command, target: str) -> bool:
        """Kills -9 the driver, an actor, the raylet or the GCS of a command, where it lives."""
        if (pid := command.target(target)) is None:
            return False
        command.look()
        studies.kill(pid)
        self.inject(f"kill -9 {target}")
        return True

    def ended(self, command: Command, study: Study, within_s: float | None = None) -> tuple[int, str]:
        """Waits for a command's end: never with 0 while a planned trial has none, and with no traceback.

        Args:
            command: that runs or has run.
            study: what it runs.
            within_s: how long it may take, on a machine that does nothing else.
        """
        within_s = studies.LONG_S if within_s is None else within_s
        code, output = command.end(within_s)
        left = judge.unfinished(study.root) if study.root.exists() else []
        if code == NEVER:
            self.found.append(f"never: no end within {within_s} s: {output[-300:]}")
        if code == 0 and left:
            self.found.append(f"exits: 0 while {len(left)} planned trials have no end")
            self.counts["exits"] = self.counts.get("exits", 0) + 1
        self.read(output)
        return code, output

    def says_how_to_go_on(self, output: str) -> None:
        """Looks for the command, or the sentence, with which a study goes on."""
        if "akdtune run" not in output and "the same command" not in output.lower():
            self.found.append(f"unsaid: no sentence with the command that goes on: {output[-400:]}")

    def read(self, output: str) -> None:
        """Looks for a traceback in what a command printed."""
        if TRACEBACK in output:
            self.counts["tracebacks"] = self.counts.get("tracebacks", 0) + 1
            above, _, below = output.partition(TRACEBACK)
            self.found.append(f"traceback: {above[-200:]}{TRACEBACK}{below[:200]} ... {below[-200:]}")

    def goes_on(self, study: Study, times: int = 1, **environment: str) -> str:
        """The same command until it says 0: so many times at most; returns what it printed."""
        printed, code = "", None
        for _ in range(times):
            code, said = self.ended(self.begin(study, **environment), study)
            printed += said
            if code == 0:
                return printed
        self.found.append(f"exits: {code} when the same command was given again: {printed[-500:]}")
        return printed

    def settle(self, study: Study, *, attempts: dict[str, int] | None = None, folders: Iterable[Path] = ()) -> None:
        """Judges a study that should be over, counts, and fails where anything is wrong."""
        verdict = judge.judge(study.root, study.undisturbed, attempts=attempts, folders=folders)
        for command in self.commands:
            verdict.orphans += judge.orphans(command.marker, study.root, command.known, 30.0 * patience())
        self.count(verdict)
        self.fail()

    def count(self, verdict: judge.Verdict) -> None:
        """Takes over what the judge found."""
        for name in ("planned", "ended"):
            self.counts[name] = self.counts.get(name, 0) + getattr(verdict, name)
        for name in ("lost", "twice", "differing", "orphans", "gaps", "temporary"):
            self.counts[name] = self.counts.get(name, 0) + len(_trials(getattr(verdict, name)))
        self.found += verdict.found

    def fail(self) -> None:
        """Fails the test with everything that was found."""
        assert not self.found, f"(--fault-seed {self.seed})\n" + "\n".join(self.found)

    def clean(self) -> None:
        """Leaves nothing running."""
        for command in self.commands:
            command.kill_all()

    def plain(self) -> dict[str, Any]:
        """What stands in the table."""
        return {
            "case": self.name,
            "seed": self.seed,
            "injected": self.injected,
            **self.counts,
            "found": [sentence[:300] for sentence in self.found],
        }


def _trials(sentences: Sequence[str]) -> set[str]:
    """The things of which sentences speak: several may be of one trial."""
    return {sentence.partition(":")[0].partition("/trials/")[2] or sentence.partition(":")[0] for sentence in sentences}
