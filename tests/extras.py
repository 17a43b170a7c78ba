"""What can be tried with the packages that are installed: extras are optional, and their tests skip themselves."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from akdtune.folders import packaged

NEEDED = {"snn_branches": "snntorch", "strong2weak": "snntorch"}
"""Packages of extras, by the packaged study that needs one to be read."""


def readable_studies() -> dict[str, Path]:
    """Packaged studies, without those whose extra is not installed."""
    return {name: path for name, path in packaged().items() if name not in NEEDED or find_spec(NEEDED[name])}
