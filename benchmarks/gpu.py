"""Student epochs per second on a GPU: plain, TF32, bf16, CUDA graphs; 1, 2 and 4 trials at once; the published step.

An epoch is 50,000 training images of CIFAR's size (random ones: nothing has to be downloaded, no accuracy is measured)
in batches of 64 through the whole student step of a trial; rates of fewer images are scaled to it. Rows:

    published       the step of the published code (reference_step.py): PIL in a DataLoader, a live teacher, NCHW
    live teacher    our step without the teacher cache
    cold cache      the teacher is computed and its rows are stored
    eager           rows found, and kept on the device; each operation is launched by itself
    host rows       the same, with rows that come from the host in every step
    plain layout    the student's weights and images in torch's own layout instead of channels last
    tf32, bf16, graphs, graphs bf16     as `training.tf32`, `precision` and `cuda_graphs` say

Trials that share the GPU are processes of their own, which begin together; their rate is all epochs over the time from
the first one's beginning to the last one's end. Memory is what the driver counts for the whole device, contexts
included. Every measurement is a process of its own, in the order of what matters most; what does not begin within the
budget is listed as not measured. Without a GPU, or with --dry-run, the same runs on the CPU in tiny sizes, to see that
it runs: none of its numbers means anything.

    python benchmarks/gpu.py [--dry-run] [--budget SECONDS] [--pair TEACHER STUDENT] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import queue
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import sentence
from reference_step import PublishedImages, ReferenceStep, batches

from akdtune import networks
from akdtune.data.source import Source
from akdtune.data.store import Stored
from akdtune.methods.crd import CRD
from akdtune.registry import register
from akdtune.settings.data import Augmentation, DataSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.signals import InputSpec
from akdtune.teacher import device_rows
from akdtune.teacher.checkpoints import weights_hash
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.limits import TrialLimits
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial

EPOCH_IMAGES, CLASSES = 50_000, 100
PATIENCE_S = 120.0
PUBLISHED_WORKERS = 4
ANGULAR = {"name": "angular", "variant": "paper", "train_heads": "joint", "num_views": 5}
SETTINGS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "kd": ({"name": "none"}, [{"name": "kd"}]),
    "angular_kd_crd": (ANGULAR, [{"name": "kd"}, {"name": "crd"}]),
}
MODES: dict[str, dict[str, Any]] = {
    "published": {},
    "live teacher": {},
    "cold cache": {},
    "eager": {},
    "host rows": {},
    "plain layout": {},
    "tf32": {"tf32": True},
    "bf16": {"precision": "bf16"},
    "graphs": {"cuda_graphs": True},
    "graphs bf16": {"cuda_graphs": True, "precision": "bf16"},
}
"""Training settings of each."""

NOTHING_ON_THE_CPU = ("tf32", "graphs", "graphs bf16", "host rows")
"""Modes that do on the CPU what `eager` or `bf16` does."""


@register("noise32", kind="data")
class Noise(Source):
    """Random images of 32x32 pixels in 100 classes, as many as one job trains on."""

    images = EPOCH_IMAGES

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """Pad 4 and flip, as CIFAR."""
        return Augmentation(pad=4, flip=True)

    @classmethod
    def read(cls, settings: DataSettings) -> Stored:
        """Made, not read."""
        count = (settings.limit_per_class or EPOCH_IMAGES // CLASSES) * CLASSES
        drawn = np.random.default_rng(0).integers(0, 256, (count + CLASSES, 3, 32, 32), np.uint8)
        labels = np.arange(len(drawn)) % CLASSES
        split = drawn[:count], labels[:count], drawn[count:], labels[count:]
        return Stored(*split, CLASSES, (0.5,) * 3, (0.25,) * 3, f"noise32 {count}")


@dataclass(frozen=True)
class Job:
    """What is timed.

    Attributes:
        folder: of the cache and the teacher.
        images: training images, as many of each class.
        epochs: timed ones.
        processes: trials at once.
    """

    teacher: str
    student: str
    folder: str
    images: int
    device: str
    batch: int
    epochs: int = 2
    setting: str = "kd"
    mode: str = "eager"
    processes: int = 1


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
        "training": {"epochs": 240, "batch_size": job.batch, "device": job.device, **MODES[job.mode]},
    }
    cached = job.mode not in ("published", "live teacher")
    # rows are the teacher's in float32, so that all modes share them
    cache = CacheSettings(location=str(Path(job.folder) / "cache"), max_mib=None, compute="fp32") if cached else None
    request = TrialRequest(
        settings=settings,
        seeds={"init": seed},
        role="confirm",  # trains on all images, and reads none in between
        teacher_file=teacher_file(job),
        teacher_cache=cache,
    )
    trial = Trial(TrialConfig.parse(request), limits=TrialLimits(table_mib=0))
    if job.mode == "plain layout":
        trial.student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        trial.layout = torch.contiguous_format
    return trial


def published(trial: Trial, job: Job) -> Callable[[int], None]:
    """The published step on a trial's networks, data loading included: what does one epoch."""
    reference = ReferenceStep(trial)
    reference.heads.to(trial.device)
    crd = dict(trial.objective.methods.items()).get("crd")
    negatives = crd.num_negatives if isinstance(crd, CRD) else 0
    stored = Noise.read(trial.config.data)
    labels_N = trial.train.training_labels_N.cpu()
    images = PublishedImages(torch.from_numpy(stored.train_images), labels_N, trial.dataset, negatives)
    loading = batches(images, job.batch, workers=PUBLISHED_WORKERS if job.device == "cuda" else 0)

    def epoch(_: int) -> None:
        for _ in range(-(-job.images // job.batch)):
            reference.step(next(loading).to(trial.device))

    return epoch


def work(job: Job, seed: int, together: Barrier, answers: Queue[dict[str, Any]]) -> None:
    """One trial in a process of its own: an epoch to warm up and record, then the timed ones."""
    torch.set_num_threads(1)
    said = io.StringIO()
    if job.mode == "host rows":
        device_rows.SHARE = 0.0
    try:
        with contextlib.redirect_stdout(said):
            answer = _timed(job, seed, together)
        answers.put(answer | {"note": said.getvalue().strip()})
    except Exception as error:  # the others must not wait for this one
        together.abort()
        answers.put({"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})


def _timed(job: Job, seed: int, together: Barrier) -> dict[str, Any]:
    trial = trial_of(job, seed)
    rows: list[dict[str, Any]] = []

    def ours(epoch: int) -> None:
        rows.append(trial.student_epoch(epoch, lambda: False))

    epoch_of = published(trial, job) if job.mode == "published" else ours
    first = 1 if job.mode == "cold cache" else 2
    if first == 2:
        epoch_of(1)
    _wait(job)
    together.wait(PATIENCE_S)
    began = time.monotonic()  # one clock for all processes of a machine
    for epoch in range(first, first + job.epochs):
        epoch_of(epoch)
    _wait(job)
    ended = time.monotonic()
    together.wait(PATIENCE_S)  # all trials are still there
    found = rows[-1].get("teacher_cache_hit_rate") if rows else None
    places = [] if trial.teacher is None else [one.place for one in trial.teacher._on_device or []]
    return {
        "began": began, "ended": ended, "device_mib": _device_mib(job), "found": found, "rows": "".join(places[:1])
    }  # fmt: skip


def _wait(job: Job) -> None:
    if job.device == "cuda":
        torch.cuda.synchronize()


def _device_mib(job: Job) -> float:
    if job.device != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


def run(job: Job, until: float) -> dict[str, Any]:
    """Runs a job's trials at once, and ends them when the time is up; the row without its names."""
    context = multiprocessing.get_context("spawn")
    together, answers = context.Barrier(job.processes), context.Queue()
    workers = [context.Process(target=work, args=(job, seed, together, answers)) for seed in range(job.processes)]
    for worker in workers:
        worker.start()
    received: list[dict[str, Any]] = []
    while len(received) < len(workers):
        try:
            received.append(answers.get(timeout=1))
        except queue.Empty:
            if time.monotonic() > until:
                received.append({"error": "not done when the time was up"})
                break
            if any(worker.exitcode for worker in workers):
                together.abort()
                received.append({"error": "a process died"})
    for worker in workers:
        worker.join(timeout=None if time.monotonic() < until else 1)
        if worker.is_alive():
            worker.kill()
    if errors := [answer["error"] for answer in received if "error" in answer]:
        return {"epochs_per_s": None, "note": errors[0]}
    seconds = max(answer["ended"] for answer in received) - min(answer["began"] for answer in received)
    shares = job.processes * job.epochs * job.images / EPOCH_IMAGES
    steps = job.epochs * -(-job.images // job.batch)
    of_first = {name: received[0][name] for name in ("found", "rows", "note")}
    device_mib = max(answer["device_mib"] for answer in received)
    return {
        "epochs_per_s": shares / seconds,
        "ms_per_step": 1000 * seconds / steps,
        "device_mib": device_mib,
    } | of_first


def jobs_of(base: Job) -> list[Job]:
    """Everything that is measured of a pair, what matters most first; the first one fills the cache."""
    with_crd, graphs = replace(base, setting="angular_kd_crd"), ("eager", "graphs", "graphs bf16")
    jobs = [
        replace(base, mode="cold cache", epochs=base.epochs + 1)
    ]  # the epochs that the others read: 1 to epochs + 1
    jobs += [replace(of, mode=mode) for of in (base, with_crd) for mode in graphs]
    jobs += [replace(with_crd, mode="graphs bf16", processes=count) for count in (2, 4)]
    jobs += [replace(of, mode="published", epochs=1, images=base.images // 4) for of in (base, with_crd)]
    jobs += [replace(base, mode="graphs bf16", processes=count) for count in (2, 4)]
    jobs += [replace(with_crd, mode=mode, processes=count) for mode in graphs[:2] for count in (4, 2)]
    jobs += [replace(of, mode="bf16") for of in (base, with_crd)]
    jobs += [replace(base, mode=mode) for mode in ("tf32", "plain layout", "host rows", "live teacher")]
    return jobs


def dry_jobs_of(base: Job) -> list[Job]:
    """Every mode once, and two trials at once."""
    with_crd = replace(base, setting="angular_kd_crd")
    jobs = [replace(base, mode="cold cache", epochs=base.epochs + 1)]
    jobs += [replace(with_crd, mode=mode) for mode in MODES if mode != "cold cache"]
    return [*jobs, replace(base, processes=2)]


def measured(job: Job, until: float, dry: bool) -> dict[str, Any]:
    """One row of the table."""
    names = {"pair": f"{job.teacher} -> {job.student}", "setting": job.setting, "mode": job.mode}
    row = names | {"trials": job.processes, "batch": job.batch, "images": job.images}
    left = until - time.monotonic()
    row |= run(job, until) if left > 0 else {"epochs_per_s": None, "note": "not measured: no time left"}
    if dry:
        same = " (here the same as eager or bf16)" if job.mode in NOTHING_ON_THE_CPU else ""
        row["note"] = f"dry run on the CPU: the number means nothing{same}; {row['note']}".rstrip("; ")
    return row


def shown(row: dict[str, Any]) -> str:
    """One line of the table."""
    names = f"{row['setting']:<16}{row['mode']:<14}{row['trials']:>6}"
    if row["epochs_per_s"] is None:
        return f"{names}{'-':>10}{'':>34}  {row['note']}"
    found = "" if row["found"] is None else f"{row['found']:.0%}"
    numbers = f"{row['epochs_per_s']:>10.3f}{row['ms_per_step']:>9.2f}{row['device_mib']:>9,.0f}{found:>6}"
    return f"{names}{numbers}{row['rows']:>10}  {row['note']}"


def main() -> None:
    """Prints the table row by row, and writes the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU in tiny sizes, to see that it runs")
    parser.add_argument("--budget", type=float, default=900.0, metavar="SECONDS", help="what began by then is ended")
    parser.add_argument("--pair", nargs=2, default=("resnet32x4", "resnet8x4"), metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    print(sentence())
    dry = arguments.dry_run or not torch.cuda.is_available()
    until = time.monotonic() + arguments.budget
    sizes: dict[str, Any] = {"images": EPOCH_IMAGES // 4, "device": "cuda", "batch": 64}
    if dry:
        print("dry run on the CPU, tiny sizes: no number here means anything")
        sizes = {"images": 2 * CLASSES, "device": "cpu", "batch": 50, "epochs": 1}
    pair = ("cnn", "cnn") if dry else tuple(arguments.pair)
    print(f"{pair[0]} -> {pair[1]}, batches of {sizes['batch']}; student epochs of {EPOCH_IMAGES:,} images a second")
    print(f"{'setting':<16}{'mode':<14}{'trials':>6}{'epochs/s':>10}{'ms/step':>9}{'MiB':>9}{'found':>6}{'rows':>10}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for job in (dry_jobs_of if dry else jobs_of)(Job(*pair, folder, **sizes)):
            rows.append(measured(job, until, dry))
            print(shown(rows[-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
