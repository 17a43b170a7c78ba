"""From a checked study to trials: brackets, quotas, probes, identities, the lock file, and what `plan` shows."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akdtune import __version__, spec
from akdtune.errors import StudyError
from akdtune.registry import lookup
from akdtune.space import Arm, Dimension, Proposal, Space

if TYPE_CHECKING:
    from akdtune.data import DataSet
    from akdtune.ledger import StudyDirectory
    from akdtune.spec import Study
    from akdtune.teacher import TeacherFile

FREE_SECTIONS = ("resources", "tracking")
"""Sections that do not determine any result and may change between two runs of one study."""


def brackets(study: Study) -> dict[str, Space]:
    """The spaces that are searched and pruned separately: one per arm, or all arms pooled."""
    return {space.name: space for space in study.spaces}


def quotas(study: Study) -> dict[str, int]:
    """Search trials per bracket; where they do not divide evenly the first brackets get one more."""
    names = list(brackets(study))
    total = study.search.trials or 0
    return {name: total // len(names) + (place < total % len(names)) for place, name in enumerate(names)}


def search_count(study: Study) -> int:
    """Number of search trials of the study."""
    if study.search.algorithm == "grid":
        return len(grid_proposals(study))
    return study.search.trials or 0


def grid_proposals(study: Study) -> list[tuple[str, Proposal]]:
    """Every configuration of a grid study with its bracket, the arms dealt in turn, at most `search.trials`."""
    by_bracket = [[(name, proposal) for proposal in space.grid()] for name, space in brackets(study).items()]
    dealt = [row for turn in _turns(by_bracket) for row in turn]
    return dealt[: study.search.trials] if study.search.trials else dealt


def random_proposals(study: Study) -> list[tuple[str, Proposal]]:
    """Random configurations with their bracket, the arms dealt in turn, each from (search seed, bracket, number)."""
    from akdtune.recipe import derived_seed

    spaces = brackets(study)
    by_bracket = [
        [(name, spaces[name].random(derived_seed("search", study.search.seed, name, number))) for number in range(count)]
        for name, count in quotas(study).items()
    ]
    return [row for turn in _turns(by_bracket) for row in turn]


def _turns(lists: list[list[tuple[str, Proposal]]]) -> Iterator[list[tuple[str, Proposal]]]:
    for place in range(max((len(one) for one in lists), default=0)):
        yield [one[place] for one in lists if place < len(one)]


def probed_arms(study: Study) -> list[Arm]:
    """Arms whose views have settings to vary."""
    return [arm for arm in study.arms if any(d.path.split(".")[0] == "views" for d in arm.dimensions)]


def probe_count(study: Study) -> int:
    """Number of probe trials of the study."""
    return study.probe.trials if study.probe and probed_arms(study) else 0


def trial_count(study: Study) -> int:
    """All trials of the study."""
    return search_count(study) + probe_count(study)


def probe_proposals(study: Study) -> list[Proposal]:
    """One quasi-random design over the view settings per arm, cells dealt evenly, the first arms get the rest."""
    arms = probed_arms(study)
    if study.probe is None or not arms:
        return []
    cells = study.probe.trials // len(study.probe.seeds)
    per_arm = [arm.probes(cells // len(arms) + (place < cells % len(arms)), study.search.seed) for place, arm in enumerate(arms)]
    return [proposal for of_arm in per_arm for proposal in of_arm]


@dataclass(frozen=True)
class Prepared:
    """The study's data, loaded on the driver to know its hash and its classes."""

    study: Study
    dataset: DataSet

    @classmethod
    def load(cls, study: Study) -> Prepared:
        """Loads (and where allowed downloads) the data."""
        import torch

        from akdtune import data

        return cls(study, data.load(study.data, torch.device("cpu")))

    @property
    def data_hash(self) -> str:
        """Content hash of the stored images and labels."""
        return self.dataset.content_hash

    def find_teacher(self) -> TeacherFile | None:
        """The study's teacher if it exists already."""
        from akdtune import teacher

        return teacher.find(self.study.teacher, self.dataset, "subset")

    def class_counts(self) -> list[int]:
        """Training images of each class, as the methods see them (label noise included)."""
        import torch

        labels = self.dataset.split("subset").train.training_labels_N
        return [int(count) for count in torch.bincount(labels.cpu(), minlength=self.dataset.inputs.num_classes)]

    def facts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What follows from data and methods, e.g. CRD's resolved negatives, by `method.<name>.<fact>`."""
        counts = self.class_counts()
        found: dict[str, Any] = {}
        for method in settings["method"]:
            component = lookup("methods", method["name"])
            typed = component.Settings(**{key: value for key, value in method.items() if key != "name"})
            found |= {f"method.{method['name']}.{key}": value for key, value in component.facts(typed, counts).items()}
        return found


