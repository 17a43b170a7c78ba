"""Where weights stand in files that people have: which load, how that is said, and what is refused with a way out."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from akdtune import networks
from akdtune.errors import CheckpointError
from akdtune.settings.checkpoint import CheckpointFile
from akdtune.signals import InputSpec
from akdtune.teacher.checkpoints import fill_weights, load_checkpoint, weights_hash

CPU = torch.device("cpu")
INPUTS = InputSpec(1, 8, 10)
NETWORK = {"name": "cnn", "widths": [4, 6]}
Weights = dict[str, Tensor]
Change = Callable[[Tensor], Tensor]


def weights(seed: int = 3) -> Weights:
    return dict(networks.build(NETWORK, INPUTS, seed).state_dict())


def under(prefix: str, seed: int = 3) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights(seed).items()}


def changed(change: Change, only: str = "") -> Weights:
    """The weights with what is floating point changed."""
    return {
        name: change(tensor) if tensor.is_floating_point() and only in name else tensor
        for name, tensor in weights().items()
    }


def nested(plain: Weights) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, tensor in plain.items():
        *place, last = name.split(".")
        node = tree
        for part in place:
            node = node.setdefault(part, {})
        node[last] = tensor
    return tree


def optimizer() -> dict[str, Any]:
    """As `torch.optim.SGD.state_dict()` gives it."""
    momentum = {index: {"momentum_buffer": tensor} for index, tensor in enumerate(weights(5).values())}
    return {"state": momentum, "param_groups": [{"lr": 0.1, "params": list(momentum)}]}


FILES: dict[str, tuple[Callable[[], Any], str]] = {
    "plain": (weights, ""),
    "state_dict": (lambda: {"state_dict": weights()}, ""),
    "model": (lambda: {"model": weights(), "optimizer": optimizer(), "epoch": 240}, ""),
    "model_state_dict": (
        lambda: {"model_state_dict": weights(), "optimizer_state_dict": optimizer()},
        "weights under 'model_state_dict'",
    ),
    "state_dict_ema": (lambda: {"state_dict_ema": weights()}, "weights under 'state_dict_ema'"),
    "model_ema": (lambda: {"model_ema": weights(), "model": None}, "weights under 'model_ema'"),
    "weights": (lambda: {"weights": weights()}, "weights under 'weights'"),
    "net": (lambda: {"net": weights(), "acc": 71.2}, ""),
    "student of a trial": (lambda: {"student": weights(), "objective": {"heads.weight": torch.ones(2)}}, ""),
    "data parallel": (lambda: {"state_dict": under("module.")}, "names without 'module.'"),
    "compiled": (lambda: under("_orig_mod."), ""),
    "compiled, parallel": (lambda: under("module._orig_mod."), "names without 'module.'"),
    "compiled inside": (lambda: {k.replace("fc.", "fc._orig_mod."): v for k, v in weights().items()}, ""),
    "lightning": (
        lambda: {"state_dict": under("model."), "pytorch-lightning_version": "2.1", "hyper_parameters": {"lr": 0.1}},
        "names without 'model.'",
    ),
    "lightning with a criterion": (
        lambda: {"state_dict": under("model.") | {"criterion.weight": torch.ones(10)}},
        "names without 'model.'; 1 other tensor left aside: criterion.weight",
    ),
    "module.student": (lambda: {"state_dict": under("module.student.")}, "names without 'module.student.'"),
    "student beside another teacher": (
        lambda: {"state_dict": under("student.") | {"teacher.stem.weight": torch.ones(3)}},
        "names without 'student.'; 1 other tensor left aside: teacher.stem.weight",
    ),
    "backbone": (lambda: under("backbone."), "names without 'backbone.'"),
    "any prefix anywhere": (
        lambda: {"a": {"b": [under("my.own.")]}},
        "weights under 'a.b.0'; names without 'my.own.'",
    ),
    "the same twice": (lambda: {"model": weights(), "state_dict_ema": weights()}, ""),
    "numpy scalars": (
        lambda: {"state_dict": weights(), "best": np.float64(71.2), "epoch": np.int64(3), "rng": np.arange(4)},
        "",
    ),
    "numpy arrays": (lambda: {"model": {name: tensor.numpy() for name, tensor in weights().items()}}, ""),
    "epoch beside the tensors": (
        lambda: {**weights(), "epoch": 3, "best_acc": torch.tensor(71.2), "optimizer": optimizer()},
        "1 other tensor left aside: best_acc",
    ),
    "counted by thop": (
        lambda: {**weights(), "fc.total_ops": torch.zeros(1)},
        "1 other tensor left aside: fc.total_ops",
    ),
    "dictionaries in dictionaries": (lambda: {"params": nested(weights())}, "names without 'params.'"),
    "without counters": (
        lambda: {name: tensor for name, tensor in weights().items() if "num_batches" not in name},
        "",
    ),
    "parameters": (
        lambda: collections.OrderedDict((k, torch.nn.Parameter(v, False)) for k, v in weights().items()),
        "",
    ),
    "float64": (lambda: changed(Tensor.double), "stored as float64"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files_that_load(kind: str, tmp_path: Path) -> None:
    make, note = FILES[kind]
    torch.save(make(), tmp_path / "t.pth")
    network = networks.build(NETWORK, INPUTS, 0)
    assert fill_weights(network, tmp_path / "t.pth") == note
    for name, tensor in weights().items():
        assert torch.equal(network.state_dict()[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = changed(lambda tensor: tensor.to(dtype))
    torch.save({"model": stored}, tmp_path / "t.pth")
    network = networks.build(NETWORK, INPUTS, 0)
    assert fill_weights(network, tmp_path / "t.pth") == f"stored as {str(dtype).removeprefix('torch.')}"
    assert all(torch.equal(network.state_dict()[name], tensor.float()) for name, tensor in stored.items())
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize("name", ["model.safetensors", "renamed.pth"])
def test_safetensors(name: str, tmp_path: Path) -> None:
    save_file({key: tensor.contiguous() for key, tensor in under("backbone.").items()}, tmp_path / name)
    assert weights_hash(load_checkpoint(tmp_path / name, NETWORK, INPUTS, CPU)) == weights_hash(
        networks.build(NETWORK, INPUTS, 3)
    )


def failure(held: Any, folder: Path, **more: Any) -> str:
    file = folder / "t.pth"
    torch.save(held, file)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(CheckpointFile(path=str(file), **more), NETWORK, INPUTS, CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{folder}/", "")


def load(held: Any, folder: Path, **more: Any) -> networks.Network:
    torch.save(held, folder / "t.pth")
    return load_checkpoint(CheckpointFile(path=str(folder / "t.pth"), **more), NETWORK, INPUTS, CPU)


def test_several_that_fit_are_named(tmp_path: Path) -> None:
    two = {"state_dict": weights(), "state_dict_ema": weights(4), "teacher": {"x": torch.ones(3)}}
    assert failure(two, tmp_path) == (
        "t.pth: several weights in it fit cnn for 10 classes: 'state_dict', 'state_dict_ema'; say which, e.g. "
        "checkpoint: {path: t.pth, key: state_dict}"
    )
    assert weights_hash(load(two, tmp_path, key="state_dict_ema")) == weights_hash(networks.build(NETWORK, INPUTS, 4))
    both = {"state_dict": under("student.") | under("teacher.", 4)}
    assert failure(both, tmp_path) == (
        "t.pth: several weights in it fit cnn for 10 classes: 'student.' under 'state_dict', 'teacher.' under "
        "'state_dict'; say which, e.g. checkpoint: {path: t.pth, key: state_dict, strip: student.}"
    )
    for strip in ("teacher.", "teacher"):
        chosen = load(both, tmp_path, strip=strip)
        assert weights_hash(chosen) == weights_hash(networks.build(NETWORK, INPUTS, 4))
    top = {**weights(), "ema": weights(4)}
    assert "the top of the file, 'ema'; say which, e.g. checkpoint: {path: t.pth, key: ema}" in failure(top, tmp_path)
    assert weights_hash(load(top, tmp_path, key=".")) == weights_hash(networks.build(NETWORK, INPUTS, 3))


def test_a_key_or_a_prefix_that_is_not_there(tmp_path: Path) -> None:
    assert failure({"model": weights()}, tmp_path, key="modle") == (
        "t.pth: checkpoint.key: unknown key 'modle'; did you mean 'model'? (allowed: model)"
    )
    assert failure(weights(), tmp_path, key="model") == (
        "t.pth: checkpoint.key: nothing under 'model': its tensors stand at the top, leave the key out"
    )
    assert failure({"model": weights()}, tmp_path, strip="student.").endswith(
        "checkpoint.strip: no name that begins with 'student.' fits"
    )


def test_what_differs_is_said_with_what_was_found(tmp_path: Path) -> None:
    other = {f"blocks.{index}.{'very_' * 20}long.weight": torch.ones(1, 2) for index in range(9)}
    said = failure({"state_dict": other}, tmp_path)
    assert said.startswith("t.pth: not a checkpoint of cnn for 10 classes; it holds: blocks.0.very_very_")
    assert " and 5 more; and not: " in said
    fewer = {name: tensor[:7] if name.endswith(("fc.weight", "fc.bias")) else tensor
             for name, tensor in under("module.").items()}  # fmt: skip
    assert failure(fewer, tmp_path) == (
        "t.pth: not a checkpoint of cnn for 10 classes; different shapes: fc.bias [7] instead of [10], fc.weight [7, 6]"
        f" instead of [10, 6]; read without the prefix 'module.', which explains {len(fewer)} of its names"
    )


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "integer keys": (lambda: dict(enumerate(weights().values())), "no weights by name in it: its keys are 0, 1, 2, 3"),
    "integer keys below": (
        lambda: {"model": dict(enumerate(weights().values()))},
        "no weights in it, it holds 'model'",
    ),
    "sparse": (
        lambda: changed(Tensor.to_sparse, "fc.weight"),
        "fc.weight is sparse (sparse_coo): save tensor.to_dense()",
    ),
    "csr": (lambda: changed(Tensor.to_sparse_csr, "fc.weight"), "fc.weight is sparse (sparse_csr)"),
    "complex": (
        lambda: changed(lambda tensor: tensor.to(torch.complex64), "fc.weight"),
        "fc.weight is complex (complex64), which the network's are not",
    ),
    "quantized": (
        lambda: changed(lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "fc.weight"),
        "fc.weight is quantized (qint8): save tensor.dequantize()",
    ),
    "whole numbers": (lambda: changed(Tensor.int, "fc.bias"), "fc.bias is int32, the network's float32"),
    "not a number": (
        lambda: changed(lambda tensor: tensor.index_fill(0, torch.tensor([2]), float("nan")), "fc.bias"),
        "fc.bias has 1 of 10 values that are not finite",
    ),
    "infinite": (lambda: changed(lambda tensor: tensor + float("inf"), "fc.bias"), "fc.bias has 10 of 10 values"),
    "beyond float32": (lambda: changed(lambda tensor: tensor.double() + 1e300, "fc.bias"), "fc.bias has 10 of 10"),
    "without values": (lambda: changed(lambda tensor: tensor.to("meta")), "has no values (it was saved on the device"),
    "nested": (
        lambda: {**weights(), "fc.weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
        "different shapes: fc.weight",
    ),
    "huge by a stride of 0": (
        lambda: {**weights(), "fc.weight": torch.zeros(1).expand(10**12, 6)},
        "fc.weight [1000000000000, 6] instead of [10, 6]",
    ),
    "a list": (lambda: [weights()], "holds list, not weights by name"),
    "one tensor": (lambda: torch.ones(3), "holds Tensor, not weights by name"),
    "nothing": (dict, "no weights in it, it holds nothing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore")  # torch's, about what this test makes: sparse, nested and quantized tensors
def test_tensors_that_are_no_weights(kind: str, tmp_path: Path) -> None:
    make, words = REFUSED[kind]
    said = failure(make(), tmp_path)
    assert said.startswith("t.pth: ")
    assert words in said


def test_a_trial_that_diverged_is_still_shown(tmp_path: Path) -> None:
    torch.save({"student": changed(lambda tensor: tensor * float("nan"))}, tmp_path / "checkpoint.pt")
    loaded = load_checkpoint(tmp_path / "checkpoint.pt", NETWORK, INPUTS, CPU, finite=False)
    assert bool(loaded.state_dict()["fc.bias"].isnan().all())


def test_paths_that_lead_to_no_file(tmp_path: Path) -> None:
    for name, words in (
        ("x" * 300, "cannot be opened (File name too long)"),
        ("a\0b", "cannot be opened (embedded null byte)"),
        ("no/such.pt", "no such file"),
        ("/dev/zero", "is no regular file"),
    ):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(tmp_path / name, NETWORK, INPUTS, CPU)
        assert str(caught.value).endswith(words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "it is a pointer of Git LFS, not the file: git",
        ),
        (b"\n<!DOCTYPE html><html>", "it is a web page, perhaps of a download that was refused"),
        (b"\x28\xb5\x2f\xfd....", "it is an archive of zstd)"),
        (b"PK\x03\x04" + bytes(30), ""),
        (b"text", ""),
        (b"\x40\0\0\0\0\0\0\0{" + bytes(70), "safetensors: "),
    ],
)
def test_files_of_other_kinds(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "t.pth", NETWORK, INPUTS, CPU)
    assert "t.pth: not a readable checkpoint of weights only (" in str(caught.value)
    assert words in str(caught.value)
    assert "weights_only" not in str(caught.value)
