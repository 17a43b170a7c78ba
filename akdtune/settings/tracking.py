"""Typed settings of live tracking: Weights & Biases, whose refusals come when the file is read, and other loggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    create_model,
    field_validator,
    model_serializer,
)

from akdtune.errors import AkdtuneError
from akdtune.registry import ComponentSettings, lookup, names

FORBIDDEN_IN_NAMES = "/\\#?%:"
"""What Weights & Biases takes in no name of a project."""

NAME_CHARACTERS, GROUP_CHARACTERS, TAG_CHARACTERS = 128, 128, 64
"""What Weights & Biases takes: names of projects, entities and runs, and their ids; groups; tags and kinds of jobs."""


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
    return 0 < len(text) <= TAG_CHARACTERS and bool(text.strip()) and text.isprintable()


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
    system_metrics: Literal["auto"] | bool = Field(
        default="auto", description="use of processor, memory and GPU over time; auto: where trials have a GPU"
    )

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
            if not 0 < len(tag) <= TAG_CHARACTERS:
                raise ValueError(f"a tag has 1 to {TAG_CHARACTERS} characters, '{tag[:20]}' has {len(tag)}")
            if not is_tag(tag):
                raise ValueError(f"a tag is text on one line, got {tag!r}")
        return value


class TrackingSettings(ComponentSettings):
    """Live tracking; results are in the study directory in any case."""

    wandb: WandbSettings | None = Field(default=None, description="null: no Weights & Biases")
    finish_timeout_s: PositiveFloat = Field(
        default=5.0, le=3600, description="seconds a trial waits for its loggers to close"
    )

    @model_serializer(mode="wrap")
    def _without_absent_loggers(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A logger that is not asked for stands nowhere, so that studies without it are written as ever."""
        held: dict[str, Any] = plain(self)
        return {name: value for name, value in held.items() if value is not None or name in _ALWAYS}


_ALWAYS = frozenset(TrackingSettings.model_fields)


def tracking_model(given: Any) -> tuple[type[TrackingSettings], list[str]]:
    """The section's settings with those of the loggers that it names.

    Args:
        given: the section as the file has it.

    Returns:
        The class, and where a key is unknown, all names of loggers that could stand there.
    """
    keys = [str(key) for key in given if key not in _ALWAYS] if isinstance(given, Mapping) else []
    known: dict[str, Any] = {}
    for key in keys:
        try:
            settings = lookup("loggers", key).Settings
        except AkdtuneError:
            return _with(known), [name for name in names("loggers") if name not in _ALWAYS and name not in known]
        known[key] = (settings | None, Field(default=None, description=f"null: no {key}"))
    return _with(known), []


def every_logger() -> type[TrackingSettings]:
    """The section's settings with those of all loggers that are registered."""
    return tracking_model(dict.fromkeys(names("loggers")))[0]


def _with(loggers: dict[str, Any]) -> type[TrackingSettings]:
    if not loggers:
        return TrackingSettings
    return create_model("TrackingSettings", __base__=TrackingSettings, __doc__=TrackingSettings.__doc__, **loggers)


def lacking(settings: TrackingSettings) -> dict[str, str]:
    """Loggers that need a package which is not installed, and what to do."""
    asked = (name for name in type(settings).model_fields if name not in _ALWAYS)
    wanted = [name for name in asked if getattr(settings, name) is not None]
    return {name: why for name in wanted if (why := lookup("loggers", name).lacking()) is not None}
