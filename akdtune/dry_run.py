"""What `akdtune plan` says: arms, counts, rungs, missing files, and the time that a few real steps predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from akdtune import search_rules
from akdtune import teacher as teachers
from akdtune.cell_report import cell_lines, counts, factor_lines
from akdtune.plan_cost import (
    TIMED_STEPS,
    ArmCost,
    _timed_configurations,
    arm_cost,
    lacking_resources,
    missing,
    missing_checkpoints,
    slots_here,
    surviving_share,
    teacher_seconds,
    untrained_teachers,
)
from akdtune.prepared import Prepared, missing_students, network_label
from akdtune.proposals import probe_count, quotas, search_count, trains_on, trial_count
from akdtune.registry import lookup
from akdtune.reports import counted, duration
from akdtune.space import Dimension
from akdtune.spec import Study
from akdtune.teacher import TeacherFile
from akdtune.teacher_rows import Caching, PlaceMatters, TeacherRows, live_reason


def headline(study: Study) -> list[str]:
    """Arms, counts, epochs and rungs in a few lines."""
    epochs = study.epochs
    names = [arm.name for arm in study.arms]
    search, probes = search_count(study), probe_count(study)
    if not search + probes:
        return [*counts(study), f"{epochs} student epochs each"]
    pruning = search_rules.stopping(study.scheduler, study.rungs)
    seeds = len(study.search.training_seeds)
    repeated = f"{counted(search // seeds, 'configuration')} x {seeds} seeds, " if seeds > 1 else ""
    return [
        f"{counted(len(names), 'arm')}: {', '.join(names)}",
        f"{counted(search, 'search trial')} ({repeated}{study.search.algorithm}, {study.search.fair}; {pruning})"
        + (f" + {counted(probes, 'probe')} (quasi-random, never pruned)" if probes else ""),
        *counts(study),
        f"{epochs} student epochs each, at most {epochs * trial_count(study):,} in all",
        *search_rules.further_lines(study.search, study.scheduler),
    ]


def plan_report(study: Study) -> list[str]:
    """What `akdtune plan` prints, as lines: arms, dimensions, counts, rungs, missing files, time and disk."""
    lines = [f"study {study.name} ({study.source})", *(f"  {line}" for line in headline(study)), ""]
    per_arm = quotas(study)
    for arm in study.arms if study.search.searches or probe_count(study) else ():
        seeds = len(study.search.training_seeds)
        share = f"{counted(per_arm[arm.name] * seeds, 'search trial')}, " if arm.name in per_arm else ""
        lines.append(f"arm {arm.name}: {share}{'searches' if arm.dimensions else 'nothing to search'}")
        lines += [f"    {_described(dimension)}" for dimension in arm.dimensions]
    lines += [*cell_lines(study), ""]
    absent, checkpoints = missing(study), missing_checkpoints(study)
    lines += [f"missing checkpoint: {path} ({key})" for key, path in checkpoints.items()]
    students = missing_students(study)
    lines += [f"missing checkpoint: {path} (student.checkpoint)" for path in students]
    if absent:
        found_by = "put there, or fetched with data.download=true" if _downloadable(study) else "put there"
        how = "`akdtune run` downloads it" if study.data.download else f"has to be {found_by}"
        lines += [f"missing data ({how}):", *(f"    {entry.removesuffix(' (will be downloaded)')}" for entry in absent)]
        lines.append("no time estimate before the data is there")
    elif students:
        lines.append("no time estimate before the students' checkpoints are there")
    else:
        lines += _measured_lines(study, not checkpoints)
    lines += [f"on this machine `akdtune run` is refused: {sentence}" for sentence in lacking_resources(study)]
    return lines + [f"warning: {warning}" for warning in study.warnings]


def _downloadable(study: Study) -> bool:
    return "download" in lookup("data", study.data.name).own_settings


def _described(dimension: Dimension) -> str:
    """One searched setting: `views.margin  uniform [0.1, 0.6]`."""
    values = ", ".join(dimension.options) or f"{dimension.low:g}, {dimension.high:g}"
    step = f" step {dimension.step:g}" if dimension.step is not None and dimension.kind == "quantized_uniform" else ""
    when = f"  (where {dimension.when})" if dimension.when else ""
    return f"{dimension.path}  {dimension.kind} [{values}]{step}{when}"


def _measured_lines(study: Study, with_teacher: bool) -> list[str]:
    """Teacher, resolved facts, and the estimate from timed steps; of a teacher that is not there with another's."""
    prepared = Prepared.load(study)
    splits = prepared.dataset.split(prepared.train_on)
    validation = len(splits.validation) if splits.validation else 0
    lines = [
        f"data {study.data.name}: {len(splits.train)} training, {validation} validation, {len(splits.test)} test images"
    ]
    teacher = prepared.find_teacher() if with_teacher else None
    if with_teacher:
        lines += _teacher_lines(study, prepared, teacher)
        if "full" in trains_on(study):
            lines += factor_lines(study, prepared, prepared.find_teacher("full"))
    timed = _timed_configurations(study)
    costs = {name: arm_cost(study, settings, prepared, teacher) for name, settings in timed.items()}
    for name, settings in timed.items():
        facts = prepared.facts(settings)
        cost = costs[name]
        known = f" ({', '.join(f'{key} = {value}' for key, value in facts.items())})" if facts else ""
        lines.append(
            f"a trial of {name}: about {duration(cost.trial_s)} = warm-up {duration(cost.warmup_s)} + student "
            f"{duration(cost.student_s)} + evaluation {duration(cost.evaluation_s)}{known}"
        )
    if not study.teacher.absent:
        lines += cache_lines(study, prepared, teacher)
    lines += _totals(study, costs)
    return lines


