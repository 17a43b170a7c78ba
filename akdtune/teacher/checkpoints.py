"""Checkpoint files: ours and the published RepDistiller / mdistiller layout, weights only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from akdtune import networks
from akdtune.errors import CheckpointError
from akdtune.networks import Network
from akdtune.registry import network_name
from akdtune.signals import InputSpec
from akdtune.teacher.sealed import check_seal


def load_checkpoint(
    path: str | Path, network: str | dict[str, Any], inputs: InputSpec, device: torch.device
) -> Network:
    """A network with the weights of a file: ours, or the RepDistiller / mdistiller layout; eval mode, no gradients.

    Raises:
        CheckpointError: listing missing and unexpected keys and different shapes.
    """
    built = networks.build(network, inputs, seed=0)
    fill_weights(built, path, name=network_name(network))
    return built.to(device).eval().requires_grad_(False)


def fill_weights(network: Network, path: str | Path, *, may_differ: Set[str] = frozenset(), name: str = "") -> None:
    """Gives a network the weights of a file, except those of other shapes whose keys may differ.

    Raises:
        CheckpointError: listing missing and unexpected keys and different shapes.
    """
    weights = read_weights(path)
    known = network.state_dict()
    for key in may_differ & weights.keys() & known.keys():
        if weights[key].shape != known[key].shape:
            del weights[key]
    # Files from before torch 0.4.1 do not count batches; nothing in eval mode reads that number.
    spared = {key for key in known if key.endswith("num_batches_tracked")} | may_differ
    missing = [key for key in known if key not in weights and key not in spared]
    unexpected = [key for key in weights if key not in known]
    shapes = [
        f"{key} {list(weights[key].shape)} instead of {list(known[key].shape)}"
        for key in known.keys() & weights.keys()
        if weights[key].shape != known[key].shape
    ]
    parts = (("missing keys", missing), ("unexpected keys", unexpected), ("different shapes", sorted(shapes)))
    if problems := [f"{what}: {_some(entries)}" for what, entries in parts if entries]:
        classes = len(network.classifier()[1])
        raise CheckpointError(
            f"{path}: not a checkpoint of {name or type(network).__name__} for {classes} classes; "
            + "; ".join(problems)
        )
    network.load_state_dict(known | weights)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint file by key, on the CPU, without the `module.` of data parallelism.

    Only weights are read, never code: a file with any other object in it, such as the argparse namespace in
    RepDistiller's `_last.pth`, is refused with what to do about it. The weights may be the file itself or stand under
    `model`, `state_dict`, `net`, or (in a trial's checkpoint) `student`.

    Raises:
        CheckpointError: for a file that is missing, damaged, or holds no weights.
    """
    held = load_plain(Path(path).expanduser())
    for candidate in (held, *(held.get(key) for key in ("model", "state_dict", "net", "student"))):
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
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file (teacher.checkpoint)") from error
    except Exception as error:  # what torch's reader raises on a file of another kind is anything, IndexError included
        if refused := re.search(r"GLOBAL ([\w.]+) was not an allowed global", str(error)):
            raise CheckpointError(f"{path}: {_refused(refused.group(1), path)}") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a readable checkpoint of weights only ({reason})") from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{path}: holds {type(held).__name__}, not weights by name")
    check_seal(held, path)
    return held


def _refused(name: str, path: Path) -> str:
    """What to do with a file that holds an object which only its own code could restore."""
    message = f"holds {name} besides weights; only weights are read, as restoring other objects can run code."
    if name != "argparse.Namespace":
        return (
            message
            + " Save the weights alone where the file was made: torch.save({'model': network.state_dict()}, ...)"
        )
    # What RepDistiller's `_last.pth` holds. Namespace alone is allowed here, so this runs no code of the file either.
    to = path.with_name(f"{path.stem}_weights.pth")
    command = (
        "import argparse, torch; torch.serialization.add_safe_globals([argparse.Namespace]); "
        f"held = torch.load({str(path)!r}, map_location='cpu', weights_only=True); "
        f"torch.save({{'model': held['model']}}, {str(to)!r})"
    )
    return f'{message} It is the command line of the training; save the weights alone once, with: python -c "{command}"'


def _some(entries: Sequence[str], most: int = 4) -> str:
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more
