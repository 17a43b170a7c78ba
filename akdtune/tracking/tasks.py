"""What the SDK is asked in a process of its own: `python -m akdtune.tracking.tasks TASK`.

Reads one line of JSON and answers with lines of JSON. Whoever asks bounds the time between two answers, and ends the
process when it is exceeded; the process ends by itself when who asks is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from akdtune.metric import Metric
from akdtune.tracking.child import ANSWER_S, Answer
from akdtune.tracking.mode import reason
from akdtune.tracking.stored import write_stored
from akdtune.tracking.study_run import answered
from akdtune.tracking.tags import tag_runs
from akdtune.tracking.view import saved


def _probe(_: Mapping[str, Any]) -> Iterator[Answer]:
    import wandb  # late: loaded where tracking is on

    yield {"ready": True}
    began = time.monotonic()
    try:
        api = wandb.Api(timeout=int(ANSWER_S))
        known = api.viewer
        settings = wandb.setup().settings
        place = {"entity": getattr(known, "entity", None), "app": settings.app_url, "server": settings.base_url}
        yield {"error": None if known else "the key is not known there", "late": False, **place}
    except Exception as error:
        yield {"error": reason(error), "late": time.monotonic() - began >= ANSWER_S}


def _tag(asked: Mapping[str, Any]) -> Iterator[Answer]:
    try:
        yield from tag_runs(asked["paths"], asked["tag"])
    except Exception as error:
        yield {"id": None, "error": reason(error)}


def _write(asked: Mapping[str, Any]) -> Iterator[Answer]:
    for trial in asked["trials"]:
        yield write_stored(trial, asked["settings"], Path(asked["root"]))


def _study(asked: Mapping[str, Any]) -> Iterator[Answer]:
    yield answered(asked["wandb"], Path(asked["root"]), asked["names"], asked["mode"])


def _view(asked: Mapping[str, Any]) -> Iterator[Answer]:
    of_study = asked["entity"], asked["project"], asked["study"], asked["names"], asked["measures"]
    yield saved(*of_study, Metric(asked["metric"]))


def _leave_with_parent() -> None:
    sys.stdin.read()  # until who asks ends, or is killed
    os._exit(1)


def main() -> int:
    """Does the task that the command line names."""
    task = {"probe": _probe, "tag": _tag, "write": _write, "study": _study, "view": _view}[sys.argv[1]]
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())  # what the SDK prints is no answer
    for answer in task(asked):
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
