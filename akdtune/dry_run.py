"""What a study would do: arms, counts, rungs, missing files, and the time that a few real steps predict."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from akdtune.design import Prepared, probe_count, quotas, search_count, trial_count
from akdtune.space import Arm, Dimension

if TYPE_CHECKING:
    from akdtune.spec import Study
    from akdtune.teacher import TeacherFile

TIMED_STEPS = 8


def headline(study: Study) -> list[str]:
    """Arms, counts, epochs and rungs in a few lines."""
    epochs = study.epochs
    names = [arm.name for arm in study.arms]
    search, probes = search_count(study), probe_count(study)
    rungs = study.rungs
    pruning = f"ASHA decides after epoch {', '.join(map(str, rungs))}" if rungs else "no early stopping"
    return [
        f"{len(names)} arm{'s' * (len(names) > 1)}: {', '.join(names)}",
        f"{search} search trials ({study.search.algorithm}, {study.search.fair}; {pruning})"
        + (f" + {probes} probes (quasi-random, never pruned)" if probes else ""),
        f"{epochs} student epochs each, at most {epochs * (search + probes):,} in all",
    ]


@dataclass(frozen=True)
class ArmCost:
    """What one full-length trial of an arm costs, from a few timed steps on this machine.

    Attributes:
        warmup_s, student_s, evaluation_s: seconds of one trial, one thread.
        checkpoint_mib: size of its saved state.
    """

    warmup_s: float
    student_s: float
    evaluation_s: float
    checkpoint_mib: float

    @property
    def trial_s(self) -> float:
        """Seconds of a full-length trial."""
        return self.warmup_s + self.student_s + self.evaluation_s


def missing(study: Study) -> list[str]:
    """Data that is not there yet; downloads nothing."""
    from akdtune import data

    return data.missing_files(study.data)


def arm_cost(study: Study, arm: Arm, prepared: Prepared, teacher: TeacherFile | None) -> ArmCost:
    """Times a few real steps of one arm, with an untrained teacher where the trained one is missing."""
    import torch

    from akdtune import networks
    from akdtune import teacher as teachers
    from akdtune.training import Trial, TrialConfig

    torch.set_num_threads(1)
    config = TrialConfig.parse(
        {
            "settings": arm.random(0).settings,
            "seeds": {"init": 0, "order": 0, "noise": 0},
            "role": "probe",
            "teacher_file": asdict(teacher or teachers.TeacherFile.untrained(study.teacher)),
            "plugins": list(study.plugins),
        }
    )
    frozen = None
    if teacher is None:
        frozen = networks.build(study.teacher.network, prepared.dataset.inputs, 0).eval().requires_grad_(False)
    trial = Trial(config, frozen)
    times = trial.timed(TIMED_STEPS)
    steps = math.ceil(len(trial.train) / config.training.batch_size)
    state = trial.state("student", 1)
    tensors = [item for item in _leaves(state) if isinstance(item, torch.Tensor)]
    return ArmCost(
        warmup_s=times["warmup_step_s"] * steps * trial.views.warmup_epochs,
        student_s=times["student_step_s"] * steps * config.training.epochs,
        evaluation_s=times["epoch_end_s"] * config.training.epochs,
        checkpoint_mib=sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20,
    )


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for item in node.values():
            yield from _leaves(item)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _leaves(item)
    else:
        yield node


def surviving_share(study: Study) -> float:
    """Share of a full search's epochs that ASHA runs if each rung keeps 1 / reduction_factor of its arrivals."""
    epochs = study.epochs
    alive, before, run = 1.0, 0, 0.0
    for rung in [*study.rungs, epochs]:
        run += alive * (rung - before)
        alive, before = alive / study.scheduler.reduction_factor, rung
    return run / epochs


