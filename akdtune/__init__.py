"""akdtune: finds out what in a knowledge-distillation recipe really works.

    study = akdtune.read("digits_angular", "search.trials=48")   a study's settings, checked
    akdtune.plan(study)                                          what it would do
    akdtune.run(study)                                           does it, in runs/digits_angular
    results = akdtune.load("digits_angular")                     what it has measured

Each name is loaded when it is first used; importing akdtune loads none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from akdtune.cli.from_python import train
    from akdtune.data.source import Source
    from akdtune.errors import AkdtuneError
    from akdtune.methods import Method
    from akdtune.networks import Network
    from akdtune.planning.from_python import plan
    from akdtune.registry import register
    from akdtune.reports.results import Results, load
    from akdtune.running.from_python import run
    from akdtune.selections import Selection
    from akdtune.study.from_python import read
    from akdtune.study.spec import Study
    from akdtune.tracking.loggers import Logger
    from akdtune.views import ViewAugmenter

__version__ = "0.1.0"

__all__ = [
    "AkdtuneError", "Logger", "Method", "Network", "Results", "Selection", "Source", "Study", "ViewAugmenter",
    "__version__", "load", "plan", "read", "register", "run", "train",
]  # fmt: skip

_HOMES = {
    "AkdtuneError": "akdtune.errors",
    "Logger": "akdtune.tracking.loggers",
    "Method": "akdtune.methods",
    "Network": "akdtune.networks",
    "Results": "akdtune.reports.results",
    "Selection": "akdtune.selections",
    "Source": "akdtune.data.source",
    "Study": "akdtune.study.spec",
    "ViewAugmenter": "akdtune.views",
    "load": "akdtune.reports.results",
    "plan": "akdtune.planning.from_python",
    "read": "akdtune.study.from_python",
    "register": "akdtune.registry",
    "run": "akdtune.running.from_python",
    "train": "akdtune.cli.from_python",
}
"""Where each name of the face lives; a test compares with the imports above, which type checkers read."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'akdtune' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOMES})
