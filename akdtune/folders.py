"""Where akdtune's own files lie: the package, its packaged studies, and the cache folder of this user."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).parent
"""The folder of the package itself."""


def cache_directory() -> Path:
    """Where teachers and decoded data sets are kept: AKDTUNE_CACHE, else the platform's cache folder."""
    return Path(os.environ.get("AKDTUNE_CACHE") or platformdirs.user_cache_dir("akdtune")).expanduser()


def here(path: str) -> Path:
    """A path of the settings on this node: one that begins with a variable is each node's own to resolve."""
    return Path(os.path.expandvars(path) if path.startswith("$") else path).expanduser()


def packaged() -> dict[str, Path]:
    """The study files that come with akdtune, by name."""
    inside = PACKAGE / "search_spaces"
    folder = inside if inside.is_dir() else PACKAGE.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
