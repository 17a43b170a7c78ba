"""What the driver makes of things met outside trials: what is said, when a study stops, which trials had met some."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from akdtune.errors import AkdtuneError, StudyError, SurroundingsError
from akdtune.running.failures import Fault, on_one_line, outside, remedy_of

IN_A_ROW = 3
"""So many trials in a row that meet the same thing stop the study."""

GOES_ON = "give the same command again: nothing is lost, it goes on where it stopped"

TEACHERS_MEMORY = "lower teacher.batch_size, or train it on a machine with more memory"

_OF_SYSTEM: tuple[type, ...] = (OSError, *OSError.__subclasses__(), *ConnectionError.__subclasses__())
_SYSTEM_ERRORS = {kind.__name__ for kind in _OF_SYSTEM}
_OTHERS = {"MemoryError", "OutOfMemoryError", "AcceleratorError", "ImportError", "ModuleNotFoundError",
           "CheckpointError", "DataError", "StudyError"}  # fmt: skip


def was_outside(error: str | None) -> bool:
    """Whether a trial that an earlier version ended as failed had met something outside itself.

    Args:
        error: what stands in the ledger: `Type: message (file.py:12)`, or that its process died.
    """
    if error is None:
        return False
    if error.startswith("its process died"):
        return True
    named, _, message = error.partition(": ")
    if named in _SYSTEM_ERRORS | _OTHERS or message.startswith("plugins: cannot import"):
        return True
    return named == "RuntimeError" and outside(RuntimeError(message)) is not None


def of_died_process(tries: int, said: str, host: str, log: Path) -> Fault:
    """A trial's process that died whenever it was tried.

    Args:
        tries: how often.
        said: what Ray says of its last end.
        host: where that was; empty where it is not known.
        log: of the trial.
    """
    died = f"its process died {tries} times (see {log})"
    host = host or "an unknown node"
    if "low on memory" in said or "OutOfMemory" in said or "memory usage threshold" in said:
        return Fault("memory", f"{died}: Ray's memory monitor killed it", remedy_of(errno.ENOMEM), host)
    if re.search(r"node (has )?(died|was terminated|is dead)|NodeDied|node_death|NODE_TERMINATED", said):
        return Fault("node", f"{died}: its node was lost", "see that the cluster is up (`ray status`)", host)
    if error := re.search(r"^(\w*Error): (.*)$", said, re.MULTILINE):
        known = {"RayTaskError", "RayActorError", "ActorDiedError"}
        if error[1] not in known:
            return Fault("process", f"{died}: {error[0][:300]}", "see its log", host)
    how = "killed by a signal, as the system does when memory is short, or crashed in native code"
    return Fault("process", f"{died}: {how}", "see `dmesg`, and run fewer trials at once if memory is short", host)


class InARow:
    """Trials in a row that met the same thing outside themselves."""

    def __init__(self) -> None:
        self._kind = ""
        self._trials: dict[str, Fault] = {}

    def other(self) -> None:
        """A trial ended in another way."""
        self._trials.clear()

    def met(self, trial_id: str, fault: Fault) -> str | None:
        """One more met something; a sentence where the study has to stop."""
        if fault.kind != self._kind:
            self._trials.clear()
        self._kind = fault.kind
        self._trials[trial_id] = fault
        count = len(self._trials)
        if not fault.at_once and count < IN_A_ROW:
            return None
        met = "a trial" if count == 1 else f"{count} trials in a row"
        hosts = ", ".join(dict.fromkeys(of_trial.host for of_trial in self._trials.values()))
        return f"stopped, as {met} met the same outside: {fault.said} (on {hosts}); {fault.remedy}, then " + GOES_ON


def of_teacher(error: BaseException) -> AkdtuneError:
    """What ended the training of a study's teacher on its node, as one sentence."""
    fault = outside(error)
    if fault is not None:
        remedy = TEACHERS_MEMORY if fault.kind.endswith("memory") and fault.lost else fault.remedy
        return SurroundingsError(f"while the teacher trained: {fault.said} ({remedy}), then {GOES_ON}")
    if isinstance(error, AkdtuneError):
        return error
    return StudyError(f"the teacher's training failed: {type(error).__name__}: {on_one_line(error)}")


def check_teacher_is_here(path: str, host: str) -> None:
    """That a teacher that was trained on some node lies where this process sees it.

    Raises:
        SurroundingsError: naming the node.
    """
    if path and not Path(path).exists():
        raise SurroundingsError(
            f"{path}: the teacher was trained on {host}, and its file is not visible here; let AKDTUNE_CACHE name a "
            f"folder on a file system that all nodes share, then {GOES_ON}"
        )
