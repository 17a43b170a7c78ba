"""What a study's driver does about its loggers: decides once how runs are written, says in the end what is left.

Begins to ask the server while the study prepares itself, so that nobody waits for the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError
from akdtune.reports.text import counted
from akdtune.tracking.arrangement import flat_names
from akdtune.tracking.child import Probe, project_url
from akdtune.tracking.missing import missing_runs, save_view, study_run_is_due, write_missing, write_study_run
from akdtune.tracking.mode import Decision, decide, known_names, read_decision, write_decision
from akdtune.tracking.record import read_record
from akdtune.tracking.sync import named
from akdtune.tracking.tracker import NAMES, asked, read_trouble

CLOSING_S = 30.0
"""At the end of a study, making runs from stored rows takes no longer; `sync` makes those that are left."""


def notice(settings: Mapping[str, Any]) -> str | None:
    """One line for the start of a study when its runs are written offline, None otherwise."""
    decision = decide(settings)
    if decision.mode != "offline":
        return None
    return f"Weights & Biases: runs are written offline, {decision.why}; `akdtune wandb sync RUN` uploads them"


def plan_line(settings: Mapping[str, Any]) -> str:
    """One line for a plan: how runs will be written, and why."""
    decision = decide(settings)
    if decision.mode == "online":
        return f"Weights & Biases: online ({decision.why}); offline if the server does not answer when the study starts"
    how = "offline" if decision.mode == "offline" else "off"
    later = "; `akdtune wandb sync` uploads the runs later" if decision.mode == "offline" else ""
    return f"Weights & Biases: {how} ({decision.why}){later}"


class StudyTracking:
    """One run of a study, seen by its loggers.

    Args:
        settings: the tracking section.
        root: the study directory.
        paths: gives key paths of the settings that differ between its trials; asked where anything is logged.
    """

    def __init__(self, settings: Mapping[str, Any], root: Path, paths: Callable[[], Sequence[str]] = list) -> None:
        self._settings = settings
        self._root = root
        self._logs = bool(asked(settings))
        self._names = flat_names(paths(), known_names(root)) if self._logs else {}
        self._decision = decide(settings)
        self._probe: Probe | None = None
        self._settled = False
        if self._decision.mode == "online":
            with contextlib.suppress(OSError):  # no process, no answer
                self._probe = Probe()

    def settle(self, given_up: Callable[[], bool] = lambda: False) -> str | None:
        """Decides, and writes the decision down; a line for the user: where runs are, or why they cannot be online.

        Args:
            given_up: whether nobody waits for it any more.
        """
        if self._settled:
            return None
        self._settled = True
        refusal = self._refusal(given_up) if self._decision.mode == "online" else None
        if given_up():
            return None
        if refusal is not None:
            self._decision = Decision("offline", refusal, asked=False)
        if self._logs or read_decision(self._root) is not None:
            write_decision(self._root, self._decision, self._settings.get("wandb"), self._names)
        if refusal is not None:
            return f"Weights & Biases: {refusal}; runs are written offline"
        return None if self.url is None else f"Weights & Biases: {self.url}"

    def _refusal(self, given_up: Callable[[], bool]) -> str | None:
        return "no process could be started to ask the server" if self._probe is None else self._probe.refusal(given_up)

    @property
    def url(self) -> str | None:
        """The project's page; None where runs are not online."""
        wandb = self._settings.get("wandb")
        if self._probe is None or self._decision.mode != "online" or not wandb:
            return None
        return project_url(self._probe.place, wandb)

    @property
    def for_trials(self) -> dict[str, Any]:
        """The section as trials get it, the mode decided, with the flat names of settings."""
        own = self._settings.get("wandb")
        wandb = {**own, "mode": self._decision.mode} if own else None
        return {**self._settings, "wandb": wandb, NAMES: self._names}

    def end(self) -> None:
        """Asks no longer."""
        if self._probe is not None:
            self._probe.end()

    def closing(self) -> list[str]:
        """Makes what trials could not write and the study's own run; says what is not on the server, and what failed.

        Returns:
            Lines for the user.
        """
        lines = list(self._failed_loggers())
        if self._decision.mode == "disabled":
            return lines
        try:
            left = write_missing(self._root, missing_runs(self._root, others_write=False), CLOSING_S)
            own = self._write_own()
        except (AkdtuneError, OSError) as error:  # the study itself is done
            return [*lines, f"warning: Weights & Biases: runs that are missing could not be written: {error}"]
        if (said := self._on_this_disk(left, own)) is not None:
            lines.append(said)
        return lines if self.url is None else [*lines, f"Weights & Biases: {self.url}"]

    def _write_own(self) -> str | None:
        """Writes the study's own run and, online, its view; what failed, in words."""
        if not study_run_is_due(self._root):
            return None
        known = read_decision(self._root)
        mode = (self._decision if known is None else known[0]).mode
        if (why := write_study_run(self._root, mode, CLOSING_S)) is not None and mode == "online":
            return write_study_run(self._root, "offline", CLOSING_S) or f"written offline ({why})"
        return why or save_view(self._root)

    def _on_this_disk(self, left: Mapping[str, str], own: str | None) -> str | None:
        """One line about runs that the server does not have; None: it has all."""
        runs = [self._root, *(self._root / "trials").glob("*")]
        waiting = sum(self._waits(directory) for directory in runs)
        if not waiting and not left and own is None:
            return None
        known = read_decision(self._root)
        decision = self._decision if known is None else known[0]
        why = f": {decision.why}" if decision.mode == "offline" else ""
        are = "is" if waiting == 1 else "are"
        parts = [f"{counted(waiting, 'run')} {are} on this disk alone{why}"] if waiting else []
        parts += [f"trials without a run: {named(left)}"] if left else []
        parts += [f"the study's own run: {own}"] if own is not None else []
        warning = "" if decision.asked and not left and own is None else "warning: "
        return f"{warning}Weights & Biases: {'; '.join(parts)}; `akdtune wandb sync {self._root}` uploads them"

    def _failed_loggers(self) -> Iterator[str]:
        """A line for each logger, other than Weights & Biases, that failed in the latest attempt of some trials."""
        failed: dict[str, dict[str, str]] = {}
        for directory in sorted((self._root / "trials").glob("*")):
            for name, why in read_trouble(directory).items():
                failed.setdefault(name, {})[directory.name] = why
        for name, trials in failed.items():
            if name != "wandb":
                yield f"warning: {name}: trials that are not logged whole: {named(trials)}"

    def _waits(self, directory: Path) -> bool:
        runs = read_record(directory)
        return bool(runs) and runs[-1].mode == "offline" and not runs[-1].is_uploaded(self._root)
