"""Typed settings of live tracking in Weights & Biases; names that it would refuse are refused when they are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, ValidationInfo, field_validator

from akdtune.registry import ComponentSettings

FORBIDDEN_IN_NAMES = "/\\#?%:"
"""What Weights & Biases takes in no name of a project."""

NAME_CHARACTERS, TAG_CHARACTERS = 128, 64


def _wrong_with_name(name: str) -> str | None:
    """Why Weights & Biases would refuse a project or an entity of this name; None: it would not."""
    if not name.strip():
        return "is empty"
    if len(name) > NAME_CHARACTERS:
        return f"has {len(name)} characters, and Weights & Biases takes {NAME_CHARACTERS}"
    if found := sorted({character for character in name if character in FORBIDDEN_IN_NAMES}):
        return f"holds {' '.join(found)}, and Weights & Biases takes none of {' '.join(FORBIDDEN_IN_NAMES)} in a name"
    return None if name.isprintable() and name == name.strip() else "holds line breaks, or spaces around it"


def is_tag(text: str) -> bool:
    """Whether Weights & Biases takes a text as a tag."""
    return 0 < len(text) <= TAG_CHARACTERS


class WandbSettings(ComponentSettings):
    """Where Weights & Biases shows the trials."""

    project: str = Field(default="akdtune", description="its name alone: a team stands in entity")
    entity: str | None = Field(default=None, description="team or user; null: the key's own")
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto",
        description="auto: what WANDB_MODE or the SDK's settings file says, else online with a key; offline where the"
        " server does not answer",
    )
    tags: list[str] = Field(default=[], description=f"shown on every run, each of 1 to {TAG_CHARACTERS} characters")

    @field_validator("project", "entity")
    @classmethod
    def _is_a_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or not (problem := _wrong_with_name(value)):
            return value
        team, _, project = value.partition("/")
        splits = info.field_name == "project" and not (_wrong_with_name(team) or _wrong_with_name(project))
        hint = f"; write entity: {team}, project: {project}" if splits else ""
        raise ValueError(f"'{value[:60]}' {problem}{hint}")

    @field_validator("tags")
    @classmethod
    def _are_tags(cls, value: list[str]) -> list[str]:
        for tag in value:
            if not is_tag(tag):
                raise ValueError(f"a tag has 1 to {TAG_CHARACTERS} characters, '{tag[:20]}' has {len(tag)}")
        return value


class TrackingSettings(ComponentSettings):
    """Live tracking; results are in the study directory in any case."""

    wandb: WandbSettings | None = Field(default=None, description="null: no Weights & Biases")
    finish_timeout_s: PositiveFloat = Field(
        default=5.0, le=3600, description="seconds a trial waits for its run to close"
    )
