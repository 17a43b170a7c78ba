"""How Ray is started, joined, watched and ended.

A Ray of a run's own has its own sessions, folder and token: nothing of it lies in the user's home or in /tmp/ray,
nothing that another Ray has left there is read, no signal to our process group reaches it, and a watchdog ends it
when the run is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from akdtune.errors import RayError
from akdtune.folders import PACKAGE
from akdtune.processors import available_cpus
from akdtune.registry import BROUGHT, plugin_files
from akdtune.running import interruption

LONGEST_FOLDER = 40
"""Bytes of the path of Ray's folder: a socket's path has at most 107 (macOS: 103), of which Ray takes up to 63."""

FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Where Ray's folder lies if the path of the system's temporary folder is too long, or nothing can be written there."""

START_S, JOIN_S = 180.0, 30.0
"""How long Ray may take to start here, and a cluster to take us in."""

WORKER_MIB, PRELOAD_SHARE = 400, 0.25
"""Memory of a worker that has loaded what trials need, and how much of what is free all of them may take at once."""

PRELOADED_LOGGERS = "AKDTUNE_PRELOADED_LOGGERS"
"""A variable of our own Ray's workers: JSON, `tracking` and `root` of the study whose loggers they load."""

_TOKEN_HINT = (
    "; start one with `ray start --head`, and give every machine the same token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or"
    " ~/.ray/auth_token)"
)

_GONE_HINT = "(killed, perhaps for want of memory); nothing recorded so far is lost, the same command goes on"

PROBE_S, GREETING_S = 2.0, 5.0
"""How long an address has to take a connection, and to answer a greeting."""

GREETING, ANSWER = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), 4
"""What whoever speaks gRPC, as Ray does, says first, and the kind of the frame that answers it (RFC 9113, 3.4)."""

GONE_AFTER = {True: 2, False: 8}
"""So many unanswered probes in a row, and Ray is lost: one on this machine; a cluster, whose head may come back."""

SURROUNDING = (
    "RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_GCS_SERVER_PORT", "RAY_CLIENT_MODE", "RAY_NAMESPACE", "RAY_RUNTIME_ENV",
    "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RUNTIME_ENV_HOOK", "RAY_OVERRIDE_RESOURCES", "RAY_OVERRIDE_LABELS",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING", "RAY_RAYLET_PID", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE",
)  # fmt: skip
"""Variables that speak of another Ray, such as that of a surrounding `ray job`; a Ray of our own does not see them."""

_token = secrets.token_hex(32)
"""Of every Ray that this process starts: Ray's library reads it once in a process."""

_ray_is_kept = False
_own: Any = None
"""The Ray that was started here, an `_OwnRay`."""

_joined = False
"""Whether a cluster was joined here."""


@contextmanager
def keep_ray() -> Iterator[None]:
    """Keeps Ray up between studies of one process (tests, benchmarks)."""
    global _ray_is_kept
    _ray_is_kept = True
    try:
        yield
    finally:
        _ray_is_kept = False
        stop_ray()


def stop_ray() -> None:
    """Ends the Ray that was started here, or leaves the cluster that was joined; not one that was up before."""
    global _joined
    if _ray_is_kept:
        return
    if _own is not None:
        _own.end()
    elif _joined:
        _joined = False
        ray.shutdown()


def abandon_ray() -> None:
    """Ends Ray without asking it, where a thread hangs in it; this process must not speak to it any more."""
    _speak_again()
    with contextlib.suppress(Exception):
        atexit.unregister(ray.shutdown)
    if _own is not None:
        _own.end(ask=False)


