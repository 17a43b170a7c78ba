"""What `akdtune plan` says: arms, counts, rungs, missing files, and the time that a few real steps predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from akdtune.planning.cell_lines import cell_lines, counts, factor_lines
from akdtune.planning.checkpoint_files import reading_lines
from akdtune.planning.cost import TIMED_STEPS, ArmCost, CacheUse, UntrainedTeacher
from akdtune.planning.kept import KeptSize
from akdtune.planning.plan import Configuration, Plan, StudyEstimate, Total
from akdtune.planning.prepared import network_label
from akdtune.registry import lookup
from akdtune.reports.text import counted, duration
from akdtune.settings.domains import label
from akdtune.settings.space import Dimension
from akdtune.study import search_rules
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile


def headline(outline: Outline) -> list[str]:
    """Arms, counts, epochs and rungs in a few lines."""
    study, epochs = outline.study, outline.study.epochs
    names = [arm.name for arm in study.arms]
    search, probes = outline.search_trials, outline.probe_trials
    if not search + probes:
        return [*counts(outline), f"{epochs} student epochs each"]
    pruning = search_rules.stopping(study.scheduler, study.rungs)
    seeds = len(study.search.training_seeds)
    repeated = f"{counted(outline.configurations, 'configuration')} x {seeds} seeds, " if seeds > 1 else ""
    return [
        f"{counted(len(names), 'arm')}: {', '.join(names)}",
        f"{counted(search, 'search trial')} ({repeated}{study.search.algorithm}, {study.search.fair}; {pruning})"
        + (f" + {counted(probes, 'probe')} (quasi-random, never pruned)" if probes else ""),
        *counts(outline),
        f"{epochs} student epochs each, at most {epochs * outline.trials:,} in all",
        *search_rules.further_lines(study.search, study.scheduler, outline.enqueued),
    ]


def opening(outline: Outline, root: Path, state: str) -> str:
    """What a run of a study in a directory opens with."""
    study = outline.study
    lines = [f"study {study.name} in {root} ({state})", *(f"  {line}" for line in headline(outline))]
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in study.warnings)])


def plan_report(plan: Plan) -> list[str]:
    """Everything that `akdtune plan` prints, as lines."""
    return [*outline_lines(plan), *data_lines(plan), *time_lines(plan)]


def outline_lines(plan: Plan) -> list[str]:
    """What is known before data is read: arms, dimensions, counts, rungs, cells, and what is missing here."""
    study, outline = plan.study, replace(plan.outline, measured=None) if plan.outline.measured else plan.outline
    lines = [f"study {study.name} ({study.source})", *(f"  {line}" for line in headline(outline)), ""]
    for arm in plan.arms if study.search.searches or outline.probe_trials else ():
        share = "" if arm.trials is None else f"{counted(arm.trials, 'search trial')}, "
        lines.append(f"arm {arm.name}: {share}{'searches' if arm.dimensions else 'nothing to search'}")
        lines += [f"    {_described(dimension)}" for dimension in arm.dimensions]
    lines += [*cell_lines(outline), "", *_missing_lines(plan)]
    return lines + [f"warning: {warning}" for warning in study.warnings]


def data_lines(plan: Plan) -> list[str]:
    """What data and teachers say: images, teachers, cells that are one, where teachers run; none without data."""
    if plan.estimate is None:
        return []
    notes = plan.estimate.prepared.dataset.notes
    return [*_estimate_lines(plan.outline, plan.estimate), *(f"warning: {note}" for note in notes)]


def time_lines(plan: Plan) -> list[str]:
    """What a trial of each arm costs, and all of them; none without data."""
    if plan.estimate is None:
        return []
    return list(_time_lines(plan.outline, plan.estimate))


def _missing_lines(plan: Plan) -> Iterator[str]:
    """Files and resources that are not there, all of them, and whether that is why nothing is timed."""
    for key, path in plan.missing_checkpoints.items():
        yield f"missing checkpoint: {path} ({key})"
    for path in plan.missing_students:
        yield f"missing checkpoint: {path} (student.checkpoint)"
    if plan.missing_data:
        study = plan.study
        downloadable = "download" in lookup("data", study.data.name).own_settings
        found_by = "put there, or fetched with data.download=true" if downloadable else "put there"
        how = "`akdtune run` downloads it" if study.data.download else f"has to be {found_by}"
        yield f"missing data ({how}):"
        for entry in plan.missing_data:
            yield f"    {entry.removesuffix(' (will be downloaded)')}"
    for sentence in plan.lacking:
        yield f"on this machine `akdtune run` is refused: {sentence}"
    if plan.missing_data:
        yield "no time estimate before the data is there"
    elif plan.missing_students:
        yield "no time estimate before the students' checkpoints are there"


def _described(dimension: Dimension) -> str:
    """One searched setting: `views.margin  uniform [0.1, 0.6]`."""
    values = ", ".join(dimension.options) or f"{dimension.low:g}, {dimension.high:g}"
    step = f" step {dimension.step:g}" if dimension.step is not None and dimension.kind == "quantized_uniform" else ""
    when = f"  (where {dimension.when})" if dimension.when else ""
    return f"{dimension.path}  {dimension.kind} [{values}]{step}{when}"


def _estimate_lines(outline: Outline, estimate: StudyEstimate) -> Iterator[str]:
    """Images, teachers, what the ablation's cells are taught, and where teachers run."""
    study, images = outline.study, estimate.images
    called = type(estimate.prepared.dataset).called
    judged = f"{images.training} training, {images.validation} validation, {images.test} test {called}"
    yield f"data {study.data.name}: {judged}"
    yield from filter(None, (estimate.prepared.dataset.in_words, estimate.prepared.dataset.classes_in_words))
    if study.teacher.absent:
        clients = lookup("tasks", study.task["name"]).has_clients
        yield "no teacher: " + (
            "the clients teach" if clients else "students learn from the labels and from themselves"
        )
    elif estimate.teacher is not None:
        yield from _found_lines(study, estimate.teacher)
    for path, untrained in estimate.untrained.items():
        yield _untrained_line(path, untrained)
    for line in reading_lines(estimate.teachers.values(), estimate.prepared.notes):
        yield f"    {line}"
    yield from _measured_lines(outline)
    yield from factor_lines(outline.cell_plan, estimate.gradient_factors)
    if not study.teacher.absent:
        described = _cache_described(study, estimate.cache)
        for name, configuration in estimate.configurations.items():
            live = configuration.live
            yield f"the teacher of {name}: {f'runs live: {live}' if live else f'is cached{described}'}"


