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

from akdtune.tracking.child import ANSWER_S, Answer
from akdtune.tracking.mode import reason
from akdtune.tracking.tracker import tag_runs, write_stored


def _probe(_: Mapping[str, Any]) -> Iterator[Answer]:
    import wandb  # late: loaded where tracking is on

    yield {"ready": True}
    began = time.monotonic()
    try:
        known = wandb.Api(timeout=int(ANSWER_S)).viewer
        yield {"error": None if known else "the key is not known there", "late": False}
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


def _leave_with_parent() -> None:
    sys.stdin.read()  # until who asks ends, or is killed
    os._exit(1)


def main() -> int:
    """Does the task that the command line names."""
    task = {"probe": _probe, "tag": _tag, "write": _write}[sys.argv[1]]
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
