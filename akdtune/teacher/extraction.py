"""The weights in a file that is refused because other objects stand beside them, without restoring those.

Every class and function that a file asks for becomes an empty one of the same name, so that nothing of it runs; a
pickled module then still shows its parameters, buffers and children.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from akdtune.errors import CheckpointError
from akdtune.teacher import plain_files

_MOST_CLASSES = 500
_DEPTH = 40


class _Empty:
    """Stands for an object of a class that is not restored: holds its state, does nothing."""

    def __new__(cls, *given: Any, **named: Any) -> _Empty:
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.__dict__.update({str(key): item for key, item in part.items()})


def extract_weights(path: Path) -> dict[str, Any]:
    """The tensors of a file by name, in the dictionaries that they stand in; pickled modules as their state dicts.

    Args:
        path: a checkpoint with other objects in it, a TorchScript program, an index of several files, or a compressed
            file or an archive of one of these.

    Raises:
        CheckpointError: for a file that is missing, damaged, or holds no weights.
    """
    if problem := plain_files.no_file(path):
        raise CheckpointError(f"{path}: {problem}")
    try:
        with ExitStack() as until:
            held = _held(path, until)
    except CheckpointError:
        raise
    except Exception as error:  # of whatever reads what may be any file
        raise CheckpointError(f"{path}: cannot be read: {plain_files.reason(error)}") from error
    kept = _kept(held)
    if isinstance(kept, Tensor) or not kept:
        raise CheckpointError(f"{path}: holds no weights by name")
    return kept if not isinstance(held, _Empty) else {"model": kept}


def _held(path: Path, until: ExitStack) -> Any:
    """What a file holds, with empty objects in place of what would have to be restored."""
    with path.open("rb") as file:
        packed = plain_files.archive_of(path, file.read(512))
    if packed is not None:
        return _held(_unpacked(path, packed, until), until)
    if plain_files.is_torchscript(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer torch would rather have programs of another kind
            return torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    if path.suffix == ".json":
        return _merged(path, until)
    classes: dict[str, type] = {}
    while True:
        try:
            return plain_files.read_plain(path, classes)
        except Exception as error:
            name = plain_files.refused_global(error)
            if name is None or name in classes or len(classes) == _MOST_CLASSES:
                raise
            module, _, last = name.rpartition(".")
            classes[name] = type(last, (_Empty,), {"__module__": module or "builtins", "__qualname__": last})


def _merged(path: Path, until: ExitStack) -> dict[str, Any]:
    """All tensors of the files that an index names; they lie beside it."""
    index = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(index, Mapping) or not isinstance(index.get("weight_map"), Mapping):
        raise CheckpointError(f"{path}: is no index of weights: it has no weight_map")
    tensors: dict[str, Any] = {}
    for name in dict.fromkeys(map(str, index["weight_map"].values())):
        if Path(name).name != name or plain_files.no_file(path.with_name(name)):
            raise CheckpointError(f"{path}: names '{name}', which does not lie beside it")
        tensors |= _held(path.with_name(name), until)
    return tensors


def _unpacked(path: Path, packed: str, until: ExitStack) -> Path:
    """The one file in a compressed file or archive, in a temporary folder."""
    folder = Path(until.enter_context(tempfile.TemporaryDirectory()))
    open_one: dict[str, Callable[[Path], Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    if packed in open_one:
        source = until.enter_context(open_one[packed](path))
        name = path.stem
    elif packed in ("zip", "tar"):
        name, source = _only_member(path, packed, until)
    else:
        raise CheckpointError(f"{path}: is compressed with {packed}: unpack it first")
    target = folder / (Path(name).name or "file")
    with target.open("wb") as file:
        shutil.copyfileobj(source, file)
    return target


def _only_member(path: Path, packed: str, until: ExitStack) -> tuple[str, BinaryIO]:
    if packed == "zip":
        archive = until.enter_context(zipfile.ZipFile(path))
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        opened: Callable[[str], Any] = archive.open
    else:
        tar = until.enter_context(tarfile.open(path))  # noqa: SIM115  closed by the stack
        names = [entry.name for entry in tar.getmembers() if entry.isfile()]
        opened = tar.extractfile
        if {"sys_info", "pickle", "storages", "tensors"} <= set(names):
            raise CheckpointError(f"{path}: was written by torch 0.1, whose format is not read")
    if len(names) != 1:
        raise CheckpointError(f"{path}: holds {len(names)} files, not one checkpoint: unpack it and name the file")
    return names[0], opened(names[0])


def _kept(node: Any, depth: int = 0) -> Any:
    """Tensors and what leads to them by name; None where nothing does."""
    if isinstance(node, Tensor):
        return node.detach()
    if isinstance(node, _Empty):
        node = dict(_state_dict(node)) or vars(node)
    if not isinstance(node, Mapping) or depth > _DEPTH:
        return None
    kept = {key: _kept(item, depth + 1) for key, item in node.items() if isinstance(key, str)}
    return {key: item for key, item in kept.items() if item is not None and not (isinstance(item, dict) and not item)}


def _state_dict(module: _Empty, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a pickled module, in the order of `nn.Module.state_dict`."""
    state = vars(module)
    left_out = state.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        held = state.get(group)
        for name, tensor in held.items() if isinstance(held, Mapping) else ():
            if isinstance(tensor, Tensor) and not (group == "_buffers" and name in left_out):
                yield f"{prefix}{name}", tensor.detach()
    children = state.get("_modules")
    for name, child in children.items() if isinstance(children, Mapping) and depth < _DEPTH else ():
        if isinstance(child, _Empty):
            yield from _state_dict(child, f"{prefix}{name}.", depth + 1)
