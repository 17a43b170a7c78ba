"""Checkpoint files: ours and the published RepDistiller / mdistiller layout, weights only."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from akdtune import networks
from akdtune.data import InputSpec
from akdtune.errors import CheckpointError
from akdtune.networks import Network


def load_checkpoint(
    path: str | Path, network: str | dict[str, Any], inputs: InputSpec, device: torch.device
) -> Network:
    """A network with the weights of a file: ours, or the RepDistiller / mdistiller layout; eval mode, no gradients.

    Raises:
        CheckpointError: listing missing and unexpected keys and different shapes.
    """
    built = networks.build(network, inputs, seed=0)
    weights = read_weights(path)
    known = built.state_dict()
    # Files from before torch 0.4.1 do not count batches; nothing in eval mode reads that number.
    missing = [key for key in known if key not in weights and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in known]
    shapes = [
        f"{key} {list(weights[key].shape)} instead of {list(known[key].shape)}"
        for key in known.keys() & weights.keys()
        if weights[key].shape != known[key].shape
    ]
    parts = (("missing keys", missing), ("unexpected keys", unexpected), ("different shapes", sorted(shapes)))
    if problems := [f"{what}: {_some(entries)}" for what, entries in parts if entries]:
        name = networks.network_name(network)
        raise CheckpointError(
            f"{path}: not a checkpoint of {name} for {inputs.num_classes} classes; " + "; ".join(problems)
        )
    built.load_state_dict(known | weights)
    return built.to(device).eval().requires_grad_(False)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint file by key, on the CPU, without the `module.` of data parallelism.

    Only weights are read, never code. The weights may be the file itself or stand under `model`, `state_dict` or `net`.

    Raises:
        CheckpointError: for a file that is missing, damaged, or holds no weights.
    """
    held = load_plain(Path(path).expanduser())
    for candidate in (held, *(held.get(key) for key in ("model", "state_dict", "net"))):
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            prefixed = all(key.startswith("module.") for key in candidate)
            return {key.removeprefix("module.") if prefixed else key: value for key, value in candidate.items()}
    raise CheckpointError(f"{path}: no weights in it, neither at the top nor under model, state_dict or net")


def weights_hash(network: Network) -> str:
    """Hash of a network's weights and running statistics, 16 hex digits; batch counters are left out."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if not key.endswith("num_batches_tracked"):
            digest.update(f"/{key}{tuple(tensor.shape)}{tensor.dtype}/".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def load_plain(path: Path) -> dict[str, Any]:
    """A file of `torch.save` that holds tensors and plain data only, on the CPU; no code in it is run.

    Raises:
        CheckpointError: for a file that is missing, damaged, or holds anything else.
    """
    try:
        # The final files of RepDistiller hold their command line as a Namespace, which is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file (teacher.checkpoint)") from error
    except Exception as error:  # what torch's reader raises on a file of another kind is anything, IndexError included
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a readable checkpoint of weights only ({reason})") from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{path}: holds {type(held).__name__}, not weights by name")
    return held


def _some(entries: Sequence[str], most: int = 4) -> str:
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more