@dataclass(frozen=True)
class Identity:
    """Gives trials their ids: a hash of everything that determines the result, and the seed."""

    study: Study
    prepared: Prepared
    teacher: TeacherFile

    def cell_id(self, settings: Mapping[str, Any]) -> str:
        """Hash of the settings that determine a trial's numbers, without its seed and without any path."""
        return spec.cell_hash(settings, self.prepared.data_hash, self.teacher.weights_hash)

    def search_trial(self, proposal: Proposal) -> str:
        """The id a proposal has as a search trial."""
        return f"{self.cell_id(proposal.settings)}-s{self.study.search.trial_seed}"

    def plan_row(
        self, proposal: Proposal, role: str, bracket: str, number: int | None, seed: int | None = None
    ) -> dict[str, Any]:
        """The row of plan.parquet for one trial."""
        cell = self.cell_id(proposal.settings)
        seed = self.study.search.trial_seed if seed is None else seed
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
        }


def initial_rows(study: Study, identity: Identity) -> list[dict[str, Any]]:
    """What is planned at the start: all of a grid or random search, and the probes; duplicates once."""
    rows = []
    if study.search.algorithm in ("grid", "random"):
        proposals = grid_proposals(study) if study.search.algorithm == "grid" else random_proposals(study)
        rows += [identity.plan_row(proposal, "search", name, None) for name, proposal in proposals]
    if study.probe is not None:
        rows += [
            identity.plan_row(proposal, "probe", proposal.arm, None, seed)
            for seed in study.probe.seeds
            for proposal in probe_proposals(study)
        ]
    return list({row["trial_id"]: row for row in reversed(rows)}.values())[::-1]


# The lock file --------------------------------------------------------------------------------------------------------


def lock_content(study: Study, identity: Identity) -> dict[str, Any]:
    """What study.lock.yaml holds: everything that one needs to reproduce the study, and no secrets."""
    teacher = identity.teacher
    facts: dict[str, Any] = {}
    for arm in study.arms:
        facts |= identity.prepared.facts(arm.random(0).settings)
    return {
        "akdtune": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "source": str(study.source),
        "overrides": list(study.overrides),
        "settings": study.resolved(),
        "resolved": facts,
        "data": {"hash": identity.prepared.data_hash, "name": study.data.name},
        "teacher": {key: value for key, value in asdict(teacher).items()},
        "seeds": {
            "search": study.search.seed,
            "trial": study.search.trial_seed,
            "probe": list(study.probe.seeds) if study.probe else [],
            "split": study.data.split_seed,
        },
        "machine": {"python": platform.python_version(), "platform": platform.platform()},
        "packages": _packages(),
        "source_code": _commit(),
    }


def _packages() -> dict[str, str]:
    wanted = ("torch", "torchvision", "ray", "optuna", "wandb", "pyarrow", "numpy", "pydantic", "scipy", "scikit-learn")
    found = {}
    for name in wanted:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> dict[str, str] | None:
    """Commit of akdtune's own source and what differs from it, where it runs from a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        tracked = git("ls-files", "--error-unmatch", "design.py")
        return {"commit": git("rev-parse", "HEAD").strip(), "diff": git("diff", "HEAD", "--", ".")} if tracked else None
    except (OSError, subprocess.CalledProcessError):
        return None


def refuse_changes(study: Study, lock: Mapping[str, Any], root: Path) -> None:
    """Refuses to go on in a study directory whose settings differ from the study's, showing the difference."""
    before, now = dict(lock["settings"]), study.resolved()
    if before.get("study") != now.get("study"):
        raise StudyError(f"{root}: belongs to study '{before.get('study')}', not '{now.get('study')}'; choose another --dir")
    for section in FREE_SECTIONS:
        before.pop(section, None)
        now.pop(section, None)
    lines = spec.settings_difference(before, now)
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise StudyError(
            f"{root}: the settings differ from those this study began with:\n{listed}\n"
            f"put them back to resume it, or run the changed study beside it with another --dir"
        )


# Reports --------------------------------------------------------------------------------------------------------------


