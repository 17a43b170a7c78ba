"""A study directory that is only looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.errors import StudyError
from akdtune.records import files
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.study_folder import refuse_other_folders


class StudyInMemory(StudyDirectory):
    """A study directory that is only looked at: whatever would be written is held in memory, and the files stay.

    Attributes:
        designs: sections of design.json that would be written.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.designs: dict[str, Any] = {}

    def refuse_other_folders(self) -> None:
        """Refuses a folder in which no study could begin or go on.

        Raises:
            StudyError: saying what it is.
        """
        refuse_other_folders(self.root)

    def read_design(self) -> dict[str, Any]:
        """What design.json holds or would hold; nothing where it is damaged."""
        with contextlib.suppress(StudyError):
            return {**files.read_design(self.root), **self.designs}
        return dict(self.designs)

    def write_design(self, section: str, content: Mapping[str, Any]) -> None:
        """Notes what would be written."""
        self.designs[section] = content

    def finish(self, ended: TrialEnded) -> bool:
        """Notes how a trial ended; compacts nothing."""
        if self.records[ended.trial_id].terminal is not None:
            return False
        self.append(ended)
        return True

    def put_aside(self, path: Path) -> None:
        """Leaves a damaged file where it is."""

    def _cut_torn_line(self) -> None:
        pass

    def _write_planned(self, plans: Sequence[dict[str, Any]]) -> None:
        pass

    def _write_plan_file(self, anew: bool = True) -> None:
        pass

    def _write_lines(self, lines: Sequence[str], durable: bool = False) -> None:
        pass
