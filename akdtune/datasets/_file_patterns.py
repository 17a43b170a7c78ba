"""Files of a data set by names and patterns: found, and refused where two sets share one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from akdtune.errors import DataError
from akdtune.folders import here
from akdtune.settings.data import DataSettings


def files_of(settings: DataSettings, role: str) -> list[Path]:
    """The files of a role, each once, in the order of its patterns.

    Raises:
        DataError: for a pattern that matches none.
    """
    found = matches(settings, role)
    for pattern, matching in found:
        if not matching:
            hint = f" (a folder: data.{role}={pattern}/*.parquet takes its files)" if Path(pattern).is_dir() else ""
            raise DataError(f"data.{role}: no file matches {pattern}{hint}")
    return list(dict.fromkeys(file for _, matching in found for file in matching))


def matches(settings: DataSettings, role: str) -> list[tuple[str, list[Path]]]:
    """Each pattern under `train` or `test`, made absolute, with the files it matches, sorted by name."""
    value = getattr(settings, role)
    base = here(settings.root) if settings.root else Path.cwd()
    matched = []
    for pattern in [value] if isinstance(value, str) else value or []:
        path = base / Path(pattern).expanduser()
        try:
            found = [path] if path.is_file() or path.is_symlink() else sorted(_globbed(path))
        except (OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"data.{role}: {path} is no pattern of files ({error})") from error
        matched.append((str(path), [file for file in found if _is_data(file)]))
    return matched


def _is_data(path: Path) -> bool:
    """Whether a path that a pattern matches is a file; what was meant to be one and is not is refused.

    Raises:
        DataError: for a link to nowhere, or a folder named like a Parquet file.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: link to {path.readlink()}, which is not there; remove the link or restore the file")
    if path.is_dir() and path.suffix == ".parquet":
        raise DataError(f"{path}: a folder, named like a file; {path}/*.parquet takes its files")
    return path.is_file()


def _globbed(path: Path) -> list[Path]:
    """What a pattern matches; leading folders that are there by this very name are no pattern (`set[1]`)."""
    folder, parts = Path(path.anchor), path.parts[1:] if path.anchor else path.parts
    for index, part in enumerate(parts):
        if (set(part) & set("*?[") and not (folder / part).exists()) or index == len(parts) - 1:
            return list(folder.glob("/".join(parts[index:])))
        folder = folder / part
    return []


def refuse_shared(files: Mapping[str, list[Path]]) -> None:
    """Refuses a file that is in both roles, or twice in one, by whatever name.

    Raises:
        DataError: naming it.
    """
    known: dict[tuple[int, int], tuple[str, Path]] = {}
    for role, file in ((role, file) for role, of_role in files.items() for file in of_role):
        status = file.stat()
        other_role, other = known.setdefault((status.st_dev, status.st_ino), (role, file))
        if (other_role, other) == (role, file):
            continue
        names = f"{file}" if file == other else f"{other} and {file} are one file: it"
        if role == other_role:
            raise DataError(f"data.{role}: {names} is named twice; name it once")
        raise DataError(f"data.train and data.test: {names} is in both; the test set must not be trained on")
