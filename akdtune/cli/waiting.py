"""What a command shows while it is silent otherwise: on standard error, so that its output stays what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from akdtune import progress

if TYPE_CHECKING:
    from akdtune.study.spec import Study


@contextmanager
def waiting(what: str | None = None) -> Iterator[None]:
    """Within it, whatever takes long is shown.

    Args:
        what: what is done, for a terminal, unless something inside says it better.
    """
    from rich.console import Console

    console = Console(stderr=True, markup=False)
    with progress.shown_by(progress.Shown(console)):
        if what is None or not console.is_terminal:
            yield
            return
        with progress.stage(what):
            yield


def load_study(file: str, overrides: list[str] | None) -> Study:
    """Reads a study's settings, and names the files that they stand on (`base`)."""
    with waiting("reading the settings"):
        from akdtune.study import spec

        study = spec.load(file, overrides or [])
    if study.taken_over:
        print(f"{study.source} takes over {', which takes over '.join(study.taken_over)}", flush=True)
    return study
