"""The form of design.json: the cells of a confirmation and of an ablation, as far as their values are read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from akdtune.errors import StudyError

PHASES = ("ablation", "confirm")


class _Form(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Cell(_Form):
    name: str
    cell_id: str
    role: str | None = None
    arm: str | None = None
    rank: int | None = None
    search_trial: str | None = None
    search_score: float | None = None
    levels: dict[str, Any] | None = None
    changes: dict[str, Any] | None = None
    explanation: str | None = None
    merged: list[str] | None = None
    gradient_factor: dict[str, float] | None = None
    replica_of: str | None = None
    planned: bool = True


class _Phase(_Form):
    cells: list[_Cell]
    design: str | None = None
    base: str | None = None
    reference: str | None = None
    metric: str | None = None
    trained_on: str | None = None
    top: int | None = None
    seeds: list[int] | None = None
    pilot_seeds: list[int] | None = None
    pilot: dict[str, Any] | None = None
    equivalence_margin: float | None = Field(None, gt=0)
    alpha: float | None = Field(None, gt=0, lt=1)
    families: list[list[str]] | None = None
    factors: dict[str, list[Any]] | None = None
    aliases: list[str] | None = None
    notes: list[str] | None = None


class _DesignFile(_Form):
    ablation: _Phase | None = None
    confirm: _Phase | None = None


def check_design(path: Path, held: dict[str, Any]) -> None:
    """Refuses a design of another form than it is written in.

    Raises:
        StudyError: naming the file and the first key.
    """
    try:
        _DesignFile.model_validate({name: held[name] or None for name in PHASES if name in held})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        said = "is missing" if first["type"] == "missing" else f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        raise StudyError(f"{path}: damaged, {key}: {said}; restore it from a copy") from error
