"""What is known about a study's Weights & Biases runs without the SDK: their records, and whether there is a key."""

from __future__ import annotations

import json
import netrc
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from akdtune import atomic
from akdtune.records.processes import is_alive

RECORD_FILE = "wandb.json"
"""In the trial's directory: the runs of all its attempts, oldest first; written by the trial alone."""

PUBLIC_HOSTS = frozenset({"api.wandb.ai", "api.forge.coreweave.com"})


def has_key() -> bool:
    """Whether an API key for Weights & Biases is in the environment or in the netrc file.

    A server of one's own counts when WANDB_BASE_URL names it; else `tracking.wandb.mode: online` says so.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        entries = netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    configured = os.environ.get("WANDB_BASE_URL")
    hosts = {urlsplit(configured).netloc} if configured else PUBLIC_HOSTS
    return any(host in entries and entries[host][2] for host in hosts)


@dataclass
class RunRecord:
    """What `sync` needs to know about one run; `directory` is relative to the study."""

    id: str
    attempt: int
    mode: str
    directory: str
    project: str | None = None
    entity: str | None = None
    finished: bool = False
    host: str = ""
    pid: int = 0
    superseded_by: str | None = None

    @property
    def running(self) -> bool:
        """Whether its trial may still write to it."""
        if self.finished or self.superseded_by:
            return False
        return self.host != socket.gethostname() or is_alive(self.pid)

    def log_file(self, study_directory: Path) -> Path:
        """The SDK's transaction log, which holds everything that was logged."""
        return study_directory / self.directory / f"run-{self.id}.wandb"

    def is_uploaded(self, study_directory: Path) -> bool:
        """Whether `wandb sync` has uploaded it: the SDK leaves a mark beside the log."""
        log = self.log_file(study_directory)
        return log.with_name(log.name + ".synced").exists()


def read_record(trial_directory: Path) -> list[RunRecord]:
    """The runs of a trial's attempts, oldest first; none where nothing readable is stored."""
    try:
        stored = json.loads((trial_directory / RECORD_FILE).read_text(encoding="utf-8"))
        return [RunRecord(**entry) for entry in stored["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_record(trial_directory: Path, runs: Sequence[RunRecord]) -> None:
    """Replaces the record of a trial in one step."""
    trial_directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"runs": [vars(run) for run in runs]}, indent=1)
    atomic.write(trial_directory / RECORD_FILE, text + "\n")
