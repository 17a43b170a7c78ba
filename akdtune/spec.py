"""A study's settings: YAML in, typed and checked, every problem at once; and out again."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from akdtune import settings_file, spec_check
from akdtune.cells import CellPlan, plan_cells
from akdtune.errors import Problem, SettingsError, nearest
from akdtune.folders import packaged
from akdtune.registry import NO_NETWORK, Pair, lookup
from akdtune.sections import (
    STUDY_LEVEL,
    TRIAL_LEVEL,
    AblationSettings,
    ConfirmSettings,
    ProbeSettings,
    ReportSettings,
    ResourcesSettings,
    SchedulerSettings,
    SearchSettings,
    TrackingSettings,
)
from akdtune.settings_errors import typed
from akdtune.settings_file import DOMAINS, KeyPath, choice_key, shown, written
from akdtune.space import Arm, Pooled, Space, assert_plain
from akdtune.teacher_cache import CacheSettings
from akdtune.trial_settings import pair_of, published

if TYPE_CHECKING:
    from akdtune.data import DataSettings
    from akdtune.teacher import TeacherSettings

_NOT_IN_THE_CELL = {
    "data": {"root", "download", "train", "test", "workers"},
    "teacher": {"checkpoint"},
    "student": {"checkpoint"},
    "training": {"device", "compile", "cuda_graphs"},
}
"""Settings that say where files and devices are, and who reads them; what files hold is said by the content hashes."""

ADDED_LATER: dict[str, dict[str, Any]] = {
    "training": {"precision": "fp32", "tf32": False, "compile": False, "cuda_graphs": False},
    "search": {"objectives": ["accuracy"], "time_budget": None},
}
"""Settings that earlier versions did not have: absent is the same as this value, for hashes and for resuming."""


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        name: of the study and its directory.
        source: the settings file as the user named it.
        values: the settings as written, overrides applied, shorthands spelled out; domains are mappings.
        overrides: as given on the command line.
        arms: one choice of every component each, in the order of the file.
        pooled: all arms as one space.
        epochs: student epochs of every trial.
        probe: None when no probes are asked for.
        confirm: None where the search's best configurations are not trained again.
        ablation: None without a design.
        teacher_cache: None where teachers run live.
        warnings: sentences to show, one each, about settings that are odd or ignored.
    """

    name: str
    source: str
    values: dict[str, Any]
    overrides: tuple[str, ...]
    arms: tuple[Arm, ...]
    pooled: Pooled
    epochs: int
    data: DataSettings
    teacher: TeacherSettings
    search: SearchSettings
    scheduler: SchedulerSettings
    probe: ProbeSettings | None
    confirm: ConfirmSettings | None
    ablation: AblationSettings | None
    report: ReportSettings
    resources: ResourcesSettings
    tracking: TrackingSettings
    teacher_cache: CacheSettings | None
    plugins: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def spaces(self) -> tuple[Space, ...]:
        """What is searched separately: the arms, or all of them pooled."""
        return (self.pooled,) if self.search.fair == "pooled" else self.arms

    @property
    def constants(self) -> dict[str, Any]:
        """The sections that all trials share, `data` and `teacher`, as plain JSON."""
        return {"data": self.data.model_dump(mode="json"), "teacher": self.teacher.model_dump(mode="json")}

    @property
    def reports(self) -> bool:
        """Whether there are trials that read the test set."""
        return self.confirm is not None or self.ablation is not None

    def configurations(self) -> list[dict[str, Any]]:
        """Settings that together hold every option and end of what is searched, and every cell that is known."""
        known = [] if self.cell_plan is None else [cell.settings for cell in self.cell_plan.cells]
        searching = self.search.searches or self.probe is not None or not known
        corners = [proposal.settings for arm in self.arms for proposal in arm.corners()] if searching else []
        return corners + known

    @functools.cached_property
    def cell_plan(self) -> CellPlan | None:
        """The ablation's cells; None without one, and where its base is the winner of a search still to come."""
        if self.ablation is None or self.ablation.base == "winner":
            return None
        return plan_cells(self.ablation, self.arms[0].centre().written, self.constants)

    @property
    def rungs(self) -> list[int]:
        """Epochs at which search trials are compared."""
        return self.scheduler.rungs(self.epochs)

    def resolved(self) -> dict[str, Any]:
        """Everything with defaults filled in, as plain JSON that `load` accepts again.

        What differs between the options of a searched setting, or between searched students, is left open: presets and
        published values then follow from what a trial draws.
        """
        values: dict[str, Any] = {
            "study": self.name,
            "plugins": list(self.plugins),
            "data": self.data.model_dump(mode="json"),
            "teacher": self.teacher.model_dump(mode="json"),
        }
        pairs = {pair_of(values, arm.centre().settings["student"]) for arm in self.arms}
        for section in TRIAL_LEVEL:
            values[section] = _with_defaults(self.values[section], section, pairs)
        for section in STUDY_LEVEL:
            settings = getattr(self, section)
            values[section] = None if settings is None else settings.model_dump(mode="json")
        values["scheduler"] = self.scheduler.resolved()
        assert_plain(values)
        return values


