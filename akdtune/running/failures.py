"""Which errors are none of a trial's own: what is met outside it, in one sentence, and what to do about that.

A trial that meets one is interrupted and goes on later; an error of its own ends it. What the driver could do when it
began (import plug-ins, read the data, load the teacher) and a worker cannot is the worker's surroundings, whatever was
raised. Otherwise the kind of error decides: what the operating system refuses, memory, the GPU, the network, missing
packages.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, CheckpointError, DataError, StudyError
from akdtune.folders import cache_directory

FULL_BYTES = 1 << 20
"""A place with less room than this counts as full."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_REMEDIES: dict[tuple[int, ...], str] = {
    (errno.ENOENT, errno.ENOTDIR): "put it back, or make it visible on every node under the same path",
    (errno.EACCES, errno.EPERM): "give this user access to it",
    (errno.ENOSPC, errno.EDQUOT): "make room there",
    (errno.EROFS,): "mount it so that it can be written",
    (errno.EMFILE, errno.ENFILE): "raise the limit (`ulimit -n`), or run fewer trials at once (resources.concurrent)",
    (errno.ENOMEM,): "run fewer trials at once (resources.concurrent), or give them a machine with more memory",
    (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.ENOTCONN, errno.EHOSTDOWN): (
        "look after that disk or network file system"
    ),
}
_BY_TYPE: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    NotADirectoryError: errno.ENOTDIR,
    ConnectionRefusedError: errno.ECONNREFUSED,
    ConnectionResetError: errno.ECONNRESET,
    BrokenPipeError: errno.EPIPE,
    TimeoutError: errno.ETIMEDOUT,
}
_SYSTEM_SAYS = {
    os.strerror(number): number
    for number in (
        errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
        errno.EACCES, errno.ENOENT, errno.ENODEV,
    )
}  # fmt: skip
"""What torch writes into a RuntimeError where Python would raise an OSError."""

_SHARED_MEMORY = re.compile(
    r"out of shared memory|shared memory object|/torch_\d|DataLoader worker \(pid.*(killed by signal|exited unexpected)"
    r"|received 0 items of ancdata",
    re.DOTALL,
)
_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc|can't start new thread")
_GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|HIP out of memory")
_GPU = re.compile(
    r"CUDA error|CUDA driver|CUDA unknown error|CUDA initialization|No CUDA GPUs|NVIDIA driver|NVML|cuDNN error"
    r"|CUDNN_STATUS_|CUBLAS_STATUS_|CUFFT_|CUSOLVER_STATUS_|NCCL|HIP error"
)
_ASKED_WRONGLY = re.compile(
    r"device-side assert|STATUS_(BAD_PARAM|INVALID_VALUE|NOT_SUPPORTED)|error: invalid (argument|configuration)"
)
"""What the GPU says of a step that asks for nonsense: the trial's own error, though the process is lost with it."""


@dataclass(frozen=True)
class Fault:
    """Something that a trial met outside itself.

    Attributes:
        kind: the same where another trial met the same.
        said: what was met.
        remedy: what to do about it.
        host: of the node.
        at_once: whether one trial is enough to stop the study.
        lost: whether the process is of no use to another trial.
    """

    kind: str
    said: str
    remedy: str
    host: str = ""
    at_once: bool = False
    lost: bool = False

    def __post_init__(self) -> None:
        """Takes this node as the host unless told otherwise."""
        object.__setattr__(self, "host", self.host or socket.gethostname())

    def plain(self) -> dict[str, Any]:
        """As it travels to the driver."""
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any] | None) -> Fault | None:
        """The inverse of `plain`; None of None."""
        known = cls.__dataclass_fields__
        return None if plain is None else cls(**{name: value for name, value in plain.items() if name in known})

    @property
    def cause(self) -> str:
        """What was met and where, as it stands in the ledger."""
        return f"{self.said} (on {self.host})"


class Lacking(AkdtuneError):
    """A worker cannot do what the driver did when it began.

    Args:
        what: that is lacking: `plug-ins`, `data`, ...
        remedy: what to do about it.
    """

    def __init__(self, what: str, remedy: str, error: BaseException) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what}: {on_one_line(error)}")


@contextlib.contextmanager
def as_the_driver_did(what: str, remedy: str) -> Iterator[None]:
    """Whatever is raised within is no fault of the trial: the driver has done the same."""
    try:
        yield
    except Exception as error:
        if any(of_process(link) for link in _links(error)):  # memory, the GPU: not what was being done
            raise
        raise Lacking(what, remedy, error) from error


def outside(error: BaseException) -> Fault | None:
    """What stands outside the trial behind an error; None where the error is the trial's own.

    An error that was raised from another one (`raise ... from ...`) by akdtune counts as that one; what a component
    makes of an error on its own is the component's.
    """
    links = list(_links(error))
    found = [of_process(link) for link in links] + [_of_files(link) for link in links]
    return next((fault for fault in found if fault is not None), None)


