"""`akdtune teacher`: trains one teacher outside a study, lists those in the cache folder, fills the teacher cache."""

from __future__ import annotations

import functools
import io
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from rich.console import Console

from akdtune import atomic, progress
from akdtune.cli.tables import Listing
from akdtune.cli.waiting import waiting
from akdtune.data.row_sets import RowDataSet
from akdtune.devices import resolve_device, warn_of_bfloat16
from akdtune.errors import AkdtuneError, SettingsError, nearest
from akdtune.folders import cache_directory
from akdtune.planning import needs
from akdtune.planning.prepared import seen_by_students, too_large_augmentations
from akdtune.randomness import Stream, below, random_order, random_words
from akdtune.registry import load_plugins, network_name
from akdtune.reports.text import counted
from akdtune.running import interruption
from akdtune.running.outages import of_teacher
from akdtune.settings.domains import label
from akdtune.study.spec import Study
from akdtune.teacher.asked import asked
from akdtune.teacher.cache_files import Rows
from akdtune.teacher.extraction import extract_weights
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import find_teacher, listed_teachers, load_others, load_teacher
from akdtune.teacher.rows import Caching, PlaceMatters, TeacherRows, live_reason
from akdtune.teacher.state_dicts import weight_sets
from akdtune.training.task import task_of
from akdtune.training.teachers import train_teachers

FILL_STEP = 256
"""Rows between two looks at whether to stop."""


def train(study: Study, train_on: Literal["subset", "full"], device: str = "auto") -> int:
    """Trains a study's teacher and all that it needs, or finds them, with a line per epoch; returns the exit code."""
    load_plugins(study.plugins)
    if study.teacher.absent:
        print("this study has no teacher (teacher.network is none)")
        return 0
    where = resolve_device(device)
    needs.check(study, teacher_only=True)
    dataset = _data(study, where)
    existing = find_teacher(study.teacher, dataset, train_on)
    if existing is not None:
        for file in (existing, *existing.others):
            print(f"found: {file.path}{_accuracies(file)}")
        return 0
    console = Console(highlight=False, markup=False)
    with interruption.event() as stopping, waiting("training the teacher"):
        for row in _rows(train_teachers(study.teacher, dataset, train_on, where, stopping.is_set)):
            if row.get("done"):
                made = TeacherFile(**row["teacher"])
                for file in (made, *made.others):
                    console.print(f"trained: {file.path}{_accuracies(file)}", soft_wrap=True)
                return 0
            if "waits" in row:
                print(row["waits"], flush=True)
                continue
            line = (
                f"{_which(row)}epoch {row['epoch']} of {row['epochs']}: loss {row['loss']:.3f}, training accuracy "
                f"{row['train_accuracy']:.2f} %, {row['seconds']:.0f} s"
            )
            if console.is_terminal:
                progress.words(functools.partial(str, line))
            else:
                print(line, flush=True)
                progress.said()
    print("stopped; the same command goes on after the last saved epoch", file=sys.stderr)
    return interruption.INTERRUPTED


