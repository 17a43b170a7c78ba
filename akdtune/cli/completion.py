"""What a shell offers at TAB: studies, runs, trials, analyses, components. Nothing heavy is imported for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from akdtune.cli.known_names import DATA, NETWORKS
from akdtune.folders import PACKAGE, packaged
from akdtune.roles import STATUSES

RUNS = Path("runs")
_MARKS = ("study.lock.yaml", "ledger.jsonl")
"""Files by which a folder is told to be a study's."""

_TRIAL = re.compile(r'"trial_id": ?"([^"]+)"')

Complete = Callable[[str], list[str]]


def studies(incomplete: str) -> list[str]:
    """Packaged studies, and settings files."""
    return [*_begin(packaged(), incomplete), *_paths(incomplete, (".yaml", ".yml"))]


def runs(incomplete: str) -> list[str]:
    """Study directories by their names under runs/, and by their paths."""
    names = sorted(path.name for path in _folders(RUNS) if any((path / mark).exists() for mark in _MARKS))
    return list(dict.fromkeys([*_begin(names, incomplete), *_paths(incomplete, ())]))


def trials(ctx: Any, incomplete: str) -> list[str]:
    """The trials of the study that stands before them."""
    given = ctx.params.get("run")
    if not isinstance(given, str):
        return []
    for folder in (Path(given).expanduser(), RUNS / given):
        try:
            text = (folder / "ledger.jsonl").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        return _begin(dict.fromkeys(_TRIAL.findall(text)), incomplete)
    return []


def analyses(incomplete: str) -> list[str]:
    """The analyses."""
    inside = PACKAGE / "analysis"
    folder = inside if inside.is_dir() else PACKAGE.parent / "analysis"
    return _begin(_modules(folder), incomplete)


def methods(incomplete: str) -> list[str]:
    """The base methods, one file each."""
    return _begin(_modules(PACKAGE / "methods"), incomplete)


def views(incomplete: str) -> list[str]:
    """The view augmenters, one file each."""
    return _begin(_modules(PACKAGE / "views"), incomplete)


def selections(incomplete: str) -> list[str]:
    """The selections, one file each."""
    return _begin(_modules(PACKAGE / "selections"), incomplete)


def networks(incomplete: str) -> list[str]:
    """The networks."""
    return _begin(NETWORKS, incomplete)


def data(incomplete: str) -> list[str]:
    """The data sets."""
    return _begin(DATA, incomplete)


def statuses(incomplete: str) -> list[str]:
    """What a trial may be."""
    return _begin(STATUSES, incomplete)


def _begin(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _modules(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """Folders, with a slash behind them, and files of these kinds whose path begins so."""
    before, slash, start = incomplete.rpartition("/")
    try:
        found = sorted((Path(before or slash).expanduser() if slash else Path()).iterdir())
    except (OSError, RuntimeError):
        return []
    wanted = [path for path in found if path.name.startswith(start) and (start or not path.name.startswith("."))]
    shown = [(f"{before}{slash}{path.name}", path) for path in wanted]
    return [f"{name}/" if path.is_dir() else name for name, path in shown if path.is_dir() or path.suffix in suffixes]