def _teacher_lines(study: Study, prepared: Prepared, teacher: TeacherFile | None) -> list[str]:
    """Where the teachers are, or which ones a run trains first, in order."""
    if study.teacher.absent:
        return ["no teacher: students learn from the labels and from themselves"]
    if teacher is None:
        lines = []
        for path, one in untrained_teachers(study, prepared).items():
            which = path
            sources = ", ".join(network_label(source.network) for source in one.distilled_from)
            distilled = f", distilled from {sources}" if sources else ""
            lines.append(
                f"{which} {network_label(one.network)}: not trained yet, {counted(one.epochs, 'epoch')} come"
                f"{'s' * (one.epochs == 1)} first{distilled}: about {duration(teacher_seconds(one, prepared))}"
            )
        return lines
    lines = []
    for index, file in enumerate((teacher, *teacher.others), start=-1):
        which = "teacher" if index < 0 else f"teacher.others[{index}]"
        accuracy = "unknown" if file.val_accuracy is None else f"{file.val_accuracy:.2f} %"
        lines.append(f"{which} {network_label(file.network)}: {file.path} (validation accuracy {accuracy})")
    if teacher.saw_validation and study.teacher.checkpoint != "auto":
        lines.append(
            "    an imported teacher may have trained on our validation images: teacher, ensemble and diversity "
            "numbers there are left out (teacher.clean_validation=true declares that it has not)"
        )
    return lines


def cache_lines(study: Study, prepared: Prepared, teacher: TeacherFile | None) -> list[str]:
    """A line for each arm: whether the teacher is computed once per image and crop, or live, and why."""
    cache = study.teacher_cache
    everywhere = "teacher_cache is null" if cache is None else live_reason(prepared.dataset)
    described = "" if everywhere else _cache_described(study, prepared, teacher)
    lines = []
    for name, settings in _timed_configurations(study).items():
        live = everywhere or _needs_maps(study, settings)
        lines.append(f"the teacher of {name}: {f'runs live: {live}' if live else f'is cached{described}'}")
    return lines


def _needs_maps(study: Study, settings: Mapping[str, Any]) -> str | None:
    """Which methods of a configuration make the main teacher run live."""
    methods = [term["name"] for term in settings["method"]]
    needy = [name for name in methods if lookup("methods", name).needs_maps()]
    if not needy:
        return None
    besides = "; further teachers are cached" if study.teacher.others else ""
    return f"{' and '.join(needy)} need{'s' * (len(needy) == 1)} its maps{besides}"


def _cache_described(study: Study, prepared: Prepared, teacher: TeacherFile | None) -> str:
    """Images, crops, size, and how much is there: `: 900 images x 9 crops, at most 1 MiB in fp16, 3.1 % filled`."""
    cache, dataset = study.teacher_cache, prepared.dataset
    assert cache is not None
    split = dataset.split(prepared.train_on).train
    about = f": {split.stored:,} images x {dataset.augmentation.variants} crops"
    if teacher is None:
        return f"{about}, nothing stored yet"
    device = torch.device("cpu")
    files = (teachers.load(teacher, dataset.inputs, device), *teachers.load_others(teacher, dataset.inputs, device))
    caching = Caching(cache, dataset.images_key, dataset.name)
    try:
        rows = [TeacherRows(network, split, dataset.augmentation, caching) for network in files]
    except PlaceMatters as error:
        return f" where exact, which '{error}' is not: it runs live"
    counts = [one.rates() for one in rows]
    share = sum(count["filled"] for count in counts) / sum(count["rows"] for count in counts)
    size = sum(one.store.shape.rows * one.store.shape.record for one in rows) / 2**20
    bound = "" if cache.max_mib is None else f" (bound for all studies: {cache.max_mib:,} MiB)"
    return f"{about}, at most {size:,.0f} MiB in {cache.dtype}{bound}, {100 * share:.1f} % filled here"


def _totals(study: Study, costs: Mapping[str, ArmCost]) -> list[str]:
    mean_s = sum(cost.trial_s for cost in costs.values()) / len(costs)
    trials = trial_count(study)
    slots = min(study.resources.concurrent or slots_here(study), trials)
    search_s, probe_s = mean_s * search_count(study) / slots, mean_s * (trials - search_count(study)) / slots
    share = surviving_share(study)
    kept = trials * max(cost.checkpoint_mib for cost in costs.values())
    most, likely = duration(search_s + probe_s), duration(search_s * share + probe_s)
    stopped = f", with early stopping about {likely}" if study.rungs else ""
    return [
        f"time with {counted(slots, 'trial')} at once: at most {most}{stopped} "
        f"({TIMED_STEPS} timed steps an arm on this machine, one thread)",
        f"disk: at most {kept:,.1f} MiB of checkpoints in {trials} trial director{'y' if trials == 1 else 'ies'}",
    ]
