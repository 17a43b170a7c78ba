"""Everybody who is asked, out of studies and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune import progress
from akdtune.data.dataset import load_data
from akdtune.detection.from_files import Base, Given, add_files, base_of_file, base_of_lock
from akdtune.detection.from_runs import add_run, plugged_lock, same_images
from akdtune.detection.lineup import CPU, Lineup
from akdtune.errors import AkdtuneError


def gather(runs: Sequence[Path], given: Given, settings: str | None = None) -> Lineup:
    """Reads the candidates, and which students there are.

    Args:
        runs: study directories.
        given: what the command line names besides.
        settings: a settings file or packaged study that says which images and networks; None: the first study does.

    Raises:
        AkdtuneError: for studies of different images, fewer than two candidates, no student.
        CheckpointError: for weights that are missing or do not fit.
    """
    with progress.stage("reading studies and checkpoints"):
        locks = {run: plugged_lock(run) for run in dict.fromkeys(runs)}
        base = _base(locks, settings)
        lineup = Lineup(load_data(base.data, CPU))
        for run, lock in locks.items():
            same_images(run, lock, base.source, base.data, lineup.dataset.content_hash)
            add_run(lineup, run, lock)
        add_files(lineup, given, base)
    lineup.check()
    return lineup


def _base(locks: Mapping[Path, Mapping[str, Any]], settings: str | None) -> Base:
    if settings is not None:
        return base_of_file(settings)
    if locks:
        return base_of_lock(*next(iter(locks.items())))
    raise AkdtuneError(
        "give the directories of studies, or --settings FILE with --teacher and --student: something must say which "
        "images and which networks these are"
    )
