"""What `task` may say, and what other sections say of its metric."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from akdtune.errors import AkdtuneError, unknown_name
from akdtune.metric import ACCURACY, Metric
from akdtune.registry import NO_NETWORK, lookup, names
from akdtune.settings.file import DOMAINS, shown
from akdtune.settings.messages import typed
from akdtune.settings.sections import COSTS
from akdtune.settings.task import DEFAULT_TASK
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.trial import of_another_kind
from akdtune.study.searched import Remarks


def checked(remarks: Remarks, value: Any) -> tuple[dict[str, Any], Metric]:
    """The task of a study, its settings filled in, and its metric; images where the section is absent or wrong.

    Args:
        remarks: take what is wrong.
        value: the section as written: nothing, a name, or `{name: ..., settings}`.
    """
    section = {"name": DEFAULT_TASK} if value is None else {"name": value} if isinstance(value, str) else value
    otherwise = {"name": DEFAULT_TASK}, ACCURACY
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        searched = isinstance(section, dict) and any(key in DOMAINS for key in section)
        why = "all trials of a study train for one task" if searched else "must be a name or a mapping with a 'name'"
        remarks.problem(("task",), why if searched else f"{why}, got {shown(value)}")
        return otherwise
    name = section["name"]
    try:
        task = lookup("tasks", name)
    except AkdtuneError:
        remarks.problem(("task",), unknown_name("task", name, names("tasks")))
        return otherwise
    given = {key: item for key, item in section.items() if key != "name"}
    settings, issues = typed(task.Settings, given, ("name",))
    for path, message in issues:
        remarks.problem(("task", *path), message)
    filled = {} if settings is None else settings.model_dump(mode="json")
    return {"name": name, **filled}, task.metric


def check_data(remarks: Remarks, task: Mapping[str, Any], data: Any) -> None:
    """Refuses a data set of another kind than the task is made for.

    Args:
        remarks: take what is wrong.
        task: as `checked` gives it.
        data: the section as written.
    """
    name = data.get("name") if isinstance(data, Mapping) else None
    if not isinstance(name, str) or name not in names("data"):
        return
    takes, holds = lookup("tasks", task["name"]).takes, lookup("data", name).takes
    if takes != holds:
        fitting = [known for known in names("data") if lookup("data", known).takes == takes]
        chosen = "" if remarks.file.values.get("task") is not None else ", the default,"
        remarks.problem(
            ("data", "name"),
            f"the data set '{name}' holds {holds}, and the task '{task['name']}'{chosen} takes {takes} (data sets of "
            f"{takes}: {', '.join(fitting)})",
        )


def check_teacher(remarks: Remarks, task: Mapping[str, Any], teacher: TeacherSettings | None) -> None:
    """Refuses teachers' networks of another kind than the task is made for, augmentations of what is no image, and no
    teacher where a student is judged beside it.

    Args:
        remarks: take what is wrong.
        task: as `checked` gives it.
        teacher: typed, further ones included; None where it is wrong.
    """
    component = lookup("tasks", task["name"])
    takes = component.takes
    if component.needs_teacher and teacher is not None and teacher.absent:
        why = f"the task '{task['name']}' judges a student beside its teacher, by {component.metric.words}"
        remarks.problem(("teacher", "network"), f"{why}, and teacher.network is {NO_NETWORK}")
    for path, one in () if teacher is None else teacher.with_paths():
        for place, message in of_another_kind(("teacher", *path, "network"), one.network, task["name"], takes):
            remarks.problem(place, message)
        if takes != "images" and one.augmentation is not None:
            why = f"is of images, and the task '{task['name']}' takes {takes}"
            remarks.problem(("teacher", *path, "augmentation"), why)


def name_the_metric(remarks: Remarks, fixed: MutableMapping[str, Any], metric: Metric) -> None:
    """Fills the metric of the task in where none is named, and refuses objectives that are not the task's.

    Args:
        remarks: take what is wrong.
        fixed: typed sections by name.
        metric: of the task.
    """
    search, ablation = fixed["search"], fixed["ablation"]
    if ablation is not None and "metric" not in ablation.model_fields_set:
        fixed["ablation"] = ablation.model_copy(update={"metric": metric.test})
    if search is None:
        return
    if "objectives" not in search.model_fields_set:
        fixed["search"] = search.model_copy(update={"objectives": [metric.name]})
        return
    allowed = (metric.name, *COSTS)
    unknown = next((name for name in search.objectives if name not in allowed), None)
    if unknown is not None:
        remarks.problem(("search", "objectives"), unknown_name("objective", unknown, allowed))
    elif metric.name not in search.objectives:
        remarks.problem(
            ("search", "objectives"),
            f"objectives must hold {metric.name}, and each at most once, got {search.objectives}",
        )
