"""A study read from Python: settings by name, overrides as texts or as mappings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError
from akdtune.study import spec
from akdtune.study.spec import Study


def read(source: str | Path, *overrides: str | Mapping[str, Any]) -> Study:
    """Reads and checks a study.

    Args:
        source: a YAML file, or the name of a packaged study (`akdtune spaces` lists them).
        overrides: what wins over the file, in order: `"search.trials=48"` as on the command line, or
            `{"search.trials": 48, "views.margin": {"uniform": [0.1, 0.6]}}`.

    Raises:
        SettingsError: with every problem of the file and the overrides.

    Example:
        >>> study = read("digits_angular", "search.trials=48", {"probe.trials": 12})
        >>> study.name, study.search.trials, study.probe.trials
        ('digits_angular', 48, 12)
    """
    return spec.load(source, [text for given in overrides for text in _texts(given)])


def as_study(study: Study | str | Path) -> Study:
    """A study as it is, or read by its name.

    Raises:
        SettingsError: as `read`.
    """
    return study if isinstance(study, Study) else read(study)


def _texts(given: str | Mapping[str, Any]) -> Iterable[str]:
    if isinstance(given, str):
        return [given]
    return [f"{path}={_as_yaml(path, value)}" for path, value in given.items()]


def _as_yaml(path: str, value: Any) -> str:
    """JSON is YAML; numbers of numpy and paths become plain ones."""
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError) as error:
        raise AkdtuneError(f"{path}: is no plain value that a settings file could hold: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if callable(as_plain := getattr(value, "tolist", None)):
        return as_plain()
    raise TypeError(f"{type(value).__name__} {value!r}")
