"""What the study's teachers say about judged images, where no trial left it: written by the driver.

Trials write it when they end. Those of earlier versions did not, and a damaged file is put aside.
"""

from __future__ import annotations

import torch

from akdtune import networks, progress
from akdtune.planning.identity import Identity
from akdtune.records.recorded import split_of
from akdtune.records.recorded_files import SplitName, teacher_logits_file, write_teacher_logits, write_teacher_tops
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.study_folder import writing
from akdtune.roles import REPORT_ROLES
from akdtune.running.recorder import top_classes
from akdtune.teacher.find import load_others, load_teacher
from akdtune.training.evaluation import EVALUATION_BATCH
from akdtune.training.likeliest import likeliest_of
from akdtune.training.task import task_of


def complete(directory: StudyDirectory, identity: Identity) -> None:
    """Writes the logits of the study's teachers on each split that a finished trial was judged by, and that lacks them.

    Raises:
        StudyError: when the directory cannot be written.
    """
    study = identity.study
    if study.teacher.absent or not study.record.teacher:
        return
    roles = {str(record.plan["role"]) for record in directory.records.values() if record.terminal == "done"}
    for split, role in sorted({split_of(role): role for role in roles}.items()):
        if not teacher_logits_file(directory.root, split).exists():
            with progress.stage(f"asking the teacher about the {split} images, which no trial has kept"):
                _write(directory, identity, split, role)


@torch.no_grad()
def _write(directory: StudyDirectory, identity: Identity, split: SplitName, role: str) -> None:
    prepared, cpu = identity.prepared, torch.device("cpu")
    splits = prepared.split(identity.study.report.train_on if role in REPORT_ROLES else "subset")
    images = splits.test if split == "test" else splits.validation
    assert images is not None, "trials were judged by them"
    file, inputs = identity.teacher_of(role), prepared.dataset.inputs
    teachers = (load_teacher(file, inputs, cpu), *load_others(file, inputs, cpu))
    path, about = teacher_logits_file(directory.root, split), (images.sample_ids_N.numpy(), images.labels_N.numpy())
    if task_of({"task": identity.study.task}).in_parts:
        tops = [top_classes(likeliest_of(network, images)) for network in teachers]
        with writing(directory.root):
            path.parent.mkdir(exist_ok=True)
            write_teacher_tops(path, *about, tops)
        return
    said = [networks.predict(network, images, EVALUATION_BATCH).float().numpy() for network in teachers]
    with writing(directory.root):
        path.parent.mkdir(exist_ok=True)
        write_teacher_logits(path, *about, said)
