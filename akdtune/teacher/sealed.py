"""What is saved and read again by akdtune carries a digest of its content: a flipped bit is found, not trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from akdtune.errors import CheckpointError

if TYPE_CHECKING:

    class _Hash(Protocol):
        def update(self, content: Any, /) -> None: ...


DIGEST = "digest"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content and its digest, ready to be saved."""
    return {**content, DIGEST: content_digest(content)}


def check_seal(held: Mapping[str, Any], path: Path | str) -> None:
    """Refuses what was read where it is not what was sealed; files without a digest are taken as they are.

    Raises:
        CheckpointError: naming the file.
    """
    if DIGEST in held and held[DIGEST] != content_digest(held):
        raise CheckpointError(f"{path}: damaged: its content does not have the digest that it was saved with")


def content_digest(content: Mapping[str, Any]) -> str:
    """Hash of a tree of tensors and plain values without the digest it may hold, 32 hex digits."""
    digest = hashlib.sha256()
    _add(digest, {key: value for key, value in content.items() if key != DIGEST})
    return digest.hexdigest()[:32]


def _add(digest: _Hash, node: Any) -> None:
    if isinstance(node, Tensor):
        flat = node.detach().cpu().contiguous().reshape(-1)
        digest.update(f"tensor {node.dtype} {tuple(node.shape)} ".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(node, Mapping):
        digest.update(f"mapping {len(node)} ".encode())
        for key, value in node.items():
            digest.update(f"{key!r}: ".encode())
            _add(digest, value)
    elif isinstance(node, list | tuple):
        digest.update(f"list {len(node)} ".encode())
        for item in node:
            _add(digest, item)
    else:
        digest.update(f"{node!r} ".encode("utf-8", "surrogatepass"))
