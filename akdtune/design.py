"""From a checked study to trials: brackets, quotas, probes, counts, and the ids that configurations have."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from akdtune import search_rules, spec
from akdtune.errors import AkdtuneError, CheckpointError, Problem, SettingsError
from akdtune.recipe import derived_seed
from akdtune.registry import lookup
from akdtune.results import REPORT_ROLES
from akdtune.settings_file import written
from akdtune.space import Arm, Proposal, Space
from akdtune.suggest import Point, halton
from akdtune.trial_settings import pair_of, published

if TYPE_CHECKING:
    from akdtune.cells import Cell
    from akdtune.data import DataSet, TrainOn
    from akdtune.methods import MethodContext
    from akdtune.networks import Network
    from akdtune.spec import Study
    from akdtune.teacher import TeacherFile
    from akdtune.views import ViewContext


def brackets(study: Study) -> dict[str, Space]:
    """The spaces that are searched and pruned separately: one per arm, or all arms pooled."""
    return {space.name: space for space in study.spaces}


def quotas(study: Study) -> dict[str, int]:
    """Search trials per bracket; where they do not divide evenly the first brackets get one more."""
    names = list(brackets(study))
    if not study.search.searches:
        return dict.fromkeys(names, 0)
    if study.search.algorithm == "grid":
        counts = Counter(name for name, _ in grid_proposals(study))
        return {name: counts[name] for name in names}
    total = study.search.trials or 0
    return {name: total // len(names) + (place < total % len(names)) for place, name in enumerate(names)}


def search_count(study: Study) -> int:
    """Number of search trials of the study."""
    if not study.search.searches:
        return 0
    if study.search.algorithm == "grid":
        return len(grid_proposals(study)) * len(study.search.training_seeds)
    return (study.search.trials or 0) * len(study.search.training_seeds)


def grid_proposals(study: Study) -> list[tuple[str, Proposal]]:
    """Every configuration of a grid study with its bracket, the arms dealt in turn, at most `search.trials`."""
    by_bracket = [[(name, proposal) for proposal in space.grid()] for name, space in brackets(study).items()]
    dealt = [row for turn in _turns(by_bracket) for row in turn]
    return dealt[: study.search.trials] if study.search.trials else dealt


def random_proposals(study: Study) -> list[tuple[str, Proposal]]:
    """Random configurations with their bracket, the arms dealt in turn, each from (search seed, bracket, number)."""
    spaces = brackets(study)
    by_bracket = [
        [
            (name, spaces[name].random(derived_seed("search", study.search.seed, name, number)))
            for number in range(count)
        ]
        for name, count in quotas(study).items()
    ]
    return [row for turn in _turns(by_bracket) for row in turn]


def qmc_proposals(study: Study) -> list[tuple[str, Proposal]]:
    """A scrambled Halton sequence over every searched setting of each bracket, the brackets dealt in turn."""
    spaces = brackets(study)
    by_bracket = []
    for name, count in quotas(study).items():
        names = [dimension.name for dimension in spaces[name].dimensions]
        points = halton(count, len(names), derived_seed("search", study.search.seed, name)) or [[]] * count
        by_bracket.append([(name, spaces[name].sample(Point(dict(zip(names, at, strict=True))))) for at in points])
    return [row for turn in _turns(by_bracket) for row in turn]


def _turns(lists: list[list[tuple[str, Proposal]]]) -> Iterator[list[tuple[str, Proposal]]]:
    for place in range(max((len(one) for one in lists), default=0)):
        yield [one[place] for one in lists if place < len(one)]


def probed_arms(study: Study) -> list[Arm]:
    """Arms whose views have settings to vary."""
    return [arm for arm in study.arms if arm.probed]


def probe_count(study: Study) -> int:
    """Number of probe trials of the study."""
    return study.probe.trials if study.probe and probed_arms(study) else 0


def confirm_count(study: Study) -> int:
    """Number of confirmation trials of the study, at most."""
    confirm = study.confirm
    return (len(study.arms) * confirm.top + len(confirm.baselines)) * len(confirm.seeds) if confirm else 0


def ablation_count(study: Study) -> int:
    """Number of trials of the ablation, with a pilot's; an upper bound where a search or a pilot decides."""
    ablation = study.ablation
    if ablation is None:
        return 0
    auto = ablation.auto_seeds
    seeds = len(ablation.possible_seeds()) if auto is None or auto.take else 0
    return cell_count(study) * (seeds + (auto.pilot if auto is not None else 0))


def cell_count(study: Study) -> int:
    """Number of cells of the ablation, at most: where a search decides on the base, that of the arm with most."""
    from akdtune.cells import plan_cells

    if study.ablation is None:
        return 0
    if study.cell_plan is not None:
        return len(study.cell_plan.cells)
    plans = (plan_cells(study.ablation, arm.centre().written, study.constants) for arm in study.arms)
    return max(len(plan.cells) for plan in plans)


def trial_count(study: Study) -> int:
    """All trials of the study, at most."""
    return search_count(study) + probe_count(study) + confirm_count(study) + ablation_count(study)


