"""Student epochs per second on a GPU: launched step by step, CUDA graphs, graphs in bf16; 1, 2 and 4 trials at once.

An epoch is 50,000 training images of CIFAR's size (random ones: nothing has to be downloaded, no accuracy is measured)
in batches of 64 through the whole student step of a trial. The teacher's rows of all timed epochs are in the cache
before anything is timed. Trials that share the GPU are processes of their own, which begin together; their rate is all
epochs over the time from the first one's beginning to the last one's end. Modes are measured in turn, A B A B, and the
table shows the median; memory is what the driver counts for the whole device, contexts included.

    python benchmarks/gpu.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import queue
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch

from akdtune import networks
from akdtune.data.source import Source
from akdtune.data.store import Stored
from akdtune.registry import register
from akdtune.settings.data import Augmentation, DataSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.settings.training import TrainingSettings
from akdtune.signals import InputSpec
from akdtune.teacher.checkpoints import weights_hash
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial

EPOCH_IMAGES, BATCH, CLASSES = 50_000, 64, 100
PATIENCE_S = 1800.0
PAIRS = [("resnet32x4", "resnet8x4"), ("resnet56", "resnet20"), ("wrn_40_2", "wrn_16_2"), ("vgg13", "vgg8")]
ANGULAR = {"name": "angular", "variant": "constrained", "num_views": 5}
SETTINGS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "kd": ({"name": "none"}, [{"name": "kd"}]),
    "angular_kd": (ANGULAR, [{"name": "kd"}]),
    "angular_kd_crd": (ANGULAR, [{"name": "kd"}, {"name": "crd"}]),
}
MODES: dict[str, dict[str, Any]] = {
    "eager": {},
    "graphs": {"cuda_graphs": True},
    "graphs_bf16": {"cuda_graphs": True, "precision": "bf16"},
}
PROCESSES = [1, 2, 4]


@register("noise32", kind="data")
class Noise(Source):
    """Random images of 32x32 pixels in 100 classes."""

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """Pad 4 and flip, as CIFAR."""
        return Augmentation(pad=4, flip=True)

    @classmethod
    def read(cls, settings: DataSettings) -> Stored:
        """As many training images as an epoch has."""
        drawn = np.random.default_rng(0).integers(0, 256, (EPOCH_IMAGES + CLASSES, 3, 32, 32), np.uint8)
        labels = np.arange(len(drawn)) % CLASSES
        split = drawn[:EPOCH_IMAGES], labels[:EPOCH_IMAGES], drawn[EPOCH_IMAGES:], labels[EPOCH_IMAGES:]
        return Stored(*split, CLASSES, (0.5,) * 3, (0.25,) * 3, "noise32")


@dataclass(frozen=True)
class Job:
    """What is timed.

    Attributes:
        folder: of the cache and the teacher.
        images: training images, as many of each class; rates are scaled to EPOCH_IMAGES.
        epochs: timed ones.
        processes: trials at once.
    """

    teacher: str
    student: str
    setting: str
    mode: str
    folder: str
    images: int
    epochs: int
    processes: int = 1
    device: str = "cuda"


def teacher_file(job: Job) -> TeacherFile:
    """An untrained teacher of the pair, written once."""
    path = Path(job.folder) / f"{job.teacher}.pt"
    network = networks.build(job.teacher, InputSpec(3, 32, CLASSES), 0)
    if not path.exists():
        torch.save({"model": network.state_dict()}, path)
    return TeacherFile(str(path), "", weights_hash(network), job.teacher, None, None, False)


def trial_of(job: Job, seed: int) -> Trial:
    """A trial of the job; trials differ by their initial weights, and share images, order and crops."""
    views, methods = SETTINGS[job.setting]
    settings = {
        "data": {"name": "noise32", "limit_per_class": job.images // CLASSES, "validation": CLASSES},
        "student": {"network": job.student},
        "views": views,
        "method": methods,
        "training": {"epochs": 240, "batch_size": BATCH, "device": job.device, **MODES[job.mode]},
    }
    request = TrialRequest(
        settings=settings,
        seeds={"init": seed},
        role="confirm",  # trains on all images, and reads none in between
        teacher_file=teacher_file(job),
        teacher_cache=CacheSettings(location=str(Path(job.folder) / "cache"), max_mib=None),
    )
    return Trial(TrialConfig.parse(request))


def work(job: Job, seed: int, together: Barrier, answers: Queue[dict[str, Any]]) -> None:
    """One trial in a process of its own: an epoch to warm up and record, then the timed ones."""
    torch.set_num_threads(1)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            trial = trial_of(job, seed)
            trial.student_epoch(1, lambda: False)
            _wait(job)
            together.wait(PATIENCE_S)
            began = time.monotonic()  # one clock for all processes of a machine
            rows = [trial.student_epoch(epoch, lambda: False) for epoch in range(2, 2 + job.epochs)]
            _wait(job)
            ended = time.monotonic()
            together.wait(PATIENCE_S)  # all trials are still there
        hit_rate = rows[-1].get("teacher_cache_hit_rate")
        answer = {"began": began, "ended": ended, "device_mib": _device_mib(job), "hit_rate": hit_rate}
        answers.put(answer | {"note": said.getvalue().strip()})
    except Exception as error:  # the others must not wait for this one
        together.abort()
        answers.put({"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]})


def _wait(job: Job) -> None:
    if job.device == "cuda":
        torch.cuda.synchronize()


def _device_mib(job: Job) -> float:
    if job.device != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


def run(job: Job) -> dict[str, Any]:
    """Runs a job's trials at once; the row without its names."""
    context = multiprocessing.get_context("spawn")
    together, answers = context.Barrier(job.processes), context.Queue()
    workers = [context.Process(target=work, args=(job, seed, together, answers)) for seed in range(job.processes)]
    for worker in workers:
        worker.start()
    received = []
    while len(received) < len(workers):
        try:
            received.append(answers.get(timeout=5))
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                together.abort()
                received.append({"error": "a process died"})
    for worker in workers:
        worker.join()
    if errors := [answer["error"] for answer in received if "error" in answer]:
        return {"epochs_per_s": None, "device_mib": None, "hit_rate": None, "note": errors[0]}
    seconds = max(answer["ended"] for answer in received) - min(answer["began"] for answer in received)
    images = job.processes * job.epochs * job.images
    return {
        "epochs_per_s": images / EPOCH_IMAGES / seconds,
        "device_mib": max(answer["device_mib"] for answer in received),
        "hit_rate": received[0]["hit_rate"],
        "note": received[0]["note"],
    }