def command_line(study: Study, root: Path) -> str:
    """The command that resumes this study."""
    overrides = " ".join(shlex.quote(str(override)) for override in study.overrides)
    default = Path("runs") / study.name
    place = "" if root == default else f" --dir {shlex.quote(str(root))}"
    return " ".join(part for part in ("akdtune run", shlex.quote(str(study.source)), overrides) if part) + place


def headline(study: Study) -> list[str]:
    """Arms, counts, epochs and rungs in a few lines."""
    epochs = study.epochs
    names = [arm.name for arm in study.arms]
    search, probes = search_count(study), probe_count(study)
    rungs = study.rungs
    pruning = f"ASHA decides after epoch {', '.join(map(str, rungs))}" if rungs else "no early stopping"
    lines = [
        f"{len(names)} arm{'s' * (len(names) > 1)}: {', '.join(names)}",
        f"{search} search trials ({study.search.algorithm}, {study.search.fair}; {pruning})"
        + (f" + {probes} probes (quasi-random, never pruned)" if probes else ""),
        f"{epochs} student epochs each, at most {epochs * (search + probes):,} in all",
    ]
    return lines


def short_report(study: Study, directory: StudyDirectory) -> str:
    """What `akdtune run` prints first."""
    records = directory.records.values()
    ended = sum(record.terminal is not None for record in records)
    state = f"resuming: {ended} of {trial_count(study)} trials have ended" if records else "new"
    lines = [f"study {study.name} in {directory.root} ({state})", *(f"  {line}" for line in headline(study))]
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in study.warnings)])


def closing_report(study: Study, directory: StudyDirectory) -> str:
    """What `akdtune run` prints last: outcomes, the best trial of each arm, the next commands."""
    records = list(directory.records.values())
    kinds = ("done", "pruned", "diverged", "failed")
    counts = {kind: sum(record.terminal == kind for record in records) for kind in kinds}
    lines = [f"{len(records)} trials: " + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)]
    for record in records:
        if record.terminal == "failed":
            lines.append(f"  failed: {record.trial_id} ({record.plan['arm']}), see {directory.trial(record.trial_id).log}")
    lines.append("best search trial of each arm (validation accuracy after the last epoch; selected, so optimistic):")
    width = max((len(arm.name) for arm in study.arms), default=0)
    for arm in study.arms:
        of_arm = [r for r in records if r.plan["arm"] == arm.name and r.plan["role"] == "search" and r.terminal == "done"]
        best = max(of_arm, key=lambda r: r.value if r.value is not None else -math.inf, default=None)
        if best is None:
            lines.append(f"  {arm.name:<{width}}  no trial reached the last epoch")
            continue
        settings = ", ".join(f"{key}={_short(value)}" for key, value in best.plan["params"].items())
        lines.append(f"  {arm.name:<{width}}  {best.value:6.2f} %  {best.trial_id}  {settings}")
    root = shlex.quote(str(directory.root))
    lines += ["next:", f"  akdtune analyze diversity_accuracy {root}", f"  akdtune show {root}"]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# The dry run ----------------------------------------------------------------------------------------------------------

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
    from akdtune.display import duration

    prepared = Prepared.load(study)
    splits = prepared.dataset.split("subset")
    validation = len(splits.validation) if splits.validation else 0
    lines = [f"data {study.data.name}: {len(splits.train)} training, {validation} validation, {len(splits.test)} test images"]
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
    from akdtune.display import duration

    mean_s = sum(cost.trial_s for cost in costs.values()) / len(costs)
    slots = study.resources.concurrent or slots_here(study)
    search_s, probe_s = mean_s * search_count(study) / slots, mean_s * probe_count(study) / slots
    share = surviving_share(study)
    trials = trial_count(study)
    kept = trials * max(cost.checkpoint_mib for cost in costs.values())
    note = "; 8 timed steps an arm on this machine's CPU or GPU, one thread"
    return [
        f"time with {slots} trial{'s' * (slots > 1)} at once: at most {duration(search_s + probe_s)}, with early stopping "
        f"about {duration(search_s * share + probe_s)}{note}",
        f"disk: at most {kept:,.1f} MiB of checkpoints, {trials} trial directories",
    ]


def slots_here(study: Study) -> int:
    """Trials that run at once on this machine."""
    import os

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    by_cpu = int(cpus / study.resources.cpu) if study.resources.cpu else cpus
    if not study.resources.gpu:
        return max(1, by_cpu)
    import torch

    return max(1, min(by_cpu, int(torch.cuda.device_count() / study.resources.gpu)))