def start_ray(address: str | None, finish_timeout_s: float, plugins: Sequence[str] = ()) -> None:
    """Starts or joins Ray: dashboard off, token authentication on, its chatter off, one thread per worker.

    Args:
        address: of a cluster to join; None or `local`: one of our own, which may have begun to start.
        finish_timeout_s: how long a trial's tracking may take to close.
        plugins: imported modules that trials on a cluster's nodes will need.

    Raises:
        RayError: where it does not start, or cannot be joined.
    """
    global _joined
    if is_own(address):
        begin(finish_timeout_s)
        assert _own is not None
        _own.wait()
        return
    _join(address or "", _prepare(finish_timeout_s), plugins)
    _joined = True


def is_own(address: str | None) -> bool:
    """Whether an address means a Ray of our own on this machine."""
    return not address or address == "local"


def begin(finish_timeout_s: float, slots: int | None = None, loggers: str | None = None) -> None:
    """Begins to start a Ray of our own, and returns; `start_ray` waits until it is up.

    Its workers load what trials need as soon as they come up.

    Args:
        finish_timeout_s: how long a trial's tracking may take to close.
        slots: how many trials run at once at most; what Ray starts beyond that ends again. None: one a processor.
        loggers: what `preloaded` is told of them; None: nothing.

    Raises:
        RayError: where there is no folder for it.
    """
    global _own
    if _own is None:
        _prepare(finish_timeout_s)
        _own = _OwnRay()
        _own.begin(_preloading(available_cpus(), slots) | ({} if loggers is None else {PRELOADED_LOGGERS: loggers}))


def has_begun() -> bool:
    """Whether a Ray of our own is up, or about to be."""
    return _own is not None


def settled() -> None:
    """Waits while a Ray of our own is starting, as long as it may take for that."""
    if _own is not None:
        _own.settled()


def end_own() -> None:
    """Ends a Ray of our own, if there is one."""
    if _own is not None and not _ray_is_kept:
        _own.end()


def _prepare(finish_timeout_s: float) -> dict[str, str]:
    """Sets what Ray and Tune read from the environment; returns what workers on other nodes have to have as well."""
    environment = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(int(finish_timeout_s) + 120),
    }
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the ledger names them
    }
    os.environ.update(environment | settings)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune's own snapshots are never read: that a full disk took none is no news.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    return environment


def _preloading(cpus: int, slots: int | None) -> dict[str, str]:
    """Variables by which the workers that Ray starts at once, one a processor, load what trials need.

    Nothing where memory is too short for that many; what is more than trials that run at once is ended by Ray.
    """
    if cpus * WORKER_MIB > PRELOAD_SHARE * psutil.virtual_memory().available / 2**20:
        return {}
    return {
        "PL_DISABLE_FORK": "1",  # as Tune gives its actors
        "RAY_preload_python_modules": "akdtune.running.preloaded",
        "RAY_num_workers_soft_limit": str(max(1, min(cpus, slots or cpus))),
    } | ({} if PACKAGE.parent.name.endswith("-packages") else {"PYTHONPATH": _first_on_path(PACKAGE.parent)})


