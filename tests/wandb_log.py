"""Reads what the SDK of Weights & Biases wrote offline."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def transaction_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: 7 bytes of header, then 32 KiB blocks of (crc 4, length 2, type 1, data)."""
    content = path.read_bytes()
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


class Stored:
    """An offline run as it stands on disk.

    Attributes:
        history: numbers and media by step.
        summary: values by name.
        metrics: step metric and kinds of summary of each defined metric.
        artifacts: files of each artefact, by its type.
    """

    def __init__(self, path: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        self.history: dict[int, dict[str, Any]] = {}
        self.metrics: dict[str, tuple[str, set[str]]] = {}
        self.artifacts: dict[str, set[str]] = {}
        self.summary: dict[str, Any] = {}
        self.run: Any = None
        self.exit_code: int | None = None
        for data in transaction_records(path):
            record = wandb_internal_pb2.Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
            elif kind == "history":
                items: dict[str, Any] = {}
                for item in record.history.item:
                    put(items, item)
                step = int(items["_step"])
                assert step not in self.history, f"step {step} twice"
                self.history[step] = {name: value for name, value in items.items() if not name.startswith("_")}
            elif kind == "summary":
                for item in record.summary.update:
                    put(self.summary, item)
            elif kind == "metric":
                of = record.metric
                kinds = {name for name in ("min", "max", "last", "mean") if getattr(of.summary, name)}
                self.metrics[of.name] = (of.step_metric, kinds)
            elif kind == "artifact":
                self.artifacts[record.artifact.type] = {entry.path for entry in record.artifact.manifest.contents}
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}


def put(into: dict[str, Any], item: Any) -> None:
    """Puts a value where its keys say."""
    *outer, last = [item.key] if item.key else list(item.nested_key)
    for name in outer:
        held = into.get(name)
        into[name] = held if isinstance(held, dict) else {}
        into = into[name]
    into[last] = json.loads(item.value_json)