def _measured_lines(outline: Outline) -> Iterator[str]:
    """Cells that were found to be taught the same as another one, and how many trials are left."""
    known = outline.study.cell_plan
    if outline.measured is None or known is None:
        return
    before = {*known.notes, *(line for cell in known.cells for line in cell.merged)}
    merged = [*outline.measured.notes, *(line for cell in outline.measured.cells for line in cell.merged)]
    yield from dict.fromkeys(line for line in merged if line not in before)
    if len(outline.measured.cells) < len(known.cells):
        yield from (line for line in counts(outline) if "ablation trials" in line)


def _time_lines(outline: Outline, estimate: StudyEstimate) -> Iterator[str]:
    """Teachers that are trained first, a trial of each arm, and all of them."""
    for path, untrained in estimate.untrained.items():
        if untrained.train_s is not None:
            yield f"{path} {network_label(untrained.settings.network)}: about {duration(untrained.train_s)} to train"
    for name, configuration in estimate.configurations.items():
        yield _cost_line(name, configuration)
    if estimate.total is not None:
        costs = [configuration.cost for configuration in estimate.configurations.values()]
        yield from _total_lines(outline, estimate.total, [cost for cost in costs if cost is not None])


def _untrained_line(path: str, untrained: UntrainedTeacher) -> str:
    """A teacher that a run trains first."""
    settings = untrained.settings
    sources = ", ".join(network_label(source.network) for source in settings.distilled_from)
    distilled = f", distilled from {sources}" if sources else ""
    seen = "" if settings.augmentation is None else f", augmentation {label(settings.augmentation.short())}"
    return (
        f"{path} {network_label(settings.network)}{seen}: not trained yet, {counted(settings.epochs, 'epoch')} come"
        f"{'s' * (settings.epochs == 1)} first{distilled}"
    )