def load(source: str | Path, overrides: Iterable[str] = ()) -> Study:
    """Reads a study from a YAML file or from a packaged name.

    Args:
        source: path of a file, or a name out of `packaged()`.
        overrides: `key.path=value` texts that win over the file.

    Raises:
        SettingsError: with every problem of the file and the overrides.
    """
    overrides = tuple(overrides)
    file = settings_file.read(_locate(str(source)), str(source))
    for text in overrides:
        settings_file.override(file, text)
    return Study(source=str(source), overrides=overrides, **spec_check.Reading(file).study(str(source)))


def json_schema() -> dict[str, Any]:
    """The JSON schema of a study file, from which editors complete and check."""
    from akdtune.json_schema import build

    return build()


def _locate(source: str) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    known = packaged()
    if source in known:
        return known[source]
    beside = [str(path.with_name(found.name)) for found in sorted(path.parent.glob("*.y*ml"))]
    if close := nearest(str(path), beside):
        hint = f"; did you mean '{close}'?"
    elif close := path.stem if path.stem in known else nearest(path.stem, known):
        hint = f"; did you mean the packaged '{close}'?"
    else:
        hint = f" (packaged: {', '.join(known)})"
    raise SettingsError([Problem(source, f"there is no such file{hint}")])


def cell_hash(
    settings: Mapping[str, Any],
    data_hash: str,
    teacher_hash: str,
    student_hash: str = "",
    cache_dtype: str = "",
    reports_on: str = "",
) -> str:
    """Twelve hex digits for everything that determines a trial's result except its seed.

    Args:
        settings: of a proposal.
        data_hash: content hash of the images and labels.
        teacher_hash: content hash of the teacher's weights; `none` without a teacher, whose settings then do not count.
        student_hash: content hash of the file that the student begins with; empty without one.
        cache_dtype: what the teacher's numbers are rounded to; empty where they are not.
        reports_on: what a trial that reads the test set trains on, `full` or `subset`; empty for the others.
    """
    counted = {section: _counted(value, _NOT_IN_THE_CELL.get(section, set())) for section, value in settings.items()}
    for section in counted.keys() & ADDED_LATER.keys():
        later = ADDED_LATER[section]
        counted[section] = {k: item for k, item in counted[section].items() if k not in later or item != later[k]}
    if teacher_hash == NO_NETWORK:
        counted["teacher"] = NO_NETWORK
    hashes = [data_hash, teacher_hash, *([student_hash] if student_hash else [])]
    hashes += [f"teacher_cache.dtype={cache_dtype}"] if cache_dtype else []
    hashes += [f"reports, trained on {reports_on}"] if reports_on else []
    text = json.dumps([counted, *hashes], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _counted(value: Any, left_out: Set[str]) -> Any:
    """A section without some keys, in nested teachers either."""
    if not isinstance(value, dict):
        return value
    kept = {key: item for key, item in value.items() if key not in left_out}
    for key in ("others", "distilled_from"):
        if isinstance(kept.get(key), list):
            kept[key] = [_counted(one, left_out) for one in kept[key]]
    return kept


def _with_defaults(value: Any, section: str, pairs: Set[Pair | None]) -> Any:
    """A section as written, with the defaults of every component in it, those published for the pairs included."""
    options = choice_key(value)
    if options is not None:
        return {options: [_with_defaults(option, section, pairs) for option in value[options]]}
    if isinstance(value, list):
        return [_with_defaults(term, section, pairs) for term in value]
    if not isinstance(value, dict):
        return value
    if section == "student":
        return {**value, "network": _with_defaults(value["network"], "network", set())}
    if section == "training":
        from akdtune.trial_config import TrainingSettings

        return {**_defaults(TrainingSettings, _drawn(value)), **value}
    name = value.get("name")
    if not isinstance(name, str):
        return value
    given = {key: item for key, item in value.items() if key != "name"}
    drawn = _drawn(given)
    if section == "method":
        drawn = [{**published(name, one, pair), **one} for one in drawn for pair in pairs]
    filled = _defaults(lookup(settings_file.COMPONENTS[section], name).Settings, drawn)
    return {"name": name, **{key: item for key, item in filled.items() if key not in given}, **given}


def _drawn(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings without domains: the first option of each, then each other option of one of them at a time."""
    options = {key: list(_options(item)) for key, item in given.items()}
    first = {key: found[0] for key, found in options.items()}
    return [first, *({**first, key: other} for key, found in options.items() for other in found[1:])]


def _options(value: Any) -> Iterator[Any]:
    """Each option of a choice, the low end of a range, a constant itself; domains inside lists are decided alike."""
    key = next((key for key in value if key in DOMAINS), None) if isinstance(value, dict) else None
    if key in DOMAINS[2:]:
        yield value[key][0]
    elif key is not None:
        for option in value[key]:
            yield from _options(option)
    else:
        yield [next(_options(item)) for item in value] if isinstance(value, list) else value


def _defaults(model: type[BaseModel], drawn: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a settings class fills in whatever is drawn; nothing where what is drawn does not fit it."""
    found = [settings.model_dump(mode="json") for one in drawn if (settings := typed(model, one)[0]) is not None]
    if len(found) < len(drawn):
        return {}
    return {key: item for key, item in found[0].items() if all(other[key] == item for other in found)}


def settings_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two resolved studies, one readable line each: `training.epochs: 40 -> 20`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{path}: {before.get(path, '(absent)')} -> {after.get(path, '(absent)')}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value and not (len(value) == 1 and next(iter(value)) in DOMAINS[2:]):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield written(path), shown(value, 200)


def _used(teacher: Mapping[str, Any]) -> str | dict[str, Any]:
    """A teacher's settings without those that did not matter, further teachers included."""
    if spec_check.network_is(teacher, NO_NETWORK):
        return NO_NETWORK
    nested = ("others", "distilled_from")
    return {
        key: [_used(one) for one in teacher[key]] if key in nested else teacher[key]
        for key in spec_check.used_of(teacher)
    }


def export_yaml(
    resolved: Mapping[str, Any], settings: Mapping[str, Any], name: str | None = None, seed: int | None = None
) -> str:
    """A study of one configuration as YAML that runs as is.

    Args:
        resolved: the study it comes from, as `Study.resolved()` gives it.
        settings: of a proposal.
        name: of the new study; default: the old one's with `_best`.
        seed: with which it trains; default: that of the study's search trials.
    """
    study = name or f"{resolved['study']}_best"
    body: dict[str, Any] = {"study": study}
    if resolved.get("plugins"):
        body["plugins"] = resolved["plugins"]
    body.update({section: settings[section] for section in ("data", "teacher", *TRIAL_LEVEL)})
    body["teacher"] = _used(body["teacher"])
    if seed is None:
        seed = (resolved.get("search") or {}).get("trial_seed", 0)
    body["search"] = {"algorithm": "grid", "trial_seed": seed}
    body["scheduler"] = {"name": "none"}
    body.update({section: resolved[section] for section in ("resources", "tracking") if resolved.get(section)})
    if not spec_check.network_is(settings["teacher"], NO_NETWORK):
        body["teacher_cache"] = resolved.get("teacher_cache")  # null, too, says something: the numbers are as before
    head = f"# One configuration out of the study '{resolved['study']}': `akdtune run` trains it once.\n"
    return head + yaml.safe_dump(body, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