class _OwnRay:
    """The Ray of this run on this machine."""

    def __init__(self) -> None:
        self._folder = own_folder()
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._hidden: dict[str, str] = {}
        self._up, self._over = threading.Event(), threading.Event()
        self._error: Exception | None = None

    def begin(self, environment: Mapping[str, str]) -> None:
        """Starts it in a thread.

        Args:
            environment: variables of Ray's processes alone.
        """
        token = self._folder / "token"
        token.touch(mode=0o600)
        token.write_text(_token)
        self._hidden = {name: os.environ.pop(name) for name in SURROUNDING if name in os.environ}
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)  # RAY_AUTH_MODE is Ray's to set: else its library looks away
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "akdtune.running.ray_watchdog", str(self._folder)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            cwd="/", env={**os.environ, "PYTHONPATH": _first_on_path(PACKAGE.parent)},
        )  # fmt: skip
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        threading.Thread(target=self._live, args=(before,), name="ray", daemon=True).start()

    def _live(self, before: Mapping[str, str | None]) -> None:
        """Starts Ray, and stays as long as it is up: the system kills what Ray starts with the thread that did it."""
        watchdog = self._watchdog
        try:
            with _sessions(watchdog.stdin.fileno() if watchdog is not None and watchdog.stdin is not None else -1):
                ray.init(
                    address="local",
                    num_cpus=available_cpus(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                    _temp_dir=str(self._folder / "r"),  # Ray opens its folder to everybody; nobody comes so far
                )
        except Exception as error:
            self._error = error
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            self._up.set()
        self._over.wait()

    def settled(self) -> None:
        """Returns when it is up, does not come up, or has taken too long."""
        self._up.wait(START_S)

    def wait(self) -> None:
        """Returns when it is up.

        Raises:
            RayError: where it does not start.
        """
        self._up.wait()
        if self._error is not None:
            self.end(ask=False)
            raise RayError(
                f"Ray does not start on this machine: {_first_line(self._error)}; the same command goes on"
            ) from self._error

    def end(self, ask: bool = True) -> None:
        """Ends it: asks it to end, and has the watchdog kill what is left and take its folder away."""
        global _own
        _own = None
        if ask:
            self._up.wait()
            threading.Thread(target=self._kill_when_left, daemon=True).start()
            ray.shutdown()
        self._let_go()
        self._over.set()
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            os.environ.pop(name, None)
        os.environ |= self._hidden

    def _kill_when_left(self) -> None:
        """Has Ray's processes killed as soon as the driver has left them: they do not listen to a SIGTERM."""
        for _ in range(600):
            if not ray.is_initialized():
                break
            threading.Event().wait(0.05)
        threading.Event().wait(0.2)
        self._let_go()

    def _let_go(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None and watchdog.stdin is not None:
            with contextlib.suppress(OSError):
                watchdog.stdin.close()
            threading.Thread(target=watchdog.wait, daemon=True).start()


def own_folder() -> Path:
    """A new folder that nobody else may enter, its path short enough for Ray's sockets.

    Raises:
        RayError: where there is none.
    """
    tried = []
    for parent in dict.fromkeys((os.environ.get("RAY_TMPDIR"), _temporary(), *FOLDERS)):
        if not parent:
            continue
        parent = str(Path(parent).absolute())
        if len(os.fsencode(parent)) + len("/akdtune-12345678/r") > LONGEST_FOLDER:
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="akdtune-", dir=parent))
        except OSError as error:
            tried.append(f"{parent} ({error.strerror or error})")
    raise RayError(f"no folder for Ray's sockets: {', '.join(tried)} cannot be written; set TMPDIR to one that can")


def _temporary() -> str | None:
    try:
        return tempfile.gettempdir()
    except OSError:
        return None


def _first_on_path(folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


# ---------------------------------------------------------------------------------------------------------- sessions

_starting: tuple[int, int] | None = None
_hooked = False
UNHEARD = (*interruption.STOPPING, *interruption.AT_ONCE)
"""Signals that Ray's processes and trials never see: Slurm sends them to every process of a job. We tell the trials."""


@contextmanager
def _sessions(pipe: int) -> Iterator[None]:
    """While it lasts, each process that this thread starts with a function before its program, as Ray does, gets a
    session of its own, and its number goes into the pipe."""
    global _starting, _hooked
    if not _hooked and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_apart)
        _hooked = True
    _starting = (threading.get_ident(), pipe)
    try:
        yield
    finally:
        _starting = None


def _apart() -> None:
    """In the child of a fork, before its program begins."""
    if _starting is None or _starting[0] != threading.get_ident():
        return
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, interruption.numbers(*UNHEARD))
    os.write(_starting[1], f"{os.getpid()}\n".encode())


# ----------------------------------------------------------------------------------------------------------- joining


def _brought(environment: dict[str, str], plugins: Sequence[str]) -> dict[str, Any]:
    """What Ray brings to the nodes of a cluster: this akdtune, the plug-ins, and where the shared cache lies."""
    cache = {name: os.environ[name] for name in ("AKDTUNE_CACHE",) if os.environ.get(name)}
    return {
        "env_vars": {**environment, **cache, BROUGHT: "1"},
        "py_modules": [str(PACKAGE), *plugin_files(plugins)],
    }


