"""What a study needs and costs here: files and resources that are missing, seconds, space and multiply-adds."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from akdtune import networks
from akdtune.data.dataset import missing_files
from akdtune.data.row_sets import RowDataSet
from akdtune.devices import resolve_device
from akdtune.planning.checkpoint_files import is_missing
from akdtune.planning.kept import KeptBytes, kept_bytes
from akdtune.planning.prepared import Prepared
from akdtune.processors import available_cpus
from akdtune.registry import lookup
from akdtune.roles import TrainOn
from akdtune.settings.file import KeyPath, written
from akdtune.settings.sections import ResourcesSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.signals import Spec
from akdtune.study import search_rules
from akdtune.study.spec import Study
from akdtune.teacher.asked import asked
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import find_teacher, load_others, load_teacher, teacher_key
from akdtune.teacher.items import items_of
from akdtune.teacher.rows import Caching, PlaceMatters, TeacherRows, live_reason
from akdtune.training.config import TrialConfig
from akdtune.training.optimizers import build_optimizer
from akdtune.training.request import TrialRequest
from akdtune.training.task import task_of
from akdtune.training.trial import trial_of

TIMED_STEPS = 8

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------------------- files and machine


def missing(study: Study) -> list[str]:
    """Data that is not there yet; downloads nothing."""
    return missing_files(study.data)


def missing_checkpoints(study: Study) -> dict[str, str]:
    """The files of teachers that are named and not there, by key path: `teacher.others[0].checkpoint`."""
    named = {
        written(("teacher", *path, "checkpoint")): file.path
        for path, teacher in study.teacher.with_paths()
        if (file := teacher.imported) is not None
    }
    return {key: path for key, path in named.items() if is_missing(path)}


@dataclass(frozen=True)
class Machine:
    """What trials of a study find on this machine.

    Attributes:
        cpus: that this process may use.
        gpus: 0 where trials ask for none.
    """

    cpus: int
    gpus: int

    @classmethod
    def here(cls, needed: ResourcesSettings) -> Machine:
        """The CPUs that this process may use, and the GPUs where trials need one."""
        return cls(available_cpus(), torch.cuda.device_count() if needed.gpu else 0)

    def lacking(self, needed: ResourcesSettings) -> list[str]:
        """What a trial asks for and the machine does not have, a sentence each."""
        asked = (("gpu", "GPU", needed.gpu, self.gpus, 0), ("cpu", "CPU", needed.cpu, self.cpus, 1))
        return [
            f"resources.{key}: a trial asks for {want:g} {name}{'' if want == 1 else 's'}, this machine has {there}; "
            f"set resources.{key}={least if there <= least else there}"
            for key, name, want, there, least in asked
            if want > there
        ]

    def slots(self, needed: ResourcesSettings) -> int:
        """Trials that run at once, at least one."""
        by_cpu = int(self.cpus / needed.cpu)
        return max(1, min(by_cpu, int(self.gpus / needed.gpu)) if needed.gpu else by_cpu)


# ------------------------------------------------------------------------------------------------------------ trials


@dataclass(frozen=True)
class ArmCost:
    """What one full-length trial of an arm costs, from a few timed steps on this machine.

    Attributes:
        warmup_s, student_s, evaluation_s: seconds of one trial, one thread.
        checkpoint_mib: size of its saved state.
        kept: what an image takes in the files that the trial keeps; None where that is not known.
        like: the arm of like cost that was timed; empty where it is this one.
        estimated: whether neither was timed, so that this is the mean of others.
    """

    warmup_s: float
    student_s: float
    evaluation_s: float
    checkpoint_mib: float
    like: str = ""
    estimated: bool = False
    kept: KeptBytes | None = None

    @property
    def trial_s(self) -> float:
        """Seconds of a full-length trial."""
        return self.warmup_s + self.student_s + self.evaluation_s


_BENCHES = itertools.count()


class Bench:
    """What trials that are timed share, on each device once: the data, and the teachers' networks.

    Args:
        prepared: the study and its data.
        teacher: of the trials; None: not trained yet, untrained networks stand in for it.
    """

    def __init__(self, prepared: Prepared, teacher: TeacherFile | None) -> None:
        self.prepared, self.teacher = prepared, teacher
        self._datasets = {"cpu": prepared.dataset}
        self._networks: dict[str, tuple[networks.Network, ...]] = {}
        self.share_as = f"timed {next(_BENCHES)}"
        """Under which what the teachers say about plain images is kept: it is asked once for all that is timed."""

    def dataset(self, device: torch.device) -> RowDataSet:
        """The study's data on a device."""
        if device.type not in self._datasets:
            study = self.prepared.study
            self._datasets[device.type] = task_of({"task": study.task}).load(study.data, device)
        return self._datasets[device.type]

    def teacher_networks(self, device: torch.device) -> tuple[networks.Network, ...]:
        """The main teacher's network and the others', on a device; none where there is no teacher."""
        if device.type not in self._networks:
            self._networks[device.type] = tuple(self._made(device))
        return self._networks[device.type]

    def _made(self, device: torch.device) -> Iterator[networks.Network]:
        settings, inputs = self.prepared.study.teacher, self.prepared.dataset.inputs
        if settings.absent:
            return
        if self.teacher is not None:
            yield load_teacher(self.teacher, inputs, device)
            yield from load_others(self.teacher, inputs, device)
            return
        for untrained in (settings, *settings.others):
            yield networks.build(untrained.network, inputs, 0).to(device).eval().requires_grad_(False)


