"""Study directories by their names."""

from __future__ import annotations

import contextlib
from pathlib import Path

from akdtune.errors import StudyError, nearest
from akdtune.records.files import require_study

RUNS = Path("runs")
"""Where studies land unless they are told where."""


def resolve_run(name: str) -> Path:
    """A study directory by its path, or by its name under `runs/`.

    Raises:
        StudyError: when neither is a study directory; names the nearest one.
    """
    try:
        given = Path(name).expanduser()
        folders = [path for path in (given, RUNS / name) if path.is_dir()]
    except (OSError, ValueError, RuntimeError) as error:  # names that no folder has: too long, of no user
        raise StudyError(f"{name}: no such study directory: {error}") from None
    for path in folders[:-1]:  # a folder that only has the same name as a study hides none
        with contextlib.suppress(StudyError):
            return require_study(path)
    if folders:
        return require_study(folders[-1])
    known = [path.name for path in sorted(RUNS.iterdir()) if path.is_dir()] if RUNS.is_dir() else []
    close = nearest(given.name, known)
    hint = f"; did you mean '{RUNS / close}'?" if close else f"; studies in {RUNS}/: {', '.join(known) or 'none'}"
    raise StudyError(f"{name}: no such study directory{hint}")
