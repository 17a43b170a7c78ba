"""Ray, started before torch is loaded: its processes come up while the study is prepared. Loads Ray alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from akdtune.processors import available_cpus
from akdtune.records.files import LEDGER
from akdtune.records.ledger.events import StudyFinished
from akdtune.records.ledger.lines import parse
from akdtune.running import interruption, ray_start
from akdtune.settings.sections import ResourcesSettings
from akdtune.study.spec import Study

TAIL_BYTES = 4096
"""Of a ledger, where its last line stands."""


@contextmanager
def ray_ahead(study: Study, root: Path, address: str | None) -> Iterator[None]:
    """Within it, a Ray of our own starts by itself, unless a cluster is joined or the study has come to its end.

    Args:
        study: the checked settings.
        root: the study directory.
        address: of a cluster, or None.
    """
    if ray_start.is_own(address) and not has_ended(root):
        begin(study, root)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # a signal before the run takes them for itself: nobody waits for Ray
        ray_start.abandon_ray()
        interruption.say("stopped before the study went on, nothing is lost. The same command starts it again")
        raise
    finally:
        ray_start.end_own()


def begin(study: Study, root: Path) -> None:
    """Begins to start a Ray of our own for a study, unless one is up.

    Raises:
        RayError: where there is no folder for it.
    """
    tracking = study.tracking.model_dump(mode="json")
    loggers = json.dumps({"tracking": tracking, "root": str(root.expanduser().absolute())})
    ray_start.begin(study.tracking.finish_timeout_s, slots(study.resources), loggers)


def slots(needed: ResourcesSettings) -> int:
    """How many trials this machine runs at once, at most."""
    by_cpu = max(1, int(available_cpus() / needed.cpu)) if needed.cpu else available_cpus()
    return by_cpu if needed.concurrent is None else min(by_cpu, needed.concurrent)


def has_ended(root: Path) -> bool:
    """Whether the last thing that a study noted down is that it came to its end."""
    try:
        with (root.expanduser() / LEDGER).open("rb") as ledger:
            ledger.seek(0, 2)
            ledger.seek(max(0, ledger.tell() - TAIL_BYTES))
            lines = ledger.read().splitlines()
    except OSError:
        return False
    last = parse(lines[-1]) if lines else None
    return isinstance(last, StudyFinished) and not last.interrupted