def _rows(training: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a training; what ends it is one sentence.

    Raises:
        AkdtuneError: when it cannot be trained.
    """
    try:
        yield from training
    except Exception as error:
        raise of_teacher(error) from error


def _data(study: Study, device: torch.device) -> RowDataSet:
    """The data set of a study; what it warns of is said.

    Raises:
        SettingsError: for augmentations that do not fit it.
    """
    dataset = task_of({"task": study.task}).load(study.data, device)
    if problems := too_large_augmentations(study, dataset):
        raise SettingsError(problems)
    for note in dataset.notes:
        print(f"warning: {note}", file=sys.stderr)
    return dataset


def fill(study: Study, variants: int | None, train_on: Literal["subset", "full"], device: str = "auto") -> int:
    """Fills the cache with some crops of each training image (None: all) by every teacher; returns the exit code.

    Crops are those that students see: of each augmentation of theirs that says by crop and flip which image it is.

    Raises:
        AkdtuneError: where the study's teachers are not cached, or not trained yet.
    """
    load_plugins(study.plugins)
    if study.teacher.absent or study.teacher_cache is None:
        why = "teacher.network is none" if study.teacher.absent else "teacher_cache is null"
        raise AkdtuneError(f"{study.source}: nothing to fill: {why}")
    torch.set_num_threads(max(1, int(study.resources.cpu)))  # as trials do
    where = resolve_device(device)
    needs.check(study, teacher_only=True)
    dataset = _data(study, where)
    students = seen_by_students(study, dataset)
    kept = [seen for seen in students if live_reason(seen) is None]
    if not kept:
        raise AkdtuneError(f"{study.source}: nothing to fill: {live_reason(students[0])}")
    warn_of_bfloat16(where, ["teacher_cache.compute"] if "bf16" in study.teachers_compute else [])
    file = find_teacher(study.teacher, dataset, train_on)
    if file is None:
        raise AkdtuneError(f"{study.source}: the teacher is not trained yet: `akdtune teacher train {study.source}`")
    caching = Caching(study.teacher_cache, dataset.images_key, dataset.name)
    networks_of = (load_teacher(file, dataset.inputs, where), *load_others(file, dataset.inputs, where))
    with interruption.event() as stopping:
        for seen, network, compute in itertools.product(kept, networks_of, study.teachers_compute):
            split, crops = seen.split(train_on).train, seen.augmentation
            try:
                rows = TeacherRows(network, split, crops, caching, asked(network, compute))
            except PlaceMatters as error:
                raise AkdtuneError(f"what '{error}' says of an image depends on its place in a batch") from error
            each = rows.items.variants
            trouble = _fill_one(rows, rows.items.of_split()[::each] // each, each, variants, stopping)
            counts = rows.rates()
            name = type(network).__name__ + ("" if compute == "fp32" else f" in {compute}")
            name += f" (pad {crops.pad}, {'flip' if crops.flip else 'no flip'})" if len(kept) > 1 else ""
            print(
                f"{name}: {counts['computed']:,} rows computed, {counts['found']:,} were there, "
                f"{100 * counts['filled'] / counts['rows']:.1f} % of {counts['rows']:,} filled: {rows.store.folder}"
            )
            if trouble:
                print(f"stopped: {trouble}", file=sys.stderr)
                return 1
            if stopping.is_set():
                print("stopped; the same command goes on with what is missing", file=sys.stderr)
                return interruption.INTERRUPTED
    return 0


def _fill_one(rows: TeacherRows, images_N: Rows, crops: int, wanted: int | None, stopping: threading.Event) -> str:
    """Computes what is missing, one crop of every image after the other; returns why it could not go on."""
    rounds = crops if wanted is None else min(wanted, crops)
    every, done = rounds * len(images_N), 0
    with waiting(f"asking {type(rows.network).__name__}"):
        for number in range(rounds):
            of_round = fill_rows(images_N, crops, number)
            rows.expect(of_round)
            for start in range(0, len(of_round), FILL_STEP):
                if stopping.is_set() or rows.store.trouble:
                    return rows.store.trouble
                rows.values(of_round[start : start + FILL_STEP])
                done += min(FILL_STEP, len(of_round) - start)
                progress.at(done, every, "rows")
    return rows.store.trouble


def fill_rows(images_N: Rows, crops: int, number: int) -> Rows:
    """Rows of the `number`-th crop (counted from 0) of each image: random ones, all different for one image.

    Which crops they are depends on the image alone, so that filling more of them later goes on from these.
    """
    first_N = below(random_words(0, 0, images_N, Stream.FILL)[0], crops)
    step = random_order(0, 1, np.arange(crops), Stream.FILL)[number]
    rows: Rows = images_N * crops + (first_N + step) % crops
    return rows


def _which(row: Mapping[str, Any]) -> str:
    """Which network a row speaks of, where several are trained: those of a chain, and further teachers."""
    return f"{row['network']} ({row['number']} of {row['networks']}), " if row["networks"] > 1 else ""


def _accuracies(file: TeacherFile) -> str:
    known = {"validation": file.val_accuracy, "test": file.test_accuracy}
    shown = ", ".join(f"{split} accuracy {value:.2f} %" for split, value in known.items() if value is not None)
    return f" ({shown})" if shown else ""


def listing() -> Listing:
    """The trained teachers in the cache folder, newest first."""
    headings = ("key", "network", "data", "trained on", "validation", "test", "created")
    rows = []
    for record in listed_teachers():
        file = record["teacher"]
        rows.append(
            [
                file["key"],
                _lineage(record["settings"]),
                str(_named(record["data"])),
                str(record.get("train_on", "")),
                _percent(file["val_accuracy"]),
                _percent(file["test_accuracy"]),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(record["created"])),
            ]
        )
    return Listing(headings, rows, right=(4, 5), least={6: 16}, leave_out=(6,))


def save_weights(path: Path, to: Path) -> str:
    """Writes the weights in a file alone; returns a line that says so.

    Raises:
        AkdtuneError: for a file without weights, and where the new one is there or cannot be written.
    """
    if os.path.lexists(to):
        raise AkdtuneError(f"{to}: exists already; choose another file")
    held = extract_weights(path)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError without a cause, a plain write does not
        torch.save(held, buffer)
        atomic.write(to, buffer.getbuffer(), durable=True)
    except (OSError, ValueError) as error:
        raise AkdtuneError(f"{to}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    sets = {key or "the top": len(tensors) for key, tensors in weight_sets(held).items()}
    return f"wrote {to}: " + ", ".join(f"{key} ({counted(number, 'tensor')})" for key, number in sets.items())


def _lineage(settings: Mapping[str, Any]) -> str:
    """A network with its own augmentation, and those it was distilled from: `resnet20[strong] < resnet32, resnet56`."""
    sources = ", ".join(_augmented(source) for source in settings.get("distilled_from", ()))
    return _augmented(settings) + (f" < {sources}" if sources else "")


def _augmented(settings: Mapping[str, Any]) -> str:
    given = settings.get("augmentation")
    return network_name(settings["network"]) + ("" if given is None else f"[{label(given)}]")


def _named(stored: Any) -> Any:
    return stored.get("name", "") if isinstance(stored, dict) else stored


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def details(key: str) -> str:
    """Everything stored about the teacher whose key begins with `key`, as YAML.

    Raises:
        AkdtuneError: when none or several do.
    """
    records = {record["teacher"]["key"]: record for record in listed_teachers()}
    matches = [known for known in records if known.startswith(key)]
    if len(matches) == 1:
        return str(yaml.safe_dump(records[matches[0]], sort_keys=False, allow_unicode=True))
    if matches:
        raise AkdtuneError(f"teacher '{key}' is ambiguous: {', '.join(matches[:8])}")
    close = nearest(key, records)
    hint = f"; did you mean '{close}'?" if close else f" among {len(records)}"
    raise AkdtuneError(f"no teacher '{key}'{hint} in {cache_directory() / 'teachers'} (`akdtune teacher list`)")
