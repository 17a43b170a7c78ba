"""A checkpoint as a setting: a file, or a file and where in it the weights are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, Tag

from akdtune.registry import ComponentSettings


class CheckpointFile(ComponentSettings):
    """A file of weights, and where in it they are where that is not found without help."""

    path: str = Field(min_length=1, description="the file")
    key: str | None = Field(
        default=None,
        min_length=1,
        description="where in it the weights are, e.g. state_dict_ema or model.student; . is the top; null: found",
    )
    strip: str | None = Field(
        default=None,
        min_length=1,
        description="beginning of their names that is left out, e.g. module.student.; weights without it are left"
        " aside; null: found",
    )

    @property
    def label(self) -> str:
        """As a message shows it: the path, and what else is said."""
        more = ", ".join(f"{name}: {value}" for name in ("key", "strip") if (value := getattr(self, name)))
        return f"{self.path} ({more})" if more else self.path


def _written_as(value: Any) -> str:
    return "file" if isinstance(value, Mapping | CheckpointFile) else "path"


Checkpoint: TypeAlias = Annotated[
    Annotated[Annotated[str, Field(min_length=1)], Tag("path")] | Annotated[CheckpointFile, Tag("file")],
    Discriminator(_written_as),
]
"""A path (or a word such as `auto`), or a path with where in the file the weights are."""


def checkpoint_file(setting: str | Mapping[str, Any] | CheckpointFile) -> CheckpointFile:
    """The file of a setting, whichever way it is written."""
    if isinstance(setting, CheckpointFile):
        return setting
    return CheckpointFile(path=setting) if isinstance(setting, str) else CheckpointFile(**setting)
