"""Where Ray's files lie, what is said where it cannot be joined, and who cleans up behind it. Starts no Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray.exceptions

from akdtune.errors import RayError
from akdtune.folders import PACKAGE
from akdtune.registry import BROUGHT, load_plugins
from akdtune.running import ray_start


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("named", ["", "."])
def test_rays_folder_is_absolute(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray takes no other; a variable that is set to nothing is one that is not set."""
    monkeypatch.chdir("/tmp")
    monkeypatch.setenv("RAY_TMPDIR", named)
    folder = ray_start.own_folder()
    folder.rmdir()
    assert folder.is_absolute()


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("kind", ["long", "absent", "short"])
def test_rays_folder_is_short_and_nobody_elses(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    named = {"long": tmp_path / ("x" * 100), "absent": tmp_path / "absent", "short": short}[kind]
    if kind != "absent":
        named.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(named))
    folder = ray_start.own_folder()
    try:
        assert len(os.fsencode(folder / "r")) <= ray_start.LONGEST_FOLDER
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder.parent == short) == (kind == "short"), "a temporary folder that can be used is used"
    finally:
        folder.rmdir()
        short.rmdir()


@pytest.mark.usefixtures("temporary")
def test_without_any_folder_one_sentence_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(RayError, match=r"/tmp \(Permission denied\).*set TMPDIR"):
        ray_start.own_folder()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:{port}", "--address 127.0.0.1:{port}: no Ray cluster answers there; .*token.*RAY_AUTH_TOKEN_PATH"),
        ("no.such.host.invalid:6379", "--address no.such.host.invalid:6379: no Ray cluster answers there"),
        ("ray://127.0.0.1:10001", "--address ray://127.0.0.1:10001: give host:port of the cluster's head.*not a URL"),
        ("127.0.0.1", "--address 127.0.0.1: give host:port of the cluster's head"),
        ("127.0.0.1:port", "--address 127.0.0.1:port: give host:port"),
        ("127.0.0.1:99999", "--address 127.0.0.1:99999: give host:port"),
    ],
)
def test_an_address_where_no_ray_is_gets_one_sentence(
    address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_start.ray, "init", None)  # Ray is not even asked
    port = closed_port()
    with pytest.raises(RayError, match=words.format(port=port)) as caught:
        ray_start.start_ray(address.format(port=port), 5.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_who_answers_but_is_no_ray_gets_the_same(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "GREETING_S", 0.2)
    monkeypatch.setattr(ray_start.ray, "init", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def answering() -> None:
            taken.append(server.accept()[0])
            taken[0].sendall(answer)

        thread = threading.Thread(target=answering)
        thread.start()
        with pytest.raises(RayError, match="no Ray cluster answers there"):
            ray_start.start_ray(f"127.0.0.1:{server.getsockname()[1]}", 5.0)
        thread.join()
        taken[0].close()


def test_auto_means_the_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")
    monkeypatch.setattr(ray_start.ray, "init", None)
    with pytest.raises(RayError, match=rf"--address {os.environ['RAY_ADDRESS']}: no Ray cluster answers"):
        ray_start.start_ray("auto", 5.0)


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ray.exceptions.AuthenticationError("Token authentication is enabled but no token was found"),
         "does not take our token .*RAY_AUTH_TOKEN"),
        (RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
                      "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n"),
         "Version mismatch: The cluster was started with: Ray: 2.59.0 Python: 3.12.1 This process"),
        (ConnectionError("Could not find any running Ray instance.\nPlease specify the one"),
         "cannot be joined: Could not find any running Ray instance; start one"),
    ],
)  # fmt: skip
def test_a_cluster_that_does_not_take_us_gets_one_sentence(
    raised: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise raised

    monkeypatch.setattr(ray_start.ray, "init", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(RayError, match=f"--address auto: .*{words}") as caught:
        ray_start.start_ray("auto", 5.0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_watchdog_ends_a_session_and_takes_the_folder_away(tmp_path: Path) -> None:
    folder = tmp_path / "ray"
    (folder / "session").mkdir(parents=True)
    chain = [sys.executable, "-c", "import subprocess, sys; subprocess.run(['sleep', '600'])"]
    leader = subprocess.Popen(chain, start_new_session=True)
    beside = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        watchdog = subprocess.Popen(
            [sys.executable, "-m", "akdtune.running.ray_watchdog", str(folder)], stdin=subprocess.PIPE
        )
        watchdog.communicate(f"{leader.pid}\n".encode(), timeout=60)
        assert watchdog.returncode == 0
        leader.wait(timeout=10)
        assert not [p for p in psutil.process_iter() if p.status() != "zombie" and session(p.pid) == leader.pid]
        assert beside.poll() is None
        assert not folder.exists()
    finally:
        for process in (leader, beside):
            process.kill()
            process.wait()


def session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def test_code_plug_ins_and_the_place_of_the_cache_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key does: a runtime environment stands in Ray's own files."""
    (tmp_path / "of_a_file.py").touch()
    (tmp_path / "of_a_folder" / "inner").mkdir(parents=True)
    for part in ("of_a_folder", "of_a_folder/inner"):
        (tmp_path / part / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AKDTUNE_CACHE", "/shared/cache")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    load_plugins(plugins := ["of_a_file", "of_a_folder.inner"])

    brought = ray_start._brought({"OMP_NUM_THREADS": "1"}, plugins)

    assert brought == {
        "env_vars": {"OMP_NUM_THREADS": "1", "AKDTUNE_CACHE": "/shared/cache", BROUGHT: "1"},
        "py_modules": [str(PACKAGE), str(tmp_path / "of_a_file.py"), str(tmp_path / "of_a_folder")],
    }


def test_a_plug_in_that_was_brought_is_found_by_its_name(tmp_path: Path) -> None:
    """On a node that sees the driver's folders as well, it has two files, which is no mistake there."""
    for folder in ("brought", "of_the_driver"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "travelling.py").write_text(f"print('{folder}')")
    script = f"from akdtune.registry import load_plugins; load_plugins(['travelling'], ['{tmp_path}/of_the_driver'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "brought")}
    done = [
        subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
        for env in (environment, {**environment, BROUGHT: "1"})
    ]
    assert "give the plug-in another name" in done[0].stderr
    assert (done[1].returncode, done[1].stdout) == (0, "brought\n"), done[1].stderr


@pytest.mark.parametrize(("cpus", "free_mib", "preloads"), [(2, 8_000, True), (2, 2_000, False), (64, 64_000, False)])
def test_workers_load_what_trials_need_where_memory_suffices(
    cpus: int, free_mib: int, preloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(available=free_mib * 2**20)
    monkeypatch.setattr(ray_start.psutil, "virtual_memory", lambda: memory)
    assert ("RAY_preload_python_modules" in ray_start._preloading(cpus, None)) == preloads


@pytest.mark.parametrize(("slots", "kept"), [(None, "4"), (2, "2"), (9, "4")])
def test_of_workers_that_wait_as_many_stay_as_trials_run_at_once(
    slots: int | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_start.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert ray_start._preloading(4, slots)["RAY_num_workers_soft_limit"] == kept


def test_a_ray_that_does_not_start_is_said_by_who_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins in a thread of its own; what is set for it alone is gone again, and so is its folder."""

    def refuse(**_: object) -> None:
        assert {name: os.environ[name] for name in for_it} == for_it
        raise RuntimeError("no sockets left\nand more")

    monkeypatch.setattr(ray_start, "_own", None)  # other tests of this process may keep theirs
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray_start.ray, "init", refuse)
    monkeypatch.setattr(ray_start.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    for_it = ray_start._preloading(1, 1)
    monkeypatch.setattr(ray_start, "own_folder", lambda: Path(tempfile.mkdtemp(dir=tmp_path)))
    before = dict(os.environ)
    monkeypatch.setattr(ray_start, "_prepare", lambda _: {})
    monkeypatch.setattr(ray_start, "available_cpus", lambda: 1)
    ray_start.begin(5.0, slots=1)
    assert ray_start.has_begun()
    with pytest.raises(RayError, match="Ray does not start on this machine: no sockets left; the same command goes on"):
        ray_start.start_ray(None, 5.0)
    assert not ray_start.has_begun()
    assert dict(os.environ) == before
    for _ in range(600):
        if not list(tmp_path.iterdir()):
            break
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []
