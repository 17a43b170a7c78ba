"""Which errors are the trial's own and which its surroundings', what is said about them, and when a study stops."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
import torch

from akdtune.errors import AkdtuneError, CheckpointError, DataError, SettingsError, StudyError, SurroundingsError
from akdtune.running import failures, outages
from akdtune.running.failures import Fault, as_the_driver_did, outside, spoils
from akdtune.running.outages import InARow, of_died_process, was_outside


def system(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


OUTSIDE = {
    "EIO": (system(errno.EIO, "/nfs/a"), "/nfs/a: Input/output error", "disk or network file system"),
    "ESTALE": (system(errno.ESTALE, "/nfs/a"), "/nfs/a: Stale file handle", "disk or network file system"),
    "EACCES": (system(errno.EACCES, "/nfs/a"), "/nfs/a: Permission denied", "give this user access"),
    "ENOENT": (system(errno.ENOENT, "/data/x"), "/data/x: No such file", "make it visible on every node"),
    "EMFILE": (system(errno.EMFILE), "Too many open files", "ulimit -n"),
    "ENOSPC": (system(errno.ENOSPC, "/cache/x"), "/cache/x: No space left", "make room there"),
    "connection": (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "reset by peer", "the network"),
    "timeout": (TimeoutError("no answer"), "no answer", "the network"),
    "loader": (
        FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0.\nOriginal Traceback\n  ...\n"
                          "FileNotFoundError: [Errno 2] No such file or directory: '/data/7.png'"),
        "/data/7.png", "make it visible on every node",
    ),
    "import": (ModuleNotFoundError("No module named 'x'"), "cannot import: No module named 'x'", "install it on every"),
    "memory": (MemoryError(), "out of memory", "fewer trials at once"),
    "torch memory": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"
                     " tried to allocate 4 bytes. Error code 12 (Cannot allocate memory)"),
        "DefaultCPUAllocator", "fewer trials at once",
    ),
    "threads": (RuntimeError("can't start new thread"), "new thread", "fewer trials at once"),
    "shm": (
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error. It is possible that dataloader's "
                     "workers are out of shared memory. Please try to raise your shared memory limit."),
        "shared memory", "/dev/shm",
    ),
    "shm full": (
        RuntimeError("unable to write to file </torch_17_3>: No space left on device (28)"), "/torch_17_3", "/dev/shm"
    ),
    "CUDA OOM": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has ..."),
        "out of GPU memory: CUDA out of memory", "training.batch_size",
    ),
    "CUDA OOM, old": (RuntimeError("CUDA error: out of memory"), "out of GPU memory", "resources.gpu"),
    "driver": (RuntimeError("CUDA error: unspecified launch failure"), "the GPU failed", "nvidia-smi"),
    "no GPU": (RuntimeError("No CUDA GPUs are available"), "the GPU failed", "nvidia-smi"),
    "NCCL": (RuntimeError("NCCL error in: x.cpp:1691, unhandled system error"), "the GPU failed", "nvidia-smi"),
    "teacher": (CheckpointError("/c/t.pt: no such file (teacher.checkpoint)"), "/c/t.pt: no such file", "put it back"),
    "data": (DataError("/data/x.parquet: no such file"), "/data/x.parquet", "put the data back"),
    "plug-in": (
        caused(AkdtuneError("plugins: cannot import 'p': ..."), ModuleNotFoundError("No module named 'p'")),
        "No module named 'p'", "install it on every node",
    ),
    "wrapped": (caused(StudyError("cannot write /r/e.parquet: ..."), system(errno.EIO)), "/r/e.parquet", "its disk"),
    "torch file": (RuntimeError("unexpected pos 64: Input/output error"), "Input/output error", "disk or network"),
}  # fmt: skip
OWN = {
    "value": ValueError("a user's bug"),
    "shape": RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    "devices": RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!"),
    "assert": RuntimeError("CUDA error: device-side assert triggered"),
    "argument": RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling cublasSgemm"),
    "key": KeyError("x"),
    "of a file, by the component": caused(ValueError("no prototypes"), system(errno.ENOENT, "/x")),
    "settings": SettingsError([]),
    "akdtune": AkdtuneError("method at needs maps"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_stands_outside_a_trial_is_named_with_node_and_remedy(name: str) -> None:
    error, said, remedy = OUTSIDE[name]
    fault = outside(error)
    assert fault is not None
    assert said in fault.said and "\n" not in fault.said
    assert remedy in fault.remedy
    assert fault.cause.endswith(f"(on {socket.gethostname()})")
    assert Fault.of_plain(fault.plain()) == fault


@pytest.mark.parametrize("name", OWN)
def test_a_trials_own_errors_are_its_own(name: str) -> None:
    assert outside(OWN[name]) is None


def test_whatever_the_driver_could_do_and_a_worker_cannot_stands_outside() -> None:
    with pytest.raises(AkdtuneError) as raised, as_the_driver_did("data", "make it visible"):
        raise ValueError("truncated")
    fault = outside(raised.value)
    assert fault is not None and (fault.kind, fault.said, fault.remedy) == (
        "data",
        "data: truncated",
        "make it visible",
    )
    with pytest.raises(MemoryError), as_the_driver_did("data", "make it visible"):
        raise MemoryError


def test_after_memory_or_the_gpu_were_lost_a_process_takes_no_other_trial() -> None:
    lost = {name for name, (error, *_) in OUTSIDE.items() if spoils(error)}
    of_gpu = {"CUDA OOM", "CUDA OOM, old", "driver", "no GPU", "NCCL"}
    assert lost == {"memory", "torch memory", "threads", *of_gpu}
    assert {name for name, error in OWN.items() if spoils(error)} == {"assert"}


def test_what_an_earlier_version_ended_as_failed_is_told_apart_by_its_text() -> None:
    """Texts as earlier versions wrote them."""
    outside_then = [
        "OSError: [Errno 5] Input/output error: '/nfs/a' (kd.py:12)",
        "PermissionError: [Errno 13] Permission denied: '/nfs/a' (cache.py:12)",
        "CheckpointError: /c/teacher.pt: no such file (teacher.checkpoint) (checkpoints.py:99)",
        "AkdtuneError: plugins: cannot import 'p': No module named 'p' (registry.py:9)",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 MiB (kd.py:3)",
        "RuntimeError: CUDA error: unspecified launch failure (kd.py:3)",
        "its process died 4 times (see /r/trials/t/log.txt)",
    ]
    own = ["ValueError: a user's bug (p.py:3)", "RuntimeError: shapes (p.py:3)", "AkdtuneError: at needs maps (p.py:3)"]
    assert [was_outside(error) for error in outside_then] == [True] * len(outside_then)
    assert [was_outside(error) for error in [*own, None, ""]] == [False] * 5


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.", "memory monitor"),
        ("The actor died because its node has died. Node Id: 3", "its node was lost"),
        ("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR", "killed by a signal"),
        ("", "killed by a signal"),
    ],
)
def test_a_process_that_died_whenever_it_was_tried_is_named(said: str, named: str) -> None:
    fault = of_died_process(4, said, "node7", Path("/r/log.txt"))
    assert fault.said.startswith("its process died 4 times (see /r/log.txt)")
    assert named in fault.said and fault.host == "node7"


def test_a_full_disk_is_the_studys_only_where_it_holds_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = tmp_path / "run", tmp_path / "cache"
    root.mkdir()
    said = os.strerror(errno.ENOSPC)
    full = f"{said} (on {socket.gethostname()})"
    assert failures.disk_refusal(system(errno.ENOSPC, str(root / "trials/t/x")), root) == full
    assert failures.disk_refusal(caused(StudyError("cannot write"), system(errno.ENOSPC)), root) == full
    assert failures.disk_refusal(system(errno.ENOSPC, str(cache / "x")), root) is None
    assert failures.disk_refusal(system(errno.ENOSPC), root) == full, "nowhere else is full"
    monkeypatch.setattr(failures, "full_places", lambda: [cache])
    assert failures.disk_refusal(system(errno.ENOSPC), root) is None
    fault = outside(system(errno.ENOSPC))
    assert fault is not None and fault.said == f"{cache}: {said}"
    assert failures.disk_refusal(system(errno.EIO, str(root / "x")), root) is None


def test_what_ends_a_teachers_training_is_one_sentence(tmp_path: Path) -> None:
    sentence = outages.of_teacher(system(errno.EIO, "/nfs/a"))
    assert isinstance(sentence, SurroundingsError) and "while the teacher trained: /nfs/a: Input/output" in str(
        sentence
    )
    own = outages.of_teacher(ValueError("a user's bug"))
    assert type(own) is StudyError and str(own) == "the teacher's training failed: ValueError: a user's bug"
    mistake = AkdtuneError("teacher.network: unknown")
    assert outages.of_teacher(mistake) is mistake
    with pytest.raises(SurroundingsError, match=r"t\.pt: the teacher was trained on node7.* AKDTUNE_CACHE"):
        outages.check_teacher_is_here(str(tmp_path / "t.pt"), "node7")


def test_three_trials_in_a_row_that_meet_the_same_stop_the_study_with_one_sentence() -> None:
    def fault(kind: str, host: str = "a") -> Fault:
        return Fault(kind, "/t.pt: no such file", "put it back", host)

    row = InARow()
    assert row.met("1", fault("ENOENT")) is None
    assert row.met("2", fault("ENOENT")) is None
    row.other()
    assert row.met("3", fault("ENOENT")) is None
    assert row.met("3", fault("ENOENT")) is None, "the same trial again"
    assert row.met("4", fault("EIO")) is None
    assert row.met("5", fault("EIO")) is None
    assert row.met("6", fault("EIO", "b")) == (
        "stopped, as 3 trials in a row met the same outside: /t.pt: no such file (on a, b); put it back, then give the "
        "same command again: nothing is lost, it goes on where it stopped"
    )


def test_an_unseen_study_directory_stops_the_study_at_once() -> None:
    sentence = InARow().met("1", failures.of_unseen_directory("/r", "is not visible", "node7"))
    assert sentence is not None and "a trial met" in sentence
    assert "/r: is not visible (on node7); put the study directory (--dir) on a file system that all nodes" in sentence
