"""Files of tensors and plain data, read without running anything that is in them; and what other files are.

Read are files of `torch.save` (weights only, NumPy's scalars and arrays included) and of safetensors.
"""

from __future__ import annotations

import re
import shlex
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

MISSING = "no such file"

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_UNPACKED = ("gzip", "bzip2", "xz", "zip", "tar")
"""Archives that `akdtune teacher weights` looks into."""


def read_plain(path: Path, classes: Mapping[str, type] | None = None) -> Any:
    """Whatever a file of `torch.save` or safetensors holds, with weights only.

    Args:
        path: which of the two it is, its content says, as files are renamed.
        classes: further ones that may stand in it, by the names under which they do.
    """
    if _is_safetensors(path):
        return load_file(path)
    allowed = [*_NUMPY, *(classes or {}).values()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore")  # of torch about itself: sparse and quantized tensors, old files
        return torch.load(path, map_location="cpu", weights_only=True)


def with_tensors(node: Any, depth: int = 0) -> Any:
    """The same dictionaries and lists with NumPy's arrays of numbers as tensors."""
    if isinstance(node, np.ndarray):
        return torch.from_numpy(np.array(node)) if node.dtype.kind in "fiub" and node.dtype.isnative else node
    if depth > 8:
        return node
    if isinstance(node, Mapping):
        return {key: with_tensors(item, depth + 1) for key, item in node.items()}
    return [with_tensors(item, depth + 1) for item in node] if isinstance(node, list) else node


def refused_global(error: BaseException) -> str | None:
    """The class or function that torch would not restore from a file; None where an error says something else."""
    found = re.search(r"GLOBAL ([\w.<>]+) was not an allowed global", str(error))
    return found.group(1) if found else None


def no_file(path: Path) -> str | None:
    """Why a path does not lead to a file that can be opened; None where it does."""
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            inside = sorted(file.name for file in path.iterdir() if file.suffix in _SUFFIXES)
            return "is a folder, not a file" + (f" (it holds {', '.join(inside[:3])})" if inside else "")
        if not stat.S_ISREG(facts.st_mode):
            return "is no regular file"
        with path.open("rb"):
            return None
    except FileNotFoundError:
        return MISSING
    except (OSError, ValueError) as error:  # a name too long, a null byte, no permission
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"


_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar"}


def other_kind(path: Path) -> str | None:
    """What a file is that is certainly no checkpoint, and what to do about it; None where it may be one."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return f"it is a pointer of Git LFS, not the file: git -C {shlex.quote(str(path.parent))} lfs pull"
    if head.lstrip()[:14].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, perhaps of a download that was refused"
    if (packed := archive_of(path, head)) is not None:
        how = f"; its weights as a file: {weights_command(path)}" if packed in _UNPACKED else ""
        return f"it is an archive of {packed}{how}"
    if is_torchscript(path):
        return f"it is a TorchScript program; its weights as a file: {weights_command(path)}"
    if head.lstrip().startswith(b"{") and path.suffix == ".json":
        return f"it is an index of several files; their weights as one: {weights_command(path)}"
    return None


def archive_of(path: Path, head: bytes) -> str | None:
    """The kind of archive that a file is, where it is none of torch's own."""
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar":
        return "tar"
    names = zip_names(path)
    return "zip" if names and not any(name.rpartition("/")[2] == "data.pkl" for name in names) else None


def zip_names(path: Path) -> list[str]:
    """The members of a zip file; none where it is another file, or cut."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RecursionError):
        return []


def is_torchscript(path: Path) -> bool:
    """Whether a zip file of torch's is a TorchScript program."""
    return any(name.rpartition("/")[2] == "constants.pkl" for name in zip_names(path))


def weights_command(path: Path) -> str:
    """The command that saves the weights in a file alone."""
    stem = _ENDINGS.sub("", path.name) or "checkpoint"
    return f"akdtune teacher weights {shlex.quote(str(path))} {shlex.quote(str(path.with_name(f'{stem}_weights.pth')))}"


_ENDINGS = re.compile(r"(?:\.(?:pt|pth|ckpt|bin|safetensors|tar|zip|gz|bz2|xz|index|json))+$")


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with a length of eight bytes and JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{" and head[6:8] == b"\0\0")


def reason(error: Exception) -> str:
    """The first line of an error that says something, without torch's advice to trust the file."""
    if isinstance(error, SafetensorError):
        return f"safetensors: {error}"
    text = str(error)
    if blocked := re.search(r"unsupported GLOBAL ([\w.]+) whose module", text):
        return f"it asks for {blocked.group(1)}, as no checkpoint does: do not trust it"
    inner = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    if inner is None and "Weights only load failed" in text:
        return "it is no file of torch.save"
    return (inner.group(1) if inner else text or type(error).__name__).splitlines()[0][:200]


# ----------------------------------------------------------------------------------------------------- NumPy's numbers


def _named(module: str, name: str, make: Callable[..., Any]) -> type:
    """A class under a name that a file may hold, which makes what `make` does."""
    return type(name, (), {"__module__": module, "__qualname__": name, "__new__": lambda cls, *given: make(*given)})


def _numpy_names() -> Iterator[Any]:
    """What NumPy's scalars and arrays are restored with: plain data, under the names of its versions 1 and 2."""
    core: Any = getattr(np, "_core", None) or getattr(np, "core")
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield _named(module, "scalar", core.multiarray.scalar)
        yield _named(module, "_reconstruct", core.multiarray._reconstruct)
    yield from (np.dtype, np.ndarray)
    yield from (
        kind for kind in vars(np.dtypes).values() if isinstance(kind, type) and kind is not np.dtypes.ObjectDType
    )


_NUMPY = list(_numpy_names())
