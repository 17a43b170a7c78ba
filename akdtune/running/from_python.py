"""A study run from Python: it ends with its results or with an error."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from akdtune import progress
from akdtune.errors import StudyError
from akdtune.records.run_names import RUNS
from akdtune.reports.results import Results
from akdtune.running.interruption import INTERRUPTED
from akdtune.study.from_python import as_study
from akdtune.study.spec import Study

FAILED_SHOWN = 4


def run(
    study: Study | str | Path,
    root: str | Path | None = None,
    *,
    extend: bool = False,
    reuse: Sequence[str | Path] = (),
    address: str | None = None,
) -> Results:
    """Runs a study, or resumes it: the same call again goes on where it stopped. Prints how far it is.

    Args:
        study: as `read` gives it, or its name.
        root: the study directory; default: `runs/` and the study's name.
        extend: whether trials, seeds and cells may be added to a study that has begun.
        reuse: directories of studies whose finished trials are taken over where they are the same.
        address: a running Ray cluster to join; default: Ray is started here and ended again.

    Returns:
        The finished study's results.

    Raises:
        AkdtuneError: for anything the user can mend; a `StudyError` when trials failed, whose results `load` gives.
        KeyboardInterrupt: when it was interrupted; nothing is lost.
    """
    asked = as_study(study)
    directory = Path(root if root is not None else RUNS / asked.name).expanduser()
    code = _driven(asked, directory, address, extend, [Path(other) for other in reuse])
    if code == INTERRUPTED:
        raise KeyboardInterrupt(f"{directory}: stopped; the same call goes on")
    results = Results(directory)
    if code != 0:
        raise StudyError(_left(results))
    return results


def _driven(study: Study, root: Path, address: str | None, extend: bool, reuse: Sequence[Path]) -> int:
    """The driver's exit code."""
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # in a notebook it asks for widgets
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # so does tqdm
        from akdtune.running import driver  # late: Ray, whose first import asks notebooks for widgets
    progress.said()
    return driver.run(study, root, address, _console(), extend=extend, reuse=reuse)


def _console() -> Console:
    """Where progress is shown: in a notebook as lines of text, where Rich would make HTML and a new table each time."""
    console = Console(markup=False)
    if not console.is_jupyter:
        return console
    return Console(file=sys.stdout, markup=False, force_jupyter=False, force_terminal=False)  # progress there as well


def _left(results: Results) -> str:
    """Which trials met something outside and wait, or else failed, and what to do about it."""
    rows = results.trials.select(["trial_id", "status", "stop_reason"]).to_pylist()
    waiting = [row for row in rows if row["status"] == "interrupted" and row["stop_reason"]]
    if waiting:
        return (
            f"{results.directory}: {len(waiting)} of {len(rows)} trials wait, e.g. {waiting[0]['trial_id']} "
            f"({waiting[0]['stop_reason']}); once that is mended the same call goes on, nothing is lost"
        )
    failed = [row for row in rows if row["status"] == "failed"]
    listed = [f"{row['trial_id']} ({row['stop_reason'] or 'no reason given'})" for row in failed[:FAILED_SHOWN]]
    more = f" and {len(failed) - FAILED_SHOWN} more" if len(failed) > FAILED_SHOWN else ""
    return (
        f"{results.directory}: {len(failed)} of {len(rows)} trials failed: {', '.join(listed)}{more}; "
        f"`akdtune logs {results.directory} TRIAL` shows why, `akdtune retry {results.directory}` tries them again, "
        f"akdtune.load('{results.directory}') holds the others"
    )
