"""What a study needs and costs here: files and resources that are missing, seconds, memory and multiply-adds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akdtune import data, networks, search_rules
from akdtune import teacher as teachers
from akdtune.data import InputSpec, TrainOn
from akdtune.prepared import Prepared, network_label
from akdtune.proposals import probe_count, trains_on
from akdtune.recipe import sgd
from akdtune.settings_file import KeyPath, written
from akdtune.spec import Study
from akdtune.teacher import TeacherFile, TeacherSettings
from akdtune.training import Trial
from akdtune.trial_config import TrialConfig

TIMED_STEPS = 8


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
    return data.missing_files(study.data)


def missing_checkpoints(study: Study) -> dict[str, str]:
    """The files of teachers that are named and not there, by key path: `teacher.others[0].checkpoint`."""
    named = {written(("teacher", *path, "checkpoint")): one.checkpoint for path, one in study.teacher.with_paths()}
    return {key: path for key, path in named.items() if path not in ("auto", "pretrained") and not Path(path).exists()}


def lacking_resources(study: Study) -> list[str]:
    """What a trial asks for and this machine does not have, a sentence each."""
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


def _timed_configurations(study: Study) -> dict[str, Mapping[str, Any]]:
    """One configuration of every arm that is searched, and of every kind of cell that costs something else."""
    searching = study.search.searches or probe_count(study) or study.cell_plan is None
    found: dict[str, Mapping[str, Any]] = {arm.name: arm.random(0).settings for arm in study.arms if searching}
    for cell in study.cell_plan.cells if study.cell_plan is not None else ():
        network = cell.settings["student"]["network"]
        same_student = network == study.cell_plan.base.settings["student"]["network"] if study.cell_plan else True
        found.setdefault(cell.arm if same_student else f"{cell.arm}/{network_label(network)}", cell.settings)
    return found


def slots_here(study: Study) -> int:
    """Trials that run at once on this machine."""
    by_cpu = int(available_cpus() / study.resources.cpu)
    if not study.resources.gpu:
        return max(1, by_cpu)
    return max(1, min(by_cpu, int(torch.cuda.device_count() / study.resources.gpu)))


def network_macs(network: str | Mapping[str, Any], inputs: InputSpec) -> int:
    """Multiply-adds of all convolutions and linear layers in one forward pass of one image.

    What papers list as a network's FLOPs: BatchNorm, activations, pooling and biases are left out, as there; products
    within an attention are, too. Counted by hooks, because torch's own counter takes seconds to load its compiler.

    Args:
        network: name, or mapping with a name and settings.
        inputs: what the study's networks are built for.
    """
    built = networks.build(network if isinstance(network, str) else dict(network), inputs, 0).eval()
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, made: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        positions = made.shape[2:] if isinstance(layer, nn.Conv2d) else made.shape[1:-1]
        counts.append(weight.numel() * positions.numel())

    for layer in built.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        built(torch.zeros(1, inputs.channels, inputs.size, inputs.size))
    return sum(counts)
