"""A small study on digits, trained without Ray: as `akdtune run` leaves it, predictions and outcomes included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.prepared import Prepared
from akdtune.records import tables
from akdtune.records.ledger.events import StudyFinished
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.study_lock import this_driver
from akdtune.running.execution import Run
from akdtune.running.lock import lock_content
from akdtune.running.worker import execute
from akdtune.search.schedulers import ArmScheduler, pruners
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.training.request import TrialRequest
from akdtune.training.teachers import train_teachers

STUDY = """
study: trained
data: {name: digits, validation: 600, label_noise: {fraction: 0.2}}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1, batch_size: 32}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: angular, variant: constrained, warmup_epochs: 1, num_views: 2, margin: {uniform: [0.2, 0.6]}}
method: {name: kd, weight: {choice: [0.5, 1.0, 2.0]}}
training: {epochs: 3, batch_size: 64}
search: {algorithm: random, trials: 3}
scheduler: {name: asha, grace_period: 2, reduction_factor: 1.5}
tracking: {wandb: null}
"""


def trained_study(root: Path, folder: Path, more: str = "") -> Path:
    """Trains it; returns its directory.

    Args:
        root: where to.
        folder: for its settings file.
        more: lines of the settings file behind those of `STUDY`.
    """
    file = folder / "trained.yaml"
    file.write_text(STUDY + more)
    study = spec.load(file)
    prepared = Prepared.load(study)
    teacher = prepared.find_teacher()
    if teacher is None:
        list(train_teachers(study.teacher, prepared.dataset, "subset", torch.device("cpu")))
        teacher = prepared.find_teacher()
    assert teacher is not None
    identity, outline = Identity(study, prepared, teacher), Outline(study)
    directory = StudyDirectory(root)
    threads = torch.get_num_threads()
    with directory.opened():
        lock = lock_content(study, identity)
        directory.write_lock(lock)
        directory.add_to_plan(initial_rows(outline, identity))
        directory.append(replace(this_driver(), time=1.0))
        run = Run(outline, directory, identity, lock["uid"])
        scheduler = ArmScheduler(directory, pruners(study, run.brackets), study.epochs)
        while (record := run.next()) is not None:
            run.started(record)

            def report(result: dict[str, Any]) -> None:
                scheduler.on_trial_result(None, SimpleNamespace(trial_id="x"), result)  # type: ignore[arg-type]

            request = TrialRequest.parse(json.loads(run.payload(record, None)))
            run.outcome(record, execute(request, report, lambda: False))
        directory.append(StudyFinished(interrupted=False))
        tables.compact(root)
    torch.set_num_threads(threads)
    return root
