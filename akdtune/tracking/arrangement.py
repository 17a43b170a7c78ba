"""How trials stand in dashboards: flat settings with short names, metrics in sections, names that everybody takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from akdtune.columns import Column, declarations, section_of
from akdtune.reports.short_names import short_names
from akdtune.settings.leaves import leaves, scalar, varied

Names = Mapping[str, str]
"""The flat name of each searched or compared setting, by its key path."""

Flat = dict[str, str | int | float | bool | None]
Metrics = dict[str, float]

PLACE = ("study", "arm", "role", "seed", "cell", "trial_id", "cell_id", "attempt")
"""What says where a run belongs."""

COMPONENTS = {
    "views": "views.name", "method": "method", "selection": "selection.name", "student": "student.network",
    "teacher": "teacher.network", "data": "data.name",
}  # fmt: skip
"""What a trial has one of, by flat name, and where its name stands."""

WHOLE = "settings"
"""All settings of a trial, as JSON text."""

_COMPONENTS = frozenset(path.removesuffix(".name") for path in COMPONENTS.values())
TAKEN = frozenset({*PLACE, *COMPONENTS, WHOLE, "study_uid", "status"})

_OTHER = re.compile(r"[^0-9A-Za-z_]+")
_DIGEST = 8


def flat_names(paths: Iterable[str], known: Names | None = None) -> dict[str, str]:
    """Short names of settings: letters, digits and underscores, the same for all trials of a study.

    Args:
        paths: key paths of the whole study.
        known: names given out before, which stay; new ones keep out of their way.
    """
    named = dict(known or {})
    given = set(named.values())
    for path, short in short_names([*named, *paths], TAKEN).items():
        if path in named or path.removesuffix(".name") in _COMPONENTS:
            continue
        wishes = [_word(short), _word(path)]
        wishes += [f"{wishes[1]}_{number}" for number in range(2, len(given) + 3)]
        named[path] = next(wish for wish in wishes if wish not in given and wish not in TAKEN)
        given.add(named[path])
    return named


def _word(name: str) -> str:
    word = _OTHER.sub("_", name).strip("_") or "setting"
    return f"_{word}" if word[0].isdigit() else word


def names_of_trials(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The flat names of a study that has noted none, from its plan.

    Args:
        rows: of the plan.
    """
    searched = (path for row in rows for path in row["params"])
    return flat_names(dict.fromkeys([*searched, *varied(row["settings"] for row in rows)]))


def flat_config(trial: Mapping[str, Any], names: Names) -> Flat:
    """A trial's settings for filters, groups and parallel coordinates: no periods, no lists.

    Settings without a flat name are in `settings`, all of them as JSON text.

    Args:
        trial: its place, `settings` and `params`.
        names: flat ones.
    """
    settings, params = trial["settings"], trial.get("params") or {}
    of = leaves(settings)
    config: Flat = {name: trial[name] for name in PLACE if trial.get(name) is not None}
    for name, path in COMPONENTS.items():
        value = of.get(path, of.get(f"{path}.name"))
        if value is not None:
            config[name] = scalar(value)
    for path, name in names.items():
        if path in of or path in params:
            config[name] = scalar(of[path] if path in of else params[path])
    return {**config, WHOLE: json.dumps(settings, sort_keys=True)}


class Arranged:
    """Names of metrics by section: `student/val_accuracy`, `loss/kd`, `views/margin`.

    Attributes:
        columns: what is declared about the rows' columns.
    """

    def __init__(self, columns: Sequence[Column] = ()) -> None:
        self._names: dict[str, str] = {}
        self.columns = columns

    def name(self, column: str) -> str:
        """The metric of a column; `epoch` is the step of all others."""
        if column not in self._names:
            self._names[column] = metric_name(column, declarations([column], self.columns).get(column))
        return self._names[column]

    def metrics(self, row: Mapping[str, Any]) -> Metrics:
        """The numbers of a row, without nulls, texts and the attempt."""
        return {
            self.name(name): value
            for name, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "attempt"
        }


def metric_name(name: str, column: Column | None = None) -> str:
    """The metric of one column."""
    if name == "epoch":
        return name
    section = section_of(name, column)
    own = "total" if name == "train_loss" else name.removeprefix("loss.") if section == "loss" else name
    return f"{section}/{_OTHER.sub('_', own)}"


def group_of(trial: Mapping[str, Any], characters: int) -> str:
    """Study and arm, of a cell its name: trials that differ in their seeds alone, or are of one arm's search."""
    return shortened(f"{trial['study']}/{trial.get('cell') or trial['arm']}", characters)


def shortened(name: str, characters: int) -> str:
    """A name cut to so many characters; what is cut off ends in a digest, so that different names stay different."""
    if len(name) <= characters:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    return f"{name[: characters - _DIGEST - 1]}-{digest}"
