"""The ids that configurations have as trials, and the rows of the plan that a study begins with."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.designs.cells import CellPlan
from akdtune.errors import CheckpointError
from akdtune.networks import Network
from akdtune.planning.equal_cells import MeasuredPlan, measured_plan
from akdtune.planning.measured_targets import IMAGES, of_cells
from akdtune.planning.prepared import Prepared
from akdtune.registry import lookup, network_name, typed
from akdtune.roles import REPORT_ROLES
from akdtune.settings.checkpoint import CheckpointFile, checkpoint_file
from akdtune.settings.space import Proposal
from akdtune.settings.teacher import teacher_compute
from akdtune.study import search_rules
from akdtune.study.ids import cell_hash
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile


def student_hashes(study: Study) -> dict[str, str]:
    """Hashes of the files that students begin with, by path."""
    corners = study.configurations
    files = {checkpoint_file(file).label: corner for corner in corners if (file := corner["student"].get("checkpoint"))}
    return {label: _student_hash(corner) for label, corner in sorted(files.items())}


def _student_hash(settings: Mapping[str, Any]) -> str:
    """Hash of the file that a trial's student begins with, and of what its network brings; empty without any."""
    network = settings["student"]["network"]
    own: str = lookup("networks", network_name(network)).brought(typed("networks", network))
    if settings["student"].get("checkpoint") is None:
        return own
    file = checkpoint_file(settings["student"]["checkpoint"])
    try:
        return own + file_hash(file)
    except OSError as error:
        raise CheckpointError(f"{file.path}: {error.strerror or error} (student.checkpoint)") from error


def file_hash(file: CheckpointFile) -> str:
    """What a lock holds of a file that students begin with."""
    facts = Path(file.path).stat()
    of_file = _file_hash(file.path, facts.st_size, facts.st_mtime_ns)
    if file.key is None and file.strip is None:
        return of_file
    return hashlib.sha256(json.dumps([of_file, file.key, file.strip]).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=64)
def _file_hash(path: str, size: int, changed_ns: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Identity:
    """Gives trials their ids: a hash of everything that determines the result, and the seed.

    Attributes:
        teacher: of the study's first trials.
        report_teacher: of trials that read the test set, trained on all that they train on; None: the same.
    """

    study: Study
    prepared: Prepared
    teacher: TeacherFile
    report_teacher: TeacherFile | None = None

    def teacher_of(self, role: str) -> TeacherFile:
        """The teacher of trials of this role."""
        return self.report_teacher if self.report_teacher is not None and role in REPORT_ROLES else self.teacher

    def cell_id(self, settings: Mapping[str, Any], role: str = "search") -> str:
        """Hash of the settings that determine a trial's numbers, without its seed and without any path."""
        cache = self.study.teacher_cache
        return cell_hash(
            settings,
            self.prepared.data_hash,
            self.teacher_of(role).identity,
            _student_hash(settings),
            "" if cache is None else cache.dtype,
            self.study.report.train_on if role in REPORT_ROLES else "",
            teacher_compute(cache, settings["training"]),
        )

    def measured(self, plan: CellPlan, teachers: Sequence[Network] = ()) -> MeasuredPlan:
        """The cells without those whose targets are another's, and by what views multiply the gradients of the loss.

        Args:
            plan: cells with filled-in settings.
            teachers: the networks of the reports' teacher on the CPU, where they are loaded already.
        """
        dataset, train_on = self.prepared.dataset, self.prepared.train_on
        taught = of_cells(plan.cells, dataset, train_on, self.teacher_of("ablation"), teachers)
        return measured_plan(plan, taught, min(IMAGES, len(dataset.split(train_on).train)))

    def search_trial(self, proposal: Proposal) -> str:
        """The id a proposal has as a search trial."""
        return f"{self.cell_id(proposal.settings)}-s{self.study.search.training_seeds[0]}"

    def plan_row(
        self, proposal: Proposal, role: str, bracket: str, number: int | None, seed: int | None = None
    ) -> dict[str, Any]:
        """The row of plan.parquet for one trial."""
        cell = self.cell_id(proposal.settings, role)
        seed = self.study.search.training_seeds[0] if seed is None else seed
        return {
            "trial_id": f"{cell}-s{seed}",
            "cell_id": cell,
            "seed": seed,
            "role": role,
            "arm": proposal.arm,
            "bracket": bracket,
            "proposal": number,
            "params": proposal.params,
            "settings": proposal.settings,
            "raw": proposal.raw,
            "cell": None,
        }


def initial_rows(outline: Outline, identity: Identity) -> list[dict[str, Any]]:
    """What is planned at the start: a search that does not learn (its first seeds, where they lead), and the probes."""
    study = outline.study
    rows = [
        identity.plan_row(proposal, "search", name, None, seed)
        for seed in study.search.training_seeds[: _seeds_at_once(study)]
        for name, proposal in outline.proposals
    ]
    if study.probe is not None:
        rows += [
            identity.plan_row(proposal, "probe", proposal.arm, None, seed)
            for seed in study.probe.seeds
            for proposal in outline.probes
        ]
    return list({row["trial_id"]: row for row in reversed(rows)}.values())[::-1]


def _seeds_at_once(study: Study) -> int:
    """How many seeds of each configuration are planned at the start: the others follow from how those end."""
    if search_rules.first_seed_leads(study.search, study.scheduler):
        return 1
    return study.scheduler.min_seeds if study.scheduler.name == "racing" else len(study.search.training_seeds)
