"""What a command shows while it is silent otherwise: on standard error, so that its output stays what it is.

Every command runs within `shown`, so that all that calls itself a `progress.stage` is seen, whoever does it.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from akdtune import progress

if TYPE_CHECKING:
    from akdtune.study.spec import Study


class _OnStandardError(progress.Shown):
    """Stages on standard error; what draws them is loaded with the first that is shown."""

    def __init__(self) -> None:
        super().__init__(None)
        self._stream = sys.stderr  # an analysis that is tried out prints elsewhere

    @cached_property
    @override
    def console(self) -> Any:
        from rich.console import Console

        return Console(file=self._stream, markup=False)

    @property
    @override
    def is_moving(self) -> bool:
        return self._stream.isatty() and super().is_moving


def shown() -> AbstractContextManager[None]:
    """Within it, whatever takes long is shown."""
    return progress.shown_by(_OnStandardError())


def waiting(what: str) -> AbstractContextManager[None]:
    """Within it, a command does something long, which what is inside may say better."""
    return progress.stage(what)


def load_study(file: str, overrides: list[str] | None) -> Study:
    """Reads a study's settings, and names the files that they stand on (`base`)."""
    with waiting("reading the settings"):
        from akdtune.study import spec

        study = spec.load(file, overrides or [])
    if study.taken_over:
        print(f"{study.source} takes over {', which takes over '.join(study.taken_over)}", flush=True)
    return study
