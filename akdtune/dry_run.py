"""What a study would do: arms, counts, rungs, missing files, and the time that a few real steps predict."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akdtune import search_rules
from akdtune.cell_report import cell_lines, counts, factor_lines
from akdtune.design import (
    Prepared,
    missing_students,
    network_label,
    probe_count,
    quotas,
    search_count,
    trains_on,
    trial_count,
)
from akdtune.settings_file import KeyPath, written
from akdtune.space import Dimension

if TYPE_CHECKING:
    from akdtune.data import TrainOn
    from akdtune.spec import Study
    from akdtune.teacher import TeacherFile, TeacherSettings

TIMED_STEPS = 8


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


def counted(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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


def missing_checkpoints(study: Study) -> dict[str, str]:
    """The files of teachers that are named and not there, by key path: `teacher.others[0].checkpoint`."""
    named = {written(("teacher", *path, "checkpoint")): one.checkpoint for path, one in study.teacher.with_paths()}
    return {key: path for key, path in named.items() if path not in ("auto", "pretrained") and not Path(path).exists()}


def lacking_resources(study: Study) -> list[str]:
    """What a trial asks for and this machine does not have, a sentence each."""
    import torch

    needed, cpus = study.resources, available_cpus()
    gpus = torch.cuda.device_count() if needed.gpu else 0
    asked = (("gpu", "GPU", needed.gpu, gpus, 0), ("cpu", "CPU", needed.cpu, cpus, 1))
    return [
        f"resources.{key}: a trial asks for {want:g} {name}{'' if want == 1 else 's'}, this machine has {there}; "
        f"set resources.{key}={least if there <= least else there}"
        for key, name, want, there, least in asked
        if want > there
    ]


def available_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arm_cost(study: Study, settings: Mapping[str, Any], prepared: Prepared, teacher: TeacherFile | None) -> ArmCost:
    """Times a few real steps of one configuration, with an untrained teacher where the trained one is missing."""
    import torch

    from akdtune import networks
    from akdtune import teacher as teachers
    from akdtune.training import Trial
    from akdtune.trial_config import TrialConfig

    torch.set_num_threads(1)
    config = TrialConfig.parse(
        {
            "settings": settings,
            "seeds": {"init": 0, "order": 0, "noise": 0},
            "role": "probe" if prepared.train_on == "subset" else "ablation",
            "teacher_file": asdict(teacher or teachers.TeacherFile.untrained(study.teacher)),
            "plugins": list(study.plugins),
        }
    )
    untrained: tuple[networks.Network, ...] = ()
    if teacher is None and not study.teacher.absent:
        wanted = (study.teacher, *study.teacher.others)
        inputs = prepared.dataset.inputs
        untrained = tuple(networks.build(one.network, inputs, 0).eval().requires_grad_(False) for one in wanted)
    trial = Trial(config, untrained)
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


def untrained_teachers(study: Study, prepared: Prepared) -> dict[str, TeacherSettings]:
    """The teachers that a run trains first, by key path, each once and after those that it is distilled from."""
    from akdtune import teacher as teachers

    found: dict[str, tuple[str, TeacherSettings]] = {}

    def visit(one: TeacherSettings, path: KeyPath, train_on: TrainOn) -> None:
        alone = one.model_copy(update={"others": []})
        if teachers.find(alone, prepared.dataset, train_on) is None:
            for index, source in enumerate(one.distilled_from):
                visit(source, (*path, "distilled_from", index), train_on)
            for_reports = " for reports" if train_on == "full" and len(splits) > 1 else ""
            key = teachers.teacher_key(alone, prepared.dataset, train_on)
            found.setdefault(key, (written(path) + for_reports, one))

    splits = trains_on(study)
    for train_on in splits:
        visit(study.teacher, ("teacher",), train_on)
        for index, other in enumerate(study.teacher.others):
            visit(other, ("teacher", "others", index), train_on)
    return dict(found.values())


def teacher_seconds(settings: TeacherSettings, prepared: Prepared) -> float:
    """Seconds that training a teacher takes, one thread, from a few timed steps of its network alone."""
    import torch

    from akdtune import networks
    from akdtune.recipe import sgd

    torch.set_num_threads(1)
    train = prepared.dataset.split(prepared.train_on).train
    network = networks.build(settings.network, prepared.dataset.inputs, 0).train()
    optimizer = sgd(network.parameters(), settings)
    positions_B = torch.arange(min(settings.batch_size, len(train)))
    best_s = math.inf
    for _ in range(TIMED_STEPS // 2):
        started = time.perf_counter()
        logits_BK = network(train.images(positions_B)).logits_BK
        loss = torch.nn.functional.cross_entropy(logits_BK, train.labels_N[positions_B])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        best_s = min(best_s, time.perf_counter() - started)
    return best_s * math.ceil(len(train) / settings.batch_size) * settings.epochs


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
    if study.rungs and search_rules.first_seed_leads(study.search, study.scheduler):
        seeds = len(study.search.training_seeds)  # those that end run in full with every further seed
        ended = study.scheduler.reduction_factor ** -len(study.rungs)
        return (run / epochs + ended * (seeds - 1)) / seeds
    return run / epochs


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
    from akdtune.registry import lookup

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


def _timed_configurations(study: Study) -> dict[str, Mapping[str, Any]]:
    """One configuration of every arm that is searched, and of every kind of cell that costs something else."""
    searching = study.search.searches or probe_count(study) or study.cell_plan is None
    found: dict[str, Mapping[str, Any]] = {arm.name: arm.random(0).settings for arm in study.arms if searching}
    for cell in study.cell_plan.cells if study.cell_plan is not None else ():
        network = cell.settings["student"]["network"]
        same_student = network == study.cell_plan.base.settings["student"]["network"] if study.cell_plan else True
        found.setdefault(cell.arm if same_student else f"{cell.arm}/{network_label(network)}", cell.settings)
    return found


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
    from akdtune.teacher_rows import live_reason

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
    from akdtune.registry import lookup

    methods = [term["name"] for term in settings["method"]]
    needy = [name for name in methods if lookup("methods", name).needs_maps()]
    if not needy:
        return None
    besides = "; further teachers are cached" if study.teacher.others else ""
    return f"{' and '.join(needy)} need{'s' * (len(needy) == 1)} its maps{besides}"


def _cache_described(study: Study, prepared: Prepared, teacher: TeacherFile | None) -> str:
    """Images, crops, size, and how much is there: `: 900 images x 9 crops, at most 1 MiB in fp16, 3.1 % filled`."""
    import torch

    from akdtune import teacher as teachers
    from akdtune.teacher_rows import Caching, PlaceMatters, TeacherRows

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


def slots_here(study: Study) -> int:
    """Trials that run at once on this machine."""
    by_cpu = int(available_cpus() / study.resources.cpu)
    if not study.resources.gpu:
        return max(1, by_cpu)
    import torch

    return max(1, min(by_cpu, int(torch.cuda.device_count() / study.resources.gpu)))


def duration(seconds: float) -> str:
    """A duration in the unit a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