def of_process(error: BaseException) -> Fault | None:
    """What the process or its machine lacks: memory, the GPU, shared memory, files that may be open."""
    text = str(error)
    named = type(error).__name__
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text)):
        return Fault("memory", f"out of memory: {on_one_line(error)}", remedy_of(errno.ENOMEM), lost=True)
    if not isinstance(error, RuntimeError):
        return None
    if named == "OutOfMemoryError" or _GPU_MEMORY.search(text):
        remedy = "let fewer trials share a GPU (resources.gpu) or free it of other processes; else training.batch_size"
        return Fault(
            "GPU memory", f"out of GPU memory: {on_one_line(error)}", f"{remedy} is too large for it", lost=True
        )
    if _ASKED_WRONGLY.search(text):
        return None
    if named in ("AcceleratorError", "DistBackendError", "DistNetworkError", "DistStoreError") or _GPU.search(text):
        remedy = "look after that GPU and its driver (nvidia-smi)"
        return Fault("GPU", f"the GPU failed: {on_one_line(error)}", remedy, lost=True)
    if _SHARED_MEMORY.search(text):
        remedy = "give /dev/shm more room, raise `ulimit -n`, or set data.workers: 0"
        return Fault("shared memory", f"shared memory: {on_one_line(error)}", remedy)
    return None


def _of_files(error: BaseException) -> Fault | None:
    """What cannot be read, written, reached or imported."""
    if isinstance(error, Lacking):
        return Fault(error.what, str(error), error.remedy)
    if isinstance(error, CheckpointError):
        remedy = "put it back as it was when the study began, or make it visible on every node (AKDTUNE_CACHE)"
        return Fault("checkpoint", on_one_line(error), remedy)
    if isinstance(error, DataError):
        return Fault(
            "data", on_one_line(error), "put the data back, or make it visible on every node under the same path"
        )
    if isinstance(error, StudyError):
        return Fault("study directory", on_one_line(error), "look after its disk or network file system")
    if isinstance(error, ImportError):
        return Fault("import", f"cannot import: {on_one_line(error)}", "install it on every node")
    if (number := system_error(error)) is not None:
        return Fault(errno.errorcode.get(number, type(error).__name__), _of_system(error, number), remedy_of(number))
    if type(error).__module__.partition(".")[0] == "ray":
        return Fault("ray", f"Ray: {on_one_line(error)}", "see that the cluster is up (`ray status`)")
    return None


def system_error(error: BaseException) -> int | None:
    """The number of what the operating system refused, 0 where it is not known; None for another error."""
    if isinstance(error, OSError):
        if error.errno is not None:
            return error.errno
        if told := re.search(r"\[Errno (\d+)\]", str(error)):  # raised again by a DataLoader, as text
            return int(told[1])
        return next((number for kind, number in _BY_TYPE.items() if isinstance(error, kind)), 0)
    if isinstance(error, RuntimeError):
        return next((number for says, number in _SYSTEM_SAYS.items() if says in str(error)), None)
    return None


def of_unseen_directory(root: str | Path, met: str, host: str = "") -> Fault:
    """A node that does not see the study directory: no trial can run there, and what it computes is lost.

    Args:
        root: of the study.
        met: what is there instead.
        host: of the node; empty: this one.
    """
    remedy = "put the study directory (--dir) on a file system that all nodes share"
    return Fault("study directory", f"{root}: {met}", remedy, host, at_once=True)


def spoils(error: BaseException) -> bool:
    """Whether the process is of no use after an error, whosever it is."""
    return any(
        ((fault := of_process(link)) is not None and fault.lost) or "device-side assert" in str(link)
        for link in _links(error)
    )


def disk_refusal(error: BaseException, root: Path) -> str | None:
    """What a full or read-only disk said, if it holds the study directory: no trial can go on there."""
    links = list(_links(error))
    for link in links:
        number = system_error(link)
        if number in _FULL:
            return f"{os.strerror(number)} (on {socket.gethostname()})" if _is_of_the_study(link, links, root) else None
    return None


def _is_of_the_study(error: BaseException, links: list[BaseException], root: Path) -> bool:
    """Whether the study directory refused a write: by the file's name, by who says so, or by trying."""
    if any(isinstance(link, StudyError) for link in links):
        return True
    named = getattr(error, "filename", None)
    if named:
        return Path(os.fsdecode(named)).absolute().is_relative_to(root.resolve())
    return not full_places() or not _takes(root)


def full_places() -> list[Path]:
    """Which places beside the study directory, where a trial writes as well, are full."""
    places = (cache_directory(), Path(tempfile.gettempdir()), Path("/dev/shm"))
    full = []
    for place in places:
        with contextlib.suppress(OSError):
            if shutil.disk_usage(place).free < FULL_BYTES:
                full.append(place)
    return full


def _takes(root: Path) -> bool:
    """Whether a little can be written there."""
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(FULL_BYTES))
            file.flush()
    except OSError:
        return False
    return True


def _links(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from, as far as akdtune says so."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ if isinstance(link, AkdtuneError) else None


def _of_system(error: BaseException, number: int) -> str:
    """What the operating system refused, the file first."""
    named = getattr(error, "filename", None)
    if number in (errno.ENOSPC, errno.EDQUOT) and not named and (full := full_places()):
        return f"{', '.join(map(str, full))}: {os.strerror(number)}"
    return f"{os.fsdecode(named)}: {os.strerror(number)}" if named and number else on_one_line(error)


def remedy_of(number: int) -> str:
    """What to do about what the operating system refused, by its number."""
    for numbers, remedy in _REMEDIES.items():
        if number in numbers:
            return remedy
    if errno.errorcode.get(number, "").startswith(("ECONN", "ENET", "EHOST", "ETIMEDOUT", "EPIPE")):
        return "look after the network, or the service that it talks to"
    return "mend that"


def on_one_line(error: BaseException, most: int = 300) -> str:
    """An error on one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[-1] if lines[0].startswith("Caught ") else lines[0]  # a DataLoader's, with its worker's traceback
    line = " ".join(line.split())
    return line if len(line) <= most else line[: most - 4] + " ..."