def measure(jobs: list[Job], repeats: int) -> list[dict[str, Any]]:
    """Runs jobs in turn, as often as asked; a row each with the median rate."""
    results: list[list[dict[str, Any]]] = [[] for _ in jobs]
    for _ in range(repeats):
        for place, job in enumerate(jobs):
            results[place].append(run(job))
            print(".", end="", file=sys.stderr, flush=True)
    rows = []
    for job, received in zip(jobs, results, strict=True):
        rates = [answer["epochs_per_s"] for answer in received if answer["epochs_per_s"] is not None]
        row: dict[str, Any] = {"pair": f"{job.teacher} -> {job.student}", "setting": job.setting, "mode": job.mode}
        row |= {"processes": job.processes, "batch": BATCH, "images": job.images, "repeats": len(rates)}
        rows.append(row | received[-1] | {"epochs_per_s": statistics.median(rates) if rates else None})
    return rows


def measure_pair(base: Job, settings: list[str], processes: list[int], repeats: int) -> list[dict[str, Any]]:
    """All modes of one pair: every setting with one trial, the last setting with several at once, too."""
    run(replace(base, setting="kd", mode="eager"))  # fills the cache for every epoch that is timed
    known = TrainingSettings.model_fields
    modes = [name for name, training in MODES.items() if training.keys() <= known.keys()]
    rows = []
    for setting in settings:
        for count in processes if setting == settings[-1] else [1]:
            rows += measure([replace(base, setting=setting, mode=mode, processes=count) for mode in modes], repeats)
    return rows


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one pair, a quarter of the images, at most 2 trials at once"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if not torch.cuda.is_available():
        print("no CUDA device: not measured")
    else:
        rows = measure_all(arguments.quick)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure_all(quick: bool) -> list[dict[str, Any]]:
    """Every row, printed pair by pair."""
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}; batches of {BATCH}; student epochs of {EPOCH_IMAGES:,} images a second,")
    print("warm teacher cache; memory of the whole device while all trials are there")
    print(f"{'pair':<26}{'setting':<16}{'mode':<13}{'trials':>6}{'epochs/s':>10}{'MiB':>9}{'found':>7}  note")
    rows = []
    images, epochs = (EPOCH_IMAGES // 4, 2) if quick else (EPOCH_IMAGES, 3)
    for teacher, student in PAIRS[:1] if quick else PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            base = Job(teacher, student, "kd", "eager", folder, images, epochs)
            settings = ["kd", "angular_kd_crd"] if quick else list(SETTINGS)
            pair_rows = measure_pair(base, settings, PROCESSES[:2] if quick else PROCESSES, 1 if quick else 3)
        for row in pair_rows:
            print(shown(row), flush=True)
        rows += [row | {"device": name, "torch": torch.__version__} for row in pair_rows]
    return rows


def shown(row: dict[str, Any]) -> str:
    """One line of the table."""
    names = f"{row['pair']:<26}{row['setting']:<16}{row['mode']:<13}{row['processes']:>6}"
    if row["epochs_per_s"] is None:
        return f"{names}{'failed':>10}{'':>16}  {row['note']}"
    hit_rate = "" if row["hit_rate"] is None else f"{row['hit_rate']:.0%}"
    return f"{names}{row['epochs_per_s']:>10.2f}{row['device_mib']:>9,.0f}{hit_rate:>7}  {row['note']}"


if __name__ == "__main__":
    main()
