"""The section `task`: what a study trains for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_TASK = "image"
"""What every study trains for that names no task."""


def named_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """The constant sections of a study with its task, as far as it is no other one than of all studies so far."""
    task = values.get("task") or {"name": DEFAULT_TASK}
    return {} if task == {"name": DEFAULT_TASK} else {"task": dict(task)}