def _found_lines(study: Study, teacher: TeacherFile) -> Iterator[str]:
    """Where the teachers of the study's first trials are."""
    for index, file in enumerate((teacher, *teacher.others), start=-1):
        which = "teacher" if index < 0 else f"teacher.others[{index}]"
        accuracy = "unknown" if file.val_accuracy is None else f"{file.val_accuracy:.2f} %"
        yield f"{which} {network_label(file.network)}: {file.path} (validation accuracy {accuracy})"
    if teacher.saw_validation and study.teacher.checkpoint != "auto":
        yield (
            "    an imported teacher may have trained on our validation images: teacher, ensemble and diversity "
            "numbers there are left out (teacher.clean_validation=true declares that it has not)"
        )


def _cost_line(name: str, configuration: Configuration) -> str:
    """What a trial takes, and what follows from the data where the settings leave it open."""
    facts, cost = configuration.facts, configuration.cost
    known = f" ({', '.join(f'{key} = {value}' for key, value in facts.items())})" if facts else ""
    if cost is None:
        return f"a trial of {name}: not timed{known}"
    return (
        f"a trial of {name}: about {duration(cost.trial_s)} = warm-up {duration(cost.warmup_s)} + student "
        f"{duration(cost.student_s)} + evaluation {duration(cost.evaluation_s)}{_not_timed(cost)}{known}"
    )


def _not_timed(cost: ArmCost) -> str:
    """Where the numbers of an arm are from, if not from steps of its own."""
    if cost.estimated:
        return ", estimated from the arms that were timed"
    return f", as {cost.like}" if cost.like else ""


def _cache_described(study: Study, cache: CacheUse | None) -> str:
    """Images, crops, size, and how much is there: `: 900 images x 9 crops, at most 1 MiB in fp16, 3.1 % filled`."""
    settings = study.teacher_cache
    if settings is None or cache is None:
        return ""
    if cache.inexact is not None:
        return f" where exact, which '{cache.inexact}' is not: it runs live"
    about = f": {cache.images:,} {cache.called}"
    if cache.called == "images":
        about += f" x {cache.crops} crops"
    if cache.augmentations > 1:
        about += f" of {cache.augmentations} augmentations"
    if study.teachers_compute != ["fp32"]:
        about += f", computed in {' and '.join(study.teachers_compute)}"
    if cache.mib is None or cache.filled is None:
        return f"{about}, nothing stored yet"
    bound = "" if settings.max_mib is None else f" (bound for all studies: {settings.max_mib:,} MiB)"
    return f"{about}, at most {cache.mib:,.0f} MiB in {settings.dtype}{bound}, {100 * cache.filled:.1f} % filled here"


def _total_lines(outline: Outline, total: Total, costs: Sequence[ArmCost]) -> Iterator[str]:
    """Time and disk of the whole study."""
    trials = outline.trials
    stopped = f", with early stopping about {duration(total.likely_s)}" if outline.study.rungs else ""
    timed = sum(not (cost.like or cost.estimated) for cost in costs)
    estimated = sum(cost.estimated for cost in costs)
    of_arms = "an arm" if timed == len(costs) else f"of {counted(timed, 'arm')} for {len(costs) - estimated} alike"
    rest = f", {estimated} estimated: the time was up" if estimated else ""
    yield (
        f"time with {counted(total.slots, 'trial')} at once: at most {duration(total.longest_s)}{stopped} "
        f"({TIMED_STEPS} timed steps {of_arms} on this machine, one thread{rest})"
    )
    yield (
        f"disk: at most {total.checkpoints_mib:,.1f} MiB of checkpoints in {trials} "
        f"trial director{'y' if trials == 1 else 'ies'}"
    )
    if total.kept is not None:
        yield _kept_line(total.kept, trials)


def _kept_line(kept: KeptSize, trials: int) -> str:
    """What `record` keeps of a trial, of all of them, and of the teachers."""
    of_trial = ", ".join(f"{kind} {_space(mib)}" for kind, mib in kept.trial_mib.items())
    of_teachers = f", of the teachers {_space(kept.teacher_mib)}" if kept.teacher_mib else ""
    of_all = f"{_space(kept.trials_mib)} of {counted(trials, 'trial')}"
    return f"kept of a trial (record): {of_trial}; at most {of_all}{of_teachers}"


def _space(mib: float) -> str:
    return f"{mib:,.1f} MiB" if mib >= 0.95 else f"{1024 * mib:,.0f} KiB"