def trains_on(study: Study) -> list[TrainOn]:
    """Which images trials of this study train on: `subset`, then `full`, as far as there are such trials."""
    ablation = study.ablation
    selects = study.search.searches or study.probe is not None
    selects = selects or (ablation is not None and ablation.auto_seeds is not None)
    reports_full = study.reports and study.report.train_on == "full"
    subset: list[TrainOn] = ["subset"] if selects or not reports_full else []
    return [*subset, "full"] if reports_full else subset


def probe_proposals(study: Study) -> list[Proposal]:
    """One quasi-random design over the view settings per arm, cells dealt evenly, the first arms get the rest."""
    arms = probed_arms(study)
    if study.probe is None or not arms:
        return []
    cells = study.probe.trials // len(study.probe.seeds)
    per_arm = [
        arm.probes(cells // len(arms) + (place < cells % len(arms)), derived_seed("probe", study.search.seed, arm.name))
        for place, arm in enumerate(arms)
    ]
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

        prepared = cls(study, data.load(study.data, torch.device("cpu")))
        prepared.check_components()
        return prepared

    def check_components(self) -> None:
        """Builds every network, view and method once on the data's shape: what does not fit is refused at once.

        Raises:
            SettingsError: naming the setting, and the networks where a view or a method does not fit them.
        """
        import torch

        from akdtune.trial_parts import method_context, view_context

        problems: dict[Problem, None] = {}
        settings, built = self.study.teacher, dict[str, "Network | None"]()
        teachers = {
            path: self._built(written(("teacher", *path, "network")), one.network, problems)
            for path, one in settings.with_paths()
            if not one.absent
        }
        teacher = teachers.get(())
        known_others = [one for path, one in teachers.items() if path[:1] == ("others",) and len(path) == 2 and one]
        corners = self.study.configurations()
        for network in _distinct(corner["student"]["network"] for corner in corners):
            built[network_label(network)] = self._built("student.network", network, problems)
        for student in _distinct(corner["student"] for corner in corners):
            self._begin(student, built[network_label(student["network"])], problems)
        if not problems:
            for parts in _distinct([corner["student"]["network"], corner["views"]] for corner in corners):
                student = built[network_label(parts[0])]
                assert student is not None
                context = view_context(student, teacher, known_others, self.dataset.num_classes, torch.device("cpu"), 0)
                self._try("views", parts[1], context, settings.network, problems)
            labels_N = self.dataset.split(self.train_on).train.training_labels_N
            pairs = ([corner["student"]["network"], method] for corner in corners for method in corner["method"])
            for network, method in _distinct(pairs):
                student = built[network_label(network)]
                assert student is not None
                rest = (labels_N, self.dataset.num_classes, self.study.epochs, 0)
                of_method = method_context(method["name"], student, teacher, *rest)
                self._try("methods", method, of_method, settings.network, problems, network)
        if problems:
            raise SettingsError(problems)

    def _built(self, key: str, network: Any, problems: dict[Problem, None]) -> Network | None:
        from akdtune import networks

        try:
            return networks.build(network, self.dataset.inputs, 0)
        except AkdtuneError as error:
            problems[Problem(key, str(error), None, self.study.source)] = None
            return None

    def _begin(self, student: Mapping[str, Any], built: Network | None, problems: dict[Problem, None]) -> None:
        """Reads the file that a student begins with, as a trial would, into a copy of its network."""
        from akdtune.trial_config import StudentSettings
        from akdtune.trial_parts import begin_with

        path = student["checkpoint"]
        if path is None or built is None:
            return
        try:
            if not Path(path).exists():
                raise CheckpointError(f"{path}: no such file")
            begin_with(copy.deepcopy(built), StudentSettings(**student))
        except AkdtuneError as error:
            problems[Problem("student.checkpoint", str(error), None, self.study.source)] = None

    def _try(
        self,
        kind: Literal["views", "methods"],
        setting: Mapping[str, Any],
        context: ViewContext | MethodContext,
        teacher: str | dict[str, Any],
        problems: dict[Problem, None],
        student: str | dict[str, Any] | None = None,
    ) -> None:
        """Builds a view or a method as a trial would."""
        component = lookup(kind, setting["name"])
        typed = component.Settings(**{key: value for key, value in setting.items() if key != "name"})
        section = "views" if kind == "views" else "method"
        try:
            component(typed, context)
        except AkdtuneError as error:
            key, colon, message = str(error).partition(": ")
            if not (colon and key.startswith(f"{section}.")):
                key, message = section, str(error)
            networks = f" (teacher network: {network_label(teacher)}"
            networks += f", student network: {network_label(student)})" if student is not None else ")"
            problems[Problem(key, message + networks, None, self.study.source)] = None

    @property
    def data_hash(self) -> str:
        """Content hash of the stored images and labels."""
        return self.dataset.content_hash

    @property
    def train_on(self) -> TrainOn:
        """The images of the study's first trials, by which its settings are checked."""
        return trains_on(self.study)[0]

    def find_teacher(self, train_on: TrainOn | None = None) -> TeacherFile | None:
        """The study's teacher if it exists already; that of its first trials by default."""
        from akdtune import teacher

        return teacher.find(self.study.teacher, self.dataset, train_on or self.train_on)

    def gradient_factors(self, cells: Sequence[Cell], identity: Identity) -> dict[str, dict[str, float]]:
        """What views and their controls multiply the gradient of each loss term by, see `cell_factors`."""
        from akdtune.cell_factors import of_cells

        return of_cells(cells, self.dataset, self.train_on, identity.teacher_of("ablation"))

    def class_counts(self) -> list[int]:
        """Training images of each class, as the methods see them (label noise included)."""
        import torch

        labels = self.dataset.split(self.train_on).train.training_labels_N
        return [int(count) for count in torch.bincount(labels.cpu(), minlength=self.dataset.inputs.num_classes)]

    def facts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What follows from data, networks and methods where the settings leave it open.

        `method.<name>.<fact>`, e.g. CRD's resolved negatives; `method.<name>.published`, the values taken because they
        are published for this data set and pair of networks; `training.ce_weight[<methods>]`, the weight of the
        cross-entropy where none is set. Where the study has several students the last two name the one they hold for.
        """
        from akdtune.methods import published_on

        counts = self.class_counts()
        pair = pair_of(settings, settings["student"])
        assert pair is not None, "the settings of a trial name every network"
        of_student = f", {pair.student}" if len(self._student_names) > 1 else ""
        found: dict[str, Any] = {}
        for method in settings["method"]:
            name = method["name"]
            component = lookup("methods", name)
            typed = component.Settings(**{key: value for key, value in method.items() if key != "name"})
            found |= {f"method.{name}.{key}": value for key, value in component.facts(typed, counts).items()}
            taken = [(key, value) for key, value in published(name, {}, pair).items() if method.get(key) == value]
            if taken:
                values = ", ".join(f"{key} {value}" for key, value in sorted(taken))
                key = f"method.{name}.published" + (f"[{pair.student}]" if of_student else "")
                found[key] = f"{values} (for {pair.teacher} to {pair.student} on {published_on(pair)})"
        if settings["training"]["ce_weight"] is None:
            terms = [method["name"] for method in settings["method"]]
            weight = max(lookup("methods", name).ce_weight(pair) for name in terms)
            found[f"training.ce_weight[{'+'.join(terms)}{of_student}]"] = weight
        return found

    @functools.cached_property
    def _student_names(self) -> set[str]:
        networks = (arm.centre().settings["student"]["network"] for arm in self.study.arms)
        return {network if isinstance(network, str) else network["name"] for network in networks}


def missing_students(study: Study) -> list[str]:
    """Files that students are to begin with and that are not there."""
    corners = (settings["student"] for settings in study.configurations())
    paths = _distinct(student["checkpoint"] for student in corners if student.get("checkpoint"))
    return [path for path in paths if not Path(path).exists()]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def network_label(network: str | Mapping[str, Any]) -> str:
    """A network as a message shows it: `resnet20`, `cnn (widths: [4, 8])`."""
    if isinstance(network, str):
        return network
    settings = ", ".join(f"{key}: {value}" for key, value in network.items() if key != "name")
    return f"{network['name']} ({settings})" if settings else str(network["name"])


def student_hashes(study: Study) -> dict[str, str]:
    """Hashes of the files that students begin with, by path."""
    corners = study.configurations()
    found = {str(corner["student"].get("checkpoint")): _student_hash(corner) for corner in corners}
    return {path: value for path, value in sorted(found.items()) if value}


def _student_hash(settings: Mapping[str, Any]) -> str:
    """Hash of the file that a trial's student begins with; empty without one."""
    path = settings["student"].get("checkpoint")
    if path is None:
        return ""
    try:
        facts = Path(path).stat()
        return _file_hash(path, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error} (student.checkpoint)") from error


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
        return spec.cell_hash(
            settings,
            self.prepared.data_hash,
            self.teacher_of(role).identity,
            _student_hash(settings),
            "" if cache is None else cache.dtype,
            self.study.report.train_on if role in REPORT_ROLES else "",
        )

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


def initial_rows(study: Study, identity: Identity) -> list[dict[str, Any]]:
    """What is planned at the start: a search that does not learn (its first seeds, where they lead), and the probes."""
    rows = []
    if study.search.searches and not study.search.learns:
        proposals = {"grid": grid_proposals, "random": random_proposals, "qmc": qmc_proposals}[study.search.algorithm]
        rows += [
            identity.plan_row(proposal, "search", name, None, seed)
            for seed in study.search.training_seeds[: _seeds_at_once(study)]
            for name, proposal in proposals(study)
        ]
    if study.probe is not None:
        rows += [
            identity.plan_row(proposal, "probe", proposal.arm, None, seed)
            for seed in study.probe.seeds
            for proposal in probe_proposals(study)
        ]
    return list({row["trial_id"]: row for row in reversed(rows)}.values())[::-1]


def _seeds_at_once(study: Study) -> int:
    """How many seeds of each configuration are planned at the start: the others follow from how those end."""
    if search_rules.first_seed_leads(study.search, study.scheduler):
        return 1
    return study.scheduler.min_seeds if study.scheduler.name == "racing" else len(study.search.training_seeds)
