"""`akdtune teacher`: trains one teacher outside a study, and lists those in the cache folder."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import yaml
from rich.console import Console
from rich.table import Table

from akdtune import data, networks, teacher
from akdtune.errors import AkdtuneError, nearest
from akdtune.recipe import resolve_device
from akdtune.registry import load_plugins

if TYPE_CHECKING:
    from akdtune.spec import Study


def train(study: Study, train_on: Literal["subset", "full"], device: str = "auto") -> int:
    """Trains a study's teacher and all that it needs, or finds them, with a line per epoch; returns the exit code."""
    load_plugins(study.plugins)
    if study.teacher.absent:
        print("this study has no teacher (teacher.network is none)")
        return 0
    where = resolve_device(device)
    dataset = data.load(study.data, where)
    found = teacher.find(study.teacher, dataset, train_on)
    if found is not None:
        for one in (found, *found.others):
            print(f"found: {one.path}{_accuracies(one)}")
        return 0
    console = Console(highlight=False, markup=False)
    with _stop_on_signal() as stopping, console.status("") as status:
        for row in teacher.train(study.teacher, dataset, train_on, where, stopping.is_set):
            if row.get("done"):
                made = teacher.TeacherFile(**row["teacher"])
                for one in (made, *made.others):
                    console.print(f"trained: {one.path}{_accuracies(one)}", soft_wrap=True)
                return 0
            line = (
                f"{_which(row)}epoch {row['epoch']} of {row['epochs']}: loss {row['loss']:.3f}, training accuracy "
                f"{row['train_accuracy']:.2f} %, {row['seconds']:.0f} s"
            )
            if console.is_terminal:
                status.update(line)
            else:
                print(line, flush=True)
    print("stopped; the same command goes on after the last saved epoch", file=sys.stderr)
    return 130


def _which(row: Mapping[str, Any]) -> str:
    """Which network a row speaks of, where several are trained: those of a chain, and further teachers."""
    return f"{row['network']} ({row['number']} of {row['networks']}), " if row["networks"] > 1 else ""


def _accuracies(file: teacher.TeacherFile) -> str:
    known = {"validation": file.val_accuracy, "test": file.test_accuracy}
    shown = ", ".join(f"{split} accuracy {value:.2f} %" for split, value in known.items() if value is not None)
    return f" ({shown})" if shown else ""


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts at once."""
    stopping = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopping.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def table() -> Table:
    """The trained teachers in the cache folder, newest first."""
    shown = Table(box=None, pad_edge=False, header_style="bold", title=None)
    for name in ("key", "network", "data", "trained on", "validation", "test", "created"):
        shown.add_column(name, no_wrap=True, justify="right" if name in ("validation", "test") else "left")
    for record in teacher.listed():
        file = record["teacher"]
        shown.add_row(
            file["key"],
            _lineage(record["settings"]),
            str(_named(record["data"])),
            str(record.get("train_on", "")),
            _percent(file["val_accuracy"]),
            _percent(file["test_accuracy"]),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(record["created"])),
        )
    return shown


def _lineage(settings: Mapping[str, Any]) -> str:
    """A network and those it was distilled from: `resnet20 < resnet32, resnet56`."""
    sources = ", ".join(networks.network_name(source["network"]) for source in settings.get("distilled_from", ()))
    return networks.network_name(settings["network"]) + (f" < {sources}" if sources else "")


def _named(stored: Any) -> Any:
    return stored.get("name", "") if isinstance(stored, dict) else stored


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def details(key: str) -> str:
    """Everything stored about the teacher whose key begins with `key`, as YAML.

    Raises:
        AkdtuneError: when none or several do.
    """
    records = {record["teacher"]["key"]: record for record in teacher.listed()}
    matches = [known for known in records if known.startswith(key)]
    if len(matches) == 1:
        return str(yaml.safe_dump(records[matches[0]], sort_keys=False, allow_unicode=True))
    if matches:
        raise AkdtuneError(f"teacher '{key}' is ambiguous: {', '.join(matches[:8])}")
    close = nearest(key, records)
    hint = f"; did you mean '{close}'?" if close else f" among {len(records)}"
    raise AkdtuneError(f"no teacher '{key}'{hint} in {data.cache_directory() / 'teachers'} (`akdtune teacher list`)")