def _join(address: str, environment: dict[str, str], plugins: Sequence[str]) -> None:
    """Joins a running cluster.

    Raises:
        RayError: in one sentence that names address and token.
    """
    named = address if address != "auto" else os.environ.get("RAY_ADDRESS") or "auto"
    if "://" in named:
        raise RayError(f"--address {named}: give host:port of the cluster's head, as `ray start` prints it, not a URL")
    if (place := _host_port(named)) is None and named != "auto":
        raise RayError(f"--address {named}: give host:port of the cluster's head (port 6379 unless told otherwise)")
    if place is not None and not _speaks(*place):
        raise RayError(f"--address {named}: no Ray cluster answers there{_TOKEN_HINT}")
    _hush()
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=_brought(environment, plugins),
        )
    except Exception as error:
        raise RayError(f"--address {named}: {_refused(error)}") from error
    finally:
        _speak_again()


_stderr: int | None = None
"""Where stderr leads while it is hushed."""


def _hush() -> None:
    """Drops what Ray's library prints about an address, a line a second: we say in one sentence what is wrong."""
    global _stderr
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        _stderr = os.dup(2)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)


def _speak_again() -> None:
    """Ends `_hush`; called by whoever comes first, the thread that joins or the one that gives up."""
    global _stderr
    kept, _stderr = _stderr, None
    if kept is not None:
        os.dup2(kept, 2)
        os.close(kept)


def no_answer(address: str | None, within_s: float) -> str:
    """The sentence for a Ray that does not answer in time."""
    if is_own(address):
        return f"Ray has not started on this machine within {within_s:.0f} s; the same command tries it again"
    return f"--address {address}: no Ray cluster answers there within {within_s:.0f} s{_TOKEN_HINT}"


def _refused(error: Exception) -> str:
    """Why a cluster was not joined."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    words = " ".join(str(link) for link in chain).lower()
    if any(isinstance(link, ray.exceptions.AuthenticationError) for link in chain) or "token" in words:
        why = _first_line(error).partition(". ")[0]
        return (
            f"the cluster does not take our token ({why}); give it the cluster's own by RAY_AUTH_TOKEN,"
            " RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, and RAY_AUTH_MODE=token"
        )
    if "version mismatch" in words:
        return " ".join(str(error).split())
    return f"cannot be joined: {_first_line(error)}{_TOKEN_HINT}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


# ---------------------------------------------------------------------------------------------------------- watching


def watch() -> Callable[[], str | None]:
    """Asks, whenever it is called, whether the Ray that is up still lives; says what is wrong with it."""
    control = _host_port(ray.get_runtime_context().gcs_address)
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    places = {str(node["NodeID"]): (str(node["NodeManagerAddress"]), int(node["NodeManagerPort"])) for node in nodes}
    node = places.get(here)
    missed = {"control store": 0, "node manager": 0}
    limit = GONE_AFTER[_own is not None or _ray_is_kept]

    def lost() -> str | None:
        for name, place in (("control store", control), ("node manager", node)):
            if place is None:
                continue
            missed[name] = 0 if _answers(*place) else missed[name] + 1
            if missed[name] >= limit:
                return f"Ray is gone: its {name} at {place[0]}:{place[1]} does not answer any more {_GONE_HINT}"
        return None

    return lost


def _host_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() and 0 < int(port) < 65536 else None


def _speaks(host: str, port: int) -> bool:
    """Whether somebody there speaks Ray's protocol; behind TLS, whether somebody is there."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return True
            connection.settimeout(GREETING_S)
            connection.sendall(GREETING)
            return connection.recv(9)[3:4] == bytes([ANSWER])
    except OSError:
        return False


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=PROBE_S):
            return True
    except OSError:
        return False
