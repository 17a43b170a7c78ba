"""What differs in how joined studies were trained, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from akdtune.reports.paper.joined import Joined
from akdtune.reports.paper.pairs import JUDGES
from akdtune.reports.paper.studies import PaperStudy
from akdtune.settings.data import DataSettings
from akdtune.settings.file import leaves
from akdtune.settings.training import TrainingSettings

WHERE_FILES_ARE = ("root", "download", "train", "test", "workers", "memory_mib", "stream", "rehearsal")
HOW_IT_RUNS = ("device", "compile", "cuda_graphs")
OF_A_MACHINE = ("torch", "akdtune", "processor", "threads", "device")
ABSENT = "none"
ROWS_SHOWN = 6
"""Rows of one name and different settings that are named."""


def differences(studies: Sequence[PaperStudy]) -> list[str]:
    """One line for each setting or version in which studies differ: `training.epochs: 240 (a), 100 (b)`."""
    facts = [_facts(study) for study in studies]
    lines = []
    for part in dict.fromkeys(part for of_study in facts for part in of_study):
        having = [(study.name, of_study[part]) for study, of_study in zip(studies, facts, strict=True)
                  if part in of_study]  # fmt: skip
        for key in dict.fromkeys(key for _, settings in having for key in settings):
            holders: dict[str, list[str]] = {}
            for name, settings in having:
                holders.setdefault(settings.get(key, ABSENT), []).append(name)
            if len(holders) > 1:
                lines.append(f"{part}{key}: {grouped(holders)}")
    return lines


def grouped(holders: Mapping[str, Iterable[str]]) -> str:
    """Values with who has them: `240 (a, b), 100 (c)`."""
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in holders.items())


def differing_studies(studies: Sequence[PaperStudy], places: Sequence[int]) -> bool:
    """Whether some of these studies differ in anything that `differences` names."""
    return len(places) > 1 and bool(differences([studies[place] for place in places]))


def _facts(study: PaperStudy) -> dict[str, dict[str, str]]:
    """What a study says about its training, by part; data in a part of each set, so that others are not compared."""
    settings = study.lock.get("settings") or {}
    facts: dict[str, dict[str, str]] = {}
    if isinstance(settings.get("training"), Mapping):
        facts["training."] = _flat(TrainingSettings, settings["training"], HOW_IT_RUNS)
    trained_on = (settings.get("report") or {}).get("train_on", "full")
    reports = study.phase != "search"
    if settings and reports:
        facts["report."] = {"train_on": trained_on}
    data = settings.get("data")
    if isinstance(data, Mapping):
        # Which images are held out matters where something is judged on them, or not trained on.
        idle = JUDGES if reports and trained_on == "full" else ()
        facts[f"data ({data.get('name')})."] = _flat(DataSettings, data, ("name", *WHERE_FILES_ARE, *idle))
    for name in OF_A_MACHINE:
        known = sorted({str(where[name]) for where in study.origin.trained_on if where.get(name) is not None})
        facts |= {name: {"": " and ".join(known)}} if known else {}
    if study.lock:
        facts["version of the random streams"] = {"": str(study.lock.get("streams", 1))}
    return facts


def _flat(model: type[BaseModel], section: Mapping[str, Any], without: Iterable[str]) -> dict[str, str]:
    """The settings of a section by key path, those that it leaves out at their defaults; what is null is left out."""
    defaults = {
        key: field.get_default(call_default_factory=True)
        for key, field in model.model_fields.items()
        if not field.is_required()
    }
    plain = {key: value for key, value in defaults.items() if not isinstance(value, BaseModel)}
    held = {key: value for key, value in {**plain, **section}.items() if key not in without}
    return {key: _bare(value) for key, value in leaves(held) if value != "null"}


def _bare(text: str) -> str:
    """A value as a sentence shows it, without the quotes of a text."""
    return text[1:-1] if text[:1] == text[-1:] == "'" and len(text) > 1 else text


def settings_lines(joined: Joined, studies: Sequence[PaperStudy]) -> list[str]:
    """Rows of one name whose views, methods or selection have other settings in other columns, a line each.

    Settings that a search has chosen differ by nature and are not named.
    """
    lines = []
    for row in joined.rows:
        holders: dict[str, dict[str, list[str]]] = {}
        cells = [cell for cell in row.cells.values() if cell.chosen_from == 1]
        entries = [cell.entries[0] for cell in cells if not _was_searched(studies[cell.entries[0][0]])]
        if len(entries) < 2:
            continue
        for place, entry in entries:
            held = {key: entry.settings[key] for key in ("views", "method", "selection") if key in entry.settings}
            for key, value in leaves(held):
                holders.setdefault(key, {}).setdefault(_bare(value), []).append(studies[place].name)
        told = [f"{key} {grouped(values)}" for key, values in holders.items() if len(values) > 1]
        if told:
            lines.append(f"{row.label}: {'; '.join(told)}")
    more = len(lines) - ROWS_SHOWN
    return lines[:ROWS_SHOWN] + ([f"{more} more rows (--format csv)"] if more > 0 else [])


def _was_searched(study: PaperStudy) -> bool:
    return study.phase != "ablation"
