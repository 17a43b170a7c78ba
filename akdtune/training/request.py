"""What a trial is asked: everything that reaches it, typed, and as the plain JSON in which it travels and is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from akdtune.settings.teacher import CacheSettings
from akdtune.teacher.file import TeacherFile

_OF_A_RUNNING_STUDY = (
    "cell", "study_uid", "report_trains_on", "tracking", "record", "rungs", "root", "stop_flag", "stop_actor",
)  # fmt: skip


def trial_seeds(seed: int, shift: Mapping[str, int] | None = None) -> dict[str, int]:
    """The seeds of one trial: the same for all sources of randomness but those that its cell shifts.

    Args:
        seed: of the trial.
        shift: what its cell adds, by source (`seeds` of its settings); `rounding` is no source of randomness and stands
            as it is.
    """
    shift = shift or {}
    seeds = {name: seed + shift.get(name, 0) for name in ("init", "order", "noise")}
    return seeds | ({"rounding": shift["rounding"]} if "rounding" in shift else {})


@dataclass(frozen=True, kw_only=True)
class TrialRequest:
    """What a trial is asked. Its settings, seeds, role and teacher determine its numbers; the rest may be missing.

    Attributes:
        trial_id, cell_id, arm, seed, params: as in the plan.
        role: search | probe | pilot | confirm | ablation | control.
        settings: of the trial, filled in.
        cell: name of its cell, of a trial of a design.
        study: name of the study.
        study_uid: tells apart studies of the same name.
        seeds: by source of randomness.
        report_trains_on: what trials that read the test set train on.
        teacher_file: where the frozen teacher lies.
        teacher_cache: through which its numbers come; None: live.
        plugins, plugin_folders: modules to import first, and where they were found.
        tracking: the study's section.
        record: what is kept besides rows and state, as far as that is not the default.
        rungs: epochs after which it may be stopped early.
        root: the study directory; empty for a trial outside a running study.
        stop_flag: the file in it that asks the trial to save itself.
        stop_actor: the Ray actor that asks so on a cluster.
        cpu: threads it may use.
    """

    trial_id: str = ""
    cell_id: str = ""
    role: str = "search"
    arm: str = ""
    seed: int = 0
    settings: Mapping[str, Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    cell: str | None = None
    study: str = ""
    study_uid: str = ""
    seeds: Mapping[str, int] = field(default_factory=lambda: trial_seeds(0))
    report_trains_on: Literal["subset", "full"] = "full"
    teacher_file: TeacherFile
    teacher_cache: CacheSettings | None = None
    plugins: Sequence[str] = ()
    plugin_folders: Sequence[str] = ()
    tracking: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    rungs: Sequence[int] = ()
    root: str = ""
    stop_flag: str = ""
    stop_actor: str | None = None
    cpu: float = 1

    def plain(self) -> dict[str, Any]:
        """The same as plain JSON; outside a running study without what only such a one has."""
        plain = {name: getattr(self, name) for name in (of.name for of in fields(self))}
        plain["teacher_file"] = self.teacher_file.plain()
        plain["teacher_cache"] = None if self.teacher_cache is None else self.teacher_cache.model_dump()
        for name in ("plugins", "plugin_folders", "rungs"):
            plain[name] = list(plain[name])
        if not self.root:
            for name in _OF_A_RUNNING_STUDY:
                if plain[name] in (None, "", "full", {}, []):
                    del plain[name]
        return plain

    def alone(self) -> TrialRequest:
        """The same trial outside a running study: it trains the same, for no directory, no tracking and no record."""
        return replace(self, study_uid="", tracking={}, record={}, root="", stop_flag="", stop_actor=None)

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> TrialRequest:
        """The inverse of `plain`, for JSON that may also hold more.

        Raises:
            TypeError, KeyError, ValidationError: when settings or teacher are missing, or of another form.
        """
        cache = plain.get("teacher_cache")
        values = {of.name: plain[of.name] for of in fields(cls) if of.name in plain}
        values["teacher_file"] = TeacherFile.parse(plain["teacher_file"])
        values["teacher_cache"] = None if cache is None else CacheSettings.held(cache)
        return cls(**values)
