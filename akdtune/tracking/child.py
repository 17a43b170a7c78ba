"""Asks the SDK for something in a process of its own, so that none of it can hold up, or disturb, who asks."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from akdtune.tracking.mode import Mode, environment, server

START_S = 60.0
"""Loading the SDK from a slow file system may take so long."""

ANSWER_S = 5.0
"""A server that takes longer for an answer is taken to be gone."""

Answer = dict[str, Any]


class TooLong(Exception):
    """The process did not answer in time, or ended without an answer."""


class Child:
    """A process that does one task, and its answers.

    Args:
        task: probe | tag | write.
        asked: what the task needs.
        mode: in whose environment it runs.
        folder: where it runs; None: here.
    """

    def __init__(self, task: str, asked: Mapping[str, Any], mode: Mode, folder: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "akdtune.tracking.tasks", task],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment(mode), cwd=folder, start_new_session=True,
        )  # fmt: skip
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(json.dumps(dict(asked)),), daemon=True)
        self._reader.start()

    def _read(self, asked: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(asked + "\n")
            self._process.stdin.flush()  # and stays open: the process ends when it closes
            for line in self._process.stdout:
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def answer(self, within_s: float, given_up: Callable[[], bool] = lambda: False) -> Answer:
        """The next answer.

        Raises:
            TooLong: none came in time, or none will, or the caller gave up.
        """
        until = time.monotonic() + within_s
        while not given_up():
            with contextlib.suppress(queue.Empty):
                answer = self._answers.get(timeout=min(0.1, max(0.0, until - time.monotonic())))
                if answer is None:
                    break
                return answer
            if time.monotonic() >= until:
                break
        raise TooLong

    def end(self) -> None:
        """Ends the process with all that it started; once is enough."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def project_url(place: Mapping[str, Any], wandb: Mapping[str, Any]) -> str | None:
    """The address of a project's page; None where the server has not said whose runs they are.

    Args:
        place: as a `Probe` has it.
        wandb: the settings.
    """
    entity, app, project = wandb.get("entity") or place.get("entity"), place.get("app"), wandb.get("project")
    return f"{app}/{quote(entity)}/{quote(project)}" if entity and app and project else None


class Probe:
    """Whether the server takes the key: asked in the background, while a study prepares itself.

    Attributes:
        place: whose runs they will be, once the server has said so: `entity`, and the address of its pages, `app`.
    """

    def __init__(self) -> None:
        self._child = Child("probe", {}, "online")
        self.place: Answer = {}

    def refusal(self, given_up: Callable[[], bool] = lambda: False) -> str | None:
        """Why runs cannot be online, in a few words; None: they can."""
        where = server()
        try:
            self._child.answer(START_S, given_up)
        except TooLong:
            return "the Weights & Biases SDK did not start"
        try:
            answer = self._child.answer(2 * ANSWER_S, given_up)  # the SDK's service has to start as well
        except TooLong:
            answer = {"error": "", "late": True}
        finally:
            self.end()
        if answer["error"] is None:
            self.place = answer
            return None
        if answer["late"]:
            return f"{where} did not answer within {ANSWER_S:g} s"
        return f"{where} refused: {answer['error'].removeprefix(f'Failed to verify credentials with {where}: ')}"

    def end(self) -> None:
        """Asks no longer."""
        self._child.end()
