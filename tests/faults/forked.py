"""A command of akdtune in a fork of this process: what it costs is its work, and not to load torch once more."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import akdtune.reports.results  # what every fork would load again
import akdtune.running.driver
from akdtune import cli
from tests.faults.studies import LONG_S, NEVER, patience


def akdtune(
    arguments: Sequence[str], printed: Path, environment: Mapping[str, str], timeout_s: float = LONG_S
) -> tuple[int, str]:
    """Runs `akdtune ARGUMENTS`: exit code, and what it printed; a traceback where it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks of processes with threads: those of this one hold nothing
        pid = os.fork()
    if pid == 0:
        _run(arguments, printed, environment)
    timeout_s *= patience()
    until = time.monotonic() + timeout_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), printed.read_text(errors="replace")
        if time.monotonic() > until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return NEVER, f"did not end within {timeout_s:g} s\n{printed.read_text(errors='replace')}"
        time.sleep(0.02)


def _run(arguments: Sequence[str], printed: Path, environment: Mapping[str, str]) -> None:
    """In the fork, which never returns."""
    code = 1
    try:
        os.setsid()
        with printed.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        import sys

        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.environ.update(environment)
        warnings.resetwarnings()
        code = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)
