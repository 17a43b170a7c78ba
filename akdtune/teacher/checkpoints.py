"""Checkpoint files as networks: ours and published ones, weights only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from akdtune import networks
from akdtune.errors import CheckpointError
from akdtune.networks import Network
from akdtune.registry import network_name
from akdtune.settings.checkpoint import CheckpointFile
from akdtune.signals import Spec
from akdtune.teacher import plain_files
from akdtune.teacher.sealed import check_seal
from akdtune.teacher.state_dicts import Found, Wanted, find_weights, some


def load_checkpoint(
    checkpoint: str | Path | CheckpointFile,
    network: str | dict[str, Any],
    inputs: Spec,
    device: torch.device,
    *,
    finite: bool = True,
) -> Network:
    """A network with the weights of a file, ours or a published one, on a device: eval mode, no gradients.

    Args:
        checkpoint: the file, and where in it the weights are if that cannot be found.
        network: as a setting.
        inputs: what it is built for.
        device: where to.
        finite: whether weights that are not finite are refused.

    Raises:
        CheckpointError: listing missing and unexpected keys, different shapes, and tensors that are no weights.
    """
    return load_noted(checkpoint, network, inputs, device, finite=finite)[0]


def load_noted(
    checkpoint: str | Path | CheckpointFile,
    network: str | dict[str, Any],
    inputs: Spec,
    device: torch.device,
    *,
    finite: bool = True,
) -> tuple[Network, str]:
    """As `load_checkpoint`, and what was taken for granted in reading the weights, in one line; mostly empty."""
    built = networks.build(network, inputs, seed=0)
    note = fill_weights(built, checkpoint, name=network_name(network), finite=finite)
    return built.to(device).eval().requires_grad_(False), note


def fill_weights(
    network: Network,
    checkpoint: str | Path | CheckpointFile,
    *,
    may_differ: Set[str] = frozenset(),
    name: str = "",
    finite: bool = True,
) -> str:
    """Gives a network the weights of a file, except those of other shapes whose keys may differ.

    Returns:
        What was taken for granted in reading them, in one line; mostly empty.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    file = checkpoint if isinstance(checkpoint, CheckpointFile) else CheckpointFile(path=str(checkpoint))
    known = network.state_dict()
    title = f"{name or type(network).__name__} for {len(network.classifier()[1])} classes"
    shapes = {key: tuple(tensor.shape) for key, tensor in known.items()}
    found = find_weights(_weights_in(file), Wanted.by(title, shapes, may_differ), file)
    weights, remarks = _as_network_holds_them(found, known, file.path, finite)
    network.load_state_dict(known | weights)
    return "; ".join([*found.remarks, *remarks])


def fits(checkpoint: CheckpointFile, wanted: Wanted) -> Found:
    """The weights in a file, as far as names and shapes say.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    return find_weights(_weights_in(checkpoint), wanted, checkpoint)


def weights_hash(network: Network) -> str:
    """Hash of a network's weights and running statistics, 16 hex digits; batch counters are left out."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if not key.endswith("num_batches_tracked"):
            digest.update(f"/{key}{tuple(tensor.shape)}{tensor.dtype}/".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def load_plain(path: Path) -> dict[str, Any]:
    """A file that holds tensors and plain data only, on the CPU; no code in it is run.

    Raises:
        CheckpointError: for a file that is missing, damaged, or holds anything else.
    """
    if problem := plain_files.no_file(path):
        raise CheckpointError(f"{path}: {problem}")
    try:
        if problem := plain_files.other_kind(path):
            raise CheckpointError(f"{path}: not a readable checkpoint of weights only ({problem})")
        held = plain_files.read_plain(path)
    except CheckpointError:
        raise
    except Exception as error:  # what torch's reader raises on a file of another kind is anything, IndexError included
        if refused := plain_files.refused_global(error):
            raise CheckpointError(
                f"{path}: holds {refused} besides weights; only weights are read, as restoring other objects can run "
                "code. Save the weights alone once (nothing in the file is run), with: "
                f"{plain_files.weights_command(path)}"
            ) from error
        said = plain_files.reason(error)
        raise CheckpointError(f"{path}: not a readable checkpoint of weights only ({said})") from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{path}: holds {type(held).__name__}, not weights by name")
    check_seal(held, path)
    return held


# -------------------------------------------------------------------------------------------------------------- numbers


def _weights_in(file: CheckpointFile) -> dict[Any, Any]:
    """What a file holds, with NumPy's arrays as tensors."""
    held: dict[Any, Any] = plain_files.with_tensors(load_plain(Path(file.path).expanduser()))
    return held


def _as_network_holds_them(
    found: Found, known: Mapping[str, Tensor], path: str, finite: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights in the network's own types, and a remark where they were stored in others.

    Raises:
        CheckpointError: naming tensors that are no weights of this kind.
    """
    weights: dict[str, Tensor] = {}
    problems: list[str] = []
    stored: set[str] = set()
    for name, tensor in found.weights.items():
        counter = name.endswith("num_batches_tracked")
        problem = _no_weights(tensor, known[name])
        if problem is None:
            weights[name] = tensor.detach().to(known[name].dtype)
            if finite and weights[name].is_floating_point() and not bool(weights[name].isfinite().all()):
                bad = int((~weights[name].isfinite()).sum())
                problem = f"has {bad:,} of {tensor.numel():,} values that are not finite"
            if tensor.dtype != known[name].dtype and not counter:
                stored.add(_dtype(tensor))
        if problem is not None and counter:
            weights.pop(name, None)  # nothing in eval mode reads it
        elif problem is not None:
            problems.append(f"{name} {problem}")
    if problems:
        raise CheckpointError(f"{path}: holds what cannot be weights: {some(problems, longest=160)}")
    return weights, [f"stored as {', '.join(sorted(stored))}"] if stored else []


def _no_weights(tensor: Tensor, own: Tensor) -> str | None:
    """Why a tensor cannot take the place of one of a network's; None where it can."""
    if tensor.is_nested:
        return "is nested"
    if tensor.layout != torch.strided:
        return f"is sparse ({str(tensor.layout).removeprefix('torch.')}): save tensor.to_dense()"
    if tensor.is_meta:
        return "has no values (it was saved on the device meta)"
    if tensor.is_quantized:
        return f"is quantized ({_dtype(tensor)}): save tensor.dequantize()"
    if tensor.is_complex() and not own.is_complex():
        return f"is complex ({_dtype(tensor)}), which the network's are not"
    if own.is_floating_point() != tensor.is_floating_point():
        return f"is {_dtype(tensor)}, the network's {_dtype(own)}"
    return None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