def arm_cost(settings: Mapping[str, Any], bench: Bench, until: float = math.inf) -> ArmCost:
    """Times a few real steps of one configuration; fewer, but one, where they last beyond `until` (monotonic clock)."""
    prepared, teacher = bench.prepared, bench.teacher
    study = prepared.study
    config = TrialConfig.parse(
        TrialRequest(
            settings=settings,
            role="probe" if prepared.train_on == "subset" else "ablation",
            teacher_file=teacher or TeacherFile.untrained(study.teacher),
            teacher_cache=study.teacher_cache,
            plugins=study.plugins,
        )
    )
    device = resolve_device(config.training.device)
    trial = trial_of(config, bench.teacher_networks(device), bench.dataset(device))
    trial.evaluation.share_as = bench.share_as
    times = trial.timed(TIMED_STEPS, until)
    state = trial.state("student", 1)
    tensors = [item for item in _leaves(state) if isinstance(item, Tensor)]
    return ArmCost(
        warmup_s=times["warmup_step_s"] * trial.steps * trial.epochs["warmup"],
        student_s=times["student_step_s"] * trial.steps * config.training.epochs,
        evaluation_s=times["epoch_end_s"] * config.training.epochs,
        checkpoint_mib=sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20,
        kept=kept_bytes(trial, study.record),
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
    if study.rungs and search_rules.first_seed_leads(study.search, study.scheduler):
        seeds = len(study.search.training_seeds)  # those that end run in full with every further seed
        ended = study.scheduler.reduction_factor ** -len(study.rungs)
        return (run / epochs + ended * (seeds - 1)) / seeds
    return run / epochs


# ---------------------------------------------------------------------------------------------------------- teachers


@dataclass(frozen=True)
class UntrainedTeacher:
    """A teacher that a run trains first.

    Attributes:
        settings: how.
        train_on: the images it is trained on.
        train_s: seconds that takes, one thread; None: not timed.
    """

    settings: TeacherSettings
    train_on: TrainOn
    train_s: float | None = None


def untrained_teachers(prepared: Prepared) -> dict[str, UntrainedTeacher]:
    """The teachers that a run trains first, by key path, each once and after those that it is distilled from."""
    teacher, splits = prepared.study.teacher, prepared.trains_on
    by_key: dict[str, tuple[str, UntrainedTeacher]] = {}

    def visit(settings: TeacherSettings, path: KeyPath, train_on: TrainOn) -> None:
        alone = settings.model_copy(update={"others": []})
        if find_teacher(alone, prepared.dataset, train_on) is None:
            for index, source in enumerate(settings.distilled_from):
                visit(source, (*path, "distilled_from", index), train_on)
            for_reports = " for reports" if train_on == "full" and len(splits) > 1 else ""
            key = teacher_key(alone, prepared.dataset, train_on)
            by_key.setdefault(key, (written(path) + for_reports, UntrainedTeacher(settings, train_on)))

    for train_on in splits:
        visit(teacher, ("teacher",), train_on)
        for index, other in enumerate(teacher.others):
            visit(other, ("teacher", "others", index), train_on)
    return dict(by_key.values())


def teacher_seconds(
    untrained: Sequence[UntrainedTeacher],
    prepared: Prepared,
    timed_step_s: Callable[[TeacherSettings, Prepared], float] | None = None,
) -> list[float]:
    """Seconds that training each of some teachers takes, one thread, from a few timed steps of its network alone.

    Args:
        untrained: in order.
        prepared: the study's data.
        timed_step_s: times a step of one of them, each network and batch size once; None: `teacher_step_s`.
    """
    step_s: dict[str, float] = {}
    seconds = []
    for teacher in untrained:
        settings = teacher.settings
        kind = json.dumps([settings.network, settings.batch_size], sort_keys=True)
        if kind not in step_s:
            step_s[kind] = (timed_step_s or teacher_step_s)(settings, prepared)
        items = prepared.split(teacher.train_on).train.items
        seconds.append(step_s[kind] * math.ceil(items / settings.batch_size) * settings.epochs)
    return seconds


def teacher_step_s(settings: TeacherSettings, prepared: Prepared, until: float = math.inf) -> float:
    """Seconds of one step with labels alone: the fastest of a few, of one where that lasts beyond `until`."""
    train = prepared.split(prepared.train_on).train
    network = networks.build(settings.network, prepared.dataset.inputs, 0).train()
    optimizer = build_optimizer(settings, network.parameters())
    positions_B, inputs = train.sample(settings.batch_size)
    best_s = math.inf
    for _ in range(TIMED_STEPS // 2):
        started = time.perf_counter()
        logits_BK = network(inputs).logits_BK
        loss = nn.functional.cross_entropy(logits_BK, train.teacher_labels_N[positions_B])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        best_s = min(best_s, time.perf_counter() - started)
        if time.monotonic() >= until:
            break
    return best_s


# ------------------------------------------------------------------------------------------------------------- cache


@dataclass(frozen=True)
class CacheUse:
    """What the teacher cache holds for a study.

    Attributes:
        images: stored ones (or what is stored in their place), of which a teacher may be asked.
        crops: of each; of several augmentations together.
        mib: space of all rows at most; None before the teacher is trained.
        filled: share of the rows that are there, 0..1; None before the teacher is trained.
        inexact: the network whose numbers depend on an image's place in a batch, so that none can be kept.
        augmentations: that students train on and whose crops can be kept; each has rows of its own.
        called: what there is in the place of images, which alone have crops.
    """

    images: int
    crops: int
    mib: float | None = None
    filled: float | None = None
    inexact: str | None = None
    augmentations: int = 1
    called: str = "images"


def cache_use(bench: Bench) -> CacheUse:
    """How many rows the study's teachers have in the cache, and how much is there; some student sees crops alone."""
    study, dataset = bench.prepared.study, bench.prepared.dataset
    assert study.teacher_cache is not None
    kept = [seen for seen in bench.prepared.seen if live_reason(seen) is None]
    train = [seen.split(bench.prepared.train_on).train for seen in kept]
    items = [named for seen, split in zip(kept, train, strict=True) if (named := items_of(split, seen.augmentation))]
    crops = [each.variants for each in items]
    called = "images" if dataset.inputs.takes == "images" else "windows"
    use = CacheUse(items[0].count // crops[0], sum(crops), augmentations=len(kept), called=called)
    if bench.teacher is None:
        return use
    caching = Caching(study.teacher_cache, dataset.images_key, dataset.name)
    try:
        rows = [
            TeacherRows(network, split, seen.augmentation, caching, asked(network, compute))
            for seen, split in zip(kept, train, strict=True)
            for network in bench.teacher_networks(CPU)
            for compute in study.teachers_compute
        ]
    except PlaceMatters as error:
        return replace(use, inexact=str(error))
    counts = [of_teacher.rates() for of_teacher in rows]
    filled = sum(count["filled"] for count in counts) / sum(count["rows"] for count in counts)
    size = sum(of_teacher.store.shape.rows * of_teacher.store.shape.record for of_teacher in rows)
    return replace(use, mib=size / 2**20, filled=filled)


def maps_needed_by(settings: Mapping[str, Any]) -> list[str]:
    """Methods of a configuration that read the main teacher's maps, which are never kept."""
    return [name for term in settings["method"] if lookup("methods", name := term["name"]).needs_maps()]


# ----------------------------------------------------------------------------------------------------- multiply-adds


def network_macs(network: str | Mapping[str, Any], inputs: Spec) -> int:
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
        built(inputs.example(1))
    return sum(counts)
