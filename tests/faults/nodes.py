"""A cluster of several Ray nodes on this machine, each with processes of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.checkout import ROOT

HIDING = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
"""In a mount namespace of its own: a folder looks empty to a command and to all that it starts."""


class Nodes:
    """Three nodes of one CPU each; Ray's files lie in a short folder of their own.

    Attributes:
        address: what `--address` takes.
        environment: what a driver needs besides.
    """

    def __init__(self, folder: Path, number: int = 3) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.environment = {"RAY_TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        (folder / "ray").mkdir()
        self.cluster: Any = Cluster()
        self.others: list[subprocess.Popen[bytes]] = []
        for _ in range(number):
            self.add()
        self.address = str(self.cluster.address)

    def add(self) -> Any:
        """One more node."""
        return self.cluster.add_node(num_cpus=1, include_dashboard=False, temp_dir=str(self.folder / "ray"))

    def kill(self, node: Any) -> None:
        """A node dies with all its processes, as when its machine does."""
        self.cluster.remove_node(node, allow_graceful=False)

    def add_blind(self, hidden: Path) -> None:
        """One more node, to which a folder looks empty."""
        command = [
            "unshare", "-m", "sh", "-c", HIDING, str(hidden), sys.executable, "-m", "ray.scripts.scripts", "start",
            f"--address={self.address}", "--num-cpus=1", "--block", "--disable-usage-stats",
        ]  # fmt: skip
        with (self.folder / "blind.out").open("wb") as file:
            self.others.append(
                subprocess.Popen(
                    command,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **self.environment},
                )
            )
        until = time.monotonic() + 120
        while b"Ray runtime started" not in (self.folder / "blind.out").read_bytes():
            assert time.monotonic() < until and self.others[-1].poll() is None, (self.folder / "blind.out").read_text()
            time.sleep(0.2)

    def shut_down(self) -> None:
        """Ends all of it."""
        for other in self.others:
            other.terminate()
            other.wait(30)
        self.cluster.shutdown()


@contextmanager
def three_nodes(environment: Mapping[str, str] | None = None) -> Iterator[Nodes]:
    """The cluster; what its workers find in their environment is what is in this one's.

    Args:
        environment: of the nodes, and so of their workers.
    """
    folder = Path(tempfile.mkdtemp(prefix="akn"))
    given = {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(folder), **(environment or {})}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        nodes = Nodes(folder)
        try:
            yield nodes
        finally:
            nodes.shut_down()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)
