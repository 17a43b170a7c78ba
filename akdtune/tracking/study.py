"""What a study's driver does about Weights & Biases: decides once how runs are written, says in the end what is left.

Begins to ask the server while the study prepares itself, so that nobody waits for the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError
from akdtune.reports.text import counted
from akdtune.tracking.child import Probe
from akdtune.tracking.missing import missing_runs, write_missing
from akdtune.tracking.mode import Decision, decide, read_decision, write_decision
from akdtune.tracking.record import read_record
from akdtune.tracking.sync import named

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
    """One run of a study, seen by Weights & Biases.

    Args:
        settings: the tracking section.
        root: the study directory.
    """

    def __init__(self, settings: Mapping[str, Any], root: Path) -> None:
        self._settings = settings
        self._root = root
        self._decision = decide(settings)
        self._probe: Probe | None = None
        self._settled = False
        if self._decision.mode == "online":
            with contextlib.suppress(OSError):  # no process, no answer
                self._probe = Probe()

    def settle(self, given_up: Callable[[], bool] = lambda: False) -> str | None:
        """Decides, and writes the decision down; a line for the user where runs cannot be online.

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
        if self._decision.mode != "disabled" or read_decision(self._root) is not None:
            write_decision(self._root, self._decision, self._settings.get("wandb"))
        return None if refusal is None else f"Weights & Biases: {refusal}; runs are written offline"

    def _refusal(self, given_up: Callable[[], bool]) -> str | None:
        return "no process could be started to ask the server" if self._probe is None else self._probe.refusal(given_up)

    @property
    def for_trials(self) -> dict[str, Any]:
        """The section as trials get it, the mode decided."""
        own = self._settings.get("wandb")
        return {**self._settings, "wandb": {**own, "mode": self._decision.mode} if own else None}

    def end(self) -> None:
        """Asks no longer."""
        if self._probe is not None:
            self._probe.end()

    def closing(self) -> str | None:
        """Makes the runs that trials could not write, and says what is not on the server; None: nothing."""
        if self._decision.mode == "disabled":
            return None
        try:
            left = write_missing(self._root, missing_runs(self._root, others_write=False), CLOSING_S)
        except (AkdtuneError, OSError) as error:  # the study itself is done
            return f"warning: Weights & Biases: runs that are missing could not be written: {error}"
        waiting = sum(self._waits(directory) for directory in (self._root / "trials").glob("*"))
        if not waiting and not left:
            return None
        known = read_decision(self._root)
        decision = self._decision if known is None else known[0]
        why = f": {decision.why}" if decision.mode == "offline" else ""
        are = "is" if waiting == 1 else "are"
        parts = [f"{counted(waiting, 'run')} {are} on this disk alone{why}"] if waiting else []
        parts += [f"trials without a run: {named(left)}"] if left else []
        warning = "" if decision.asked and not left else "warning: "
        return f"{warning}Weights & Biases: {'; '.join(parts)}; `akdtune wandb sync {self._root}` uploads them"

    def _waits(self, directory: Path) -> bool:
        runs = read_record(directory)
        return bool(runs) and runs[-1].mode == "offline" and not runs[-1].is_uploaded(self._root)