def plan_report(study: Study) -> list[str]:
    """What `akdtune plan` prints, as lines: arms, dimensions, counts, rungs, missing files, time and disk."""
    lines = [f"study {study.name} ({study.source})", *(f"  {line}" for line in headline(study)), ""]
    for arm in study.arms:
        lines.append(f"arm {arm.name}: {quotas(study).get(arm.name, 'pooled')} search trials, searches")
        lines += [f"    {_described(dimension)}" for dimension in arm.dimensions] or ["    nothing"]
    lines.append("")
    absent = missing(study)
    if absent:
        how = "will be downloaded" if study.data.download else "set data.download=true or put them there"
        lines += [f"missing data ({how}):", *(f"    {entry}" for entry in absent)]
        lines.append("no time estimate before the data is there")
    else:
        lines += _measured_lines(study)
    return lines + [f"warning: {warning}" for warning in study.warnings]


def _described(dimension: Dimension) -> str:
    """One searched setting: `views.margin  uniform [0.1, 0.6]`."""
    values = ", ".join(dimension.options) or f"{dimension.low:g}, {dimension.high:g}"
    step = f" step {dimension.step:g}" if dimension.step is not None and dimension.kind == "quantized_uniform" else ""
    when = f"  (where {dimension.when})" if dimension.when else ""
    return f"{dimension.path}  {dimension.kind} [{values}]{step}{when}"


def _measured_lines(study: Study) -> list[str]:
    """Teacher, resolved facts, and the estimate from timed steps."""
    prepared = Prepared.load(study)
    splits = prepared.dataset.split("subset")
    validation = len(splits.validation) if splits.validation else 0
    lines = [
        f"data {study.data.name}: {len(splits.train)} training, {validation} validation, {len(splits.test)} test images"
    ]
    teacher = prepared.find_teacher()
    if teacher is None:
        lines.append(f"teacher {study.teacher.network}: not trained yet, {study.teacher.epochs} epochs come first")
    else:
        accuracy = "unknown" if teacher.val_accuracy is None else f"{teacher.val_accuracy:.2f} %"
        lines.append(f"teacher {study.teacher.network}: {teacher.path} (validation {accuracy})")
        if teacher.saw_validation:
            lines.append(
                "    an imported teacher may have trained on our validation images: teacher, ensemble and diversity "
                "numbers there are left out (teacher.clean_validation=true declares that it has not)"
            )
    costs = {arm.name: arm_cost(study, arm, prepared, teacher) for arm in study.arms}
    for arm in study.arms:
        facts = prepared.facts(arm.random(0).settings)
        cost = costs[arm.name]
        known = f" ({', '.join(f'{key} = {value}' for key, value in facts.items())})" if facts else ""
        lines.append(
            f"a trial of {arm.name}: about {duration(cost.trial_s)} = warm-up {duration(cost.warmup_s)} + student "
            f"{duration(cost.student_s)} + evaluation {duration(cost.evaluation_s)}{known}"
        )
    lines += _totals(study, costs)
    return lines


def _totals(study: Study, costs: Mapping[str, ArmCost]) -> list[str]:
    mean_s = sum(cost.trial_s for cost in costs.values()) / len(costs)
    slots = study.resources.concurrent or slots_here(study)
    search_s, probe_s = mean_s * search_count(study) / slots, mean_s * probe_count(study) / slots
    share = surviving_share(study)
    trials = trial_count(study)
    kept = trials * max(cost.checkpoint_mib for cost in costs.values())
    most, likely = duration(search_s + probe_s), duration(search_s * share + probe_s)
    return [
        f"time with {slots} trial{'s' * (slots > 1)} at once: at most {most}, with early stopping about {likely} "
        f"({TIMED_STEPS} timed steps an arm on this machine, one thread)",
        f"disk: at most {kept:,.1f} MiB of checkpoints, {trials} trial directories",
    ]


def slots_here(study: Study) -> int:
    """Trials that run at once on this machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    by_cpu = int(cpus / study.resources.cpu) if study.resources.cpu else cpus
    if not study.resources.gpu:
        return max(1, by_cpu)
    import torch

    return max(1, min(by_cpu, int(torch.cuda.device_count() / study.resources.gpu)))


def duration(seconds: float) -> str:
    """A duration in the unit a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
