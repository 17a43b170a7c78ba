"""What a study needs and this machine does not have: processors, GPUs, data, checkpoints, all in one message."""

from __future__ import annotations

from akdtune.data.dataset import missing_files
from akdtune.data.source import Source
from akdtune.errors import Problem, SettingsError, StudyError
from akdtune.planning.checkpoint_files import missing_students
from akdtune.planning.cost import Machine, missing_checkpoints
from akdtune.registry import lookup
from akdtune.study.spec import Study

_FETCHED = " (will be downloaded)"


def lacking(study: Study, *, elsewhere: bool = False, teacher_only: bool = False) -> list[str]:
    """What is missing, a sentence each that says how to mend it.

    Args:
        study: checked settings.
        elsewhere: whether trials run on other machines, whose processors are not known here.
        teacher_only: whether no trial runs.
    """
    found = [] if elsewhere or teacher_only else Machine.here(study.resources).lacking(study.resources)
    found += _data(study)
    found += [f"{key}: {path}: no such file" for key, path in missing_checkpoints(study).items()]
    found += [] if teacher_only else [f"student.checkpoint: {path}: no such file" for path in missing_students(study)]
    return found


def check(study: Study, *, elsewhere: bool = False, teacher_only: bool = False) -> None:
    """Refuses a study that lacks several things, before anything starts; a single one is refused where it is used.

    Raises:
        SettingsError: with all of them.
        StudyError: for processors alone.
    """
    found = lacking(study, elsewhere=elsewhere, teacher_only=teacher_only)
    if len(found) > 1:
        parts = (sentence.partition(": ") for sentence in found)
        raise SettingsError(Problem(key, message, None, study.source) for key, _, message in parts)
    if found and found[0].startswith("resources."):
        raise StudyError(found[0])


def _data(study: Study) -> list[str]:
    """The files of the data set that are not there and will not be fetched, in one sentence."""
    settings = study.data
    missing = [] if settings.rehearsal is not None else missing_files(settings)
    absent = [name for name in missing if not name.endswith(_FETCHED)]
    if not absent:
        return []
    source: type[Source] = lookup("data", settings.name)
    more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
    ways = ["data.root names their folder"] if "root" in source.own_settings else []
    ways += ["data.download=true fetches them"] if "download" in source.own_settings else []
    return [f"data: {settings.name}: {absent[0]}{more}: no such file" + (f"; {', '.join(ways)}" if ways else "")]
