"""Checkpoint files out of a generator, cut and damaged: weights, or one of our errors, in seconds; never a traceback.

`AKDTUNE_FUZZ=5000 pytest tests/fuzz/test_checkpoints.py` tries so many files of each kind instead of a few dozen.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from akdtune import networks
from akdtune.errors import AkdtuneError
from akdtune.settings.checkpoint import CheckpointFile
from akdtune.signals import InputSpec
from akdtune.teacher.checkpoints import fill_weights
from akdtune.teacher.extraction import extract_weights

INPUTS = InputSpec(1, 8, 3)
NETWORK = {"name": "cnn", "widths": [2]}
LIMIT_S = 20.0
"""Of one file; most take milliseconds."""

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, about the tensors that are made here

fuzzed = settings(
    max_examples=int(os.environ.get("AKDTUNE_FUZZ", "40")),
    derandomize="AKDTUNE_FUZZ" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@functools.cache
def own() -> dict[str, Tensor]:
    return dict(networks.build(NETWORK, INPUTS, 3).state_dict())


@functools.cache
def network() -> networks.Network:
    return networks.build(NETWORK, INPUTS, 0)


def tensor_of(kind: str, shape: list[int]) -> Any:
    plain = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)
    makers = {
        "float32": lambda: plain,
        "float64": lambda: plain.double() * 1e200,
        "half": plain.half,
        "bfloat16": plain.bfloat16,
        "float8": lambda: plain.to(torch.float8_e4m3fn),
        "int": plain.long,
        "bool": plain.bool,
        "complex": lambda: plain.to(torch.complex64),
        "sparse": plain.to_sparse,
        "quantized": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "meta": lambda: plain.to("meta"),
        "expanded": lambda: torch.zeros([1] * len(shape[:3])).expand([10**5] * len(shape[:3])),
        "nan": lambda: plain * float("nan"),
        "parameter": lambda: torch.nn.Parameter(plain),
        "numpy": plain.numpy,
        "view": lambda: plain.T if plain.ndim == 2 else plain,
    }
    return makers[kind]()


KINDS = ["float32", "float64", "half", "bfloat16", "float8", "int", "bool", "complex", "sparse", "quantized", "meta",
         "expanded", "nan", "parameter", "numpy", "view"]  # fmt: skip

shapes = st.lists(st.integers(0, 4), max_size=4)
tensors = st.builds(tensor_of, st.sampled_from(KINDS), shapes)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.binary(max_size=4),
    st.builds(np.float64, st.floats()), st.builds(argparse.Namespace, lr=st.floats()),
)  # fmt: skip
names = st.one_of(
    st.sampled_from(sorted(own())),
    st.sampled_from(["model", "state_dict", "module", "a.b", "", ".", "epoch"]),
    st.builds("{}{}".format, st.sampled_from(["module.", "student.", "x.y."]), st.sampled_from(sorted(own()))),
    st.text(max_size=5),
)
keys = st.one_of(names, st.integers(-2, 5))
trees = st.recursive(
    st.one_of(scalars, tensors),
    lambda inner: st.one_of(st.dictionaries(keys, inner, max_size=5), st.lists(inner, max_size=3)),
    max_leaves=12,
)


def prefixed(prefix: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in own().items()} | changes


layouts = st.one_of(
    trees,
    st.builds(prefixed, st.sampled_from(["", "module.", "a.b."]), st.dictionaries(names, tensors, max_size=3)),
    st.dictionaries(
        st.sampled_from(["model", "ema", "student"]),
        st.builds(prefixed, st.sampled_from(["", "module."]), st.dictionaries(names, tensors, max_size=2)),
        min_size=1,
    ),
)
places = st.one_of(st.none(), st.sampled_from(["model", "student", "ema", ".", "module.", "x"]))


def tried(content: bytes, key: str | None = None, strip: str | None = None) -> str:
    """What becomes of a file: `loaded`, or `refused`; anything else is raised."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.pth"
        file.write_bytes(content)
        started = time.monotonic()
        refused = message_of(lambda: fill_weights(network(), CheckpointFile(path=str(file), key=key, strip=strip)))
        message_of(lambda: extract_weights(file))
        assert time.monotonic() - started < LIMIT_S
    assert refused is None or (refused and "\n" not in refused)
    for tensor in network().state_dict().values():
        assert not tensor.is_floating_point() or bool(tensor.isfinite().all())
    return "loaded" if refused is None else "refused"


def message_of(call: Callable[[], Any]) -> str | None:
    """What one of our errors says, in one line; None where there is none."""
    try:
        call()
    except AkdtuneError as error:
        return str(error)
    return None


def saved(held: Any, modern: bool = True) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(held, buffer, _use_new_zipfile_serialization=modern)
    return buffer.getvalue()


@functools.cache
def whole_files() -> tuple[bytes, ...]:
    held = {"state_dict": own(), "epoch": 3, "best": np.float64(1.5), "history": [1.0, 2.0]}
    plain = {name: tensor.contiguous() for name, tensor in own().items()}
    return (saved(held), saved(held, modern=False), save(plain), saved({"opt": argparse.Namespace(lr=1.0), **held}))


@fuzzed
@given(held=layouts, key=places, strip=places, modern=st.booleans())
def test_whatever_a_file_holds(held: Any, key: str | None, strip: str | None, modern: bool) -> None:
    try:
        content = saved(held, modern)
    except (RuntimeError, NotImplementedError, TypeError):  # torch does not save it: a float8 or meta tensor of old
        return
    tried(content, key, strip)


@fuzzed
@given(data=st.data(), which=st.integers(0, 3))
def test_files_with_other_bytes(data: st.DataObject, which: int) -> None:
    content = bytearray(whole_files()[which])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    tried(bytes(content))


@fuzzed
@given(data=st.data(), which=st.integers(0, 3))
def test_files_that_were_cut(data: st.DataObject, which: int) -> None:
    content = whole_files()[which]
    start = data.draw(st.integers(0, len(content) // 8))
    end = data.draw(st.integers(0, len(content)))
    lost = data.draw(st.booleans())
    cut = content[: start + end] + bytes(64 * lost) if data.draw(st.booleans()) else content[start:]
    tried(cut)


@fuzzed
@given(
    content=st.binary(max_size=300), head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"{", b"\x1f\x8b", b"BZh"])
)
def test_any_bytes(content: bytes, head: bytes) -> None:
    assert tried(head + content) == "refused"
