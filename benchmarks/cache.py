"""The teacher cache: what filling and reading cost, how often rows are found, and what a study saves.

Equality first: a batch must have the same numbers cold and warm, to the last bit, or nothing is timed. Then, in turn
and on one thread: the student's step, the teacher live, the same teacher through an empty cache (compute and store) and
through a full one (read and check). The gain for 1, 8 and 64 trials is computed from these costs and from the expected
share of crops that are still missing in each epoch; it is not a measurement of 64 trials.

    python benchmarks/cache.py [--quick] [--json FILE]
"""

# Shapes: B rows of a batch, C feature width, K classes.

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import sentence

from akdtune import networks
from akdtune.data.splits import Pixels, Split, StoredImages
from akdtune.settings.data import Augmentation
from akdtune.settings.teacher import CacheSettings
from akdtune.signals import InputSpec
from akdtune.teacher.rows import Caching, TeacherRows

IMAGES, TRAINING_IMAGES, EPOCHS, BATCH = 2048, 50_000, 240, 64
PAIRS = [
    ("resnet56", "resnet20"),
    ("resnet32x4", "resnet8x4"),
    ("wrn_40_2", "wrn_16_2"),
    ("vgg13", "vgg8"),
]


class Costs(NamedTuple):
    """Median CPU milliseconds of one batch."""

    student: float
    live: float
    cold: float
    warm: float


def split_of_noise() -> tuple[Split, Augmentation]:
    """Random images of CIFAR's size, padded by 4 and mirrored: 162 crops each."""
    augmentation = Augmentation(pad=4, flip=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    ids, labels = torch.arange(IMAGES), torch.arange(IMAGES) % 100
    pixels = Pixels(StoredImages(images), 32, augmentation, augmentation, mean, std)
    return Split(ids, labels, labels, ids, pixels), augmentation


def student_step(network: networks.Network, images_BCHW: torch.Tensor) -> Callable[[], None]:
    """Forward, backward and update on one batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    labels_B = torch.arange(len(images_BCHW)) % 100

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(network(images_BCHW).logits_BK, labels_B)
        loss.backward()
        optimizer.step()

    return step


def measure(teacher_name: str, student_name: str, steps: int, location: Path) -> dict[str, Any]:
    """Compares, then times, one pair."""
    inputs = InputSpec(3, 32, 100)
    split, augmentation = split_of_noise()
    teacher = networks.build(teacher_name, inputs, 0).eval().requires_grad_(False)
    student = networks.build(student_name, inputs, 1).train()
    caching = Caching(CacheSettings(location=str(location)), ["noise"], "noise")
    rows = TeacherRows(teacher, split, augmentation, caching)
    drawn = np.random.default_rng(0).permutation(rows.rows)
    batches = [drawn[start : start + BATCH] for start in range(0, (steps + 2) * BATCH, BATCH)]
    cold = rows.signals(batches[0])
    warm = TeacherRows(teacher, split, augmentation, caching).signals(batches[0])
    if not (torch.equal(cold.logits_BK, warm.logits_BK) and torch.equal(cold.pooled_BC, warm.pooled_BC)):
        raise SystemExit(f"{teacher_name}: numbers differ between a cold and a warm cache")
    images_BCHW = split.images(torch.arange(BATCH))
    train = student_step(student, images_BCHW)
    times: dict[str, list[float]] = {name: [] for name in Costs._fields}
    for number in range(1, steps + 2):
        asked = batches[number]
        forms: dict[str, Callable[[], Any]] = {
            "student": train,
            "live": lambda: _live(teacher, images_BCHW),
            "cold": lambda asked=asked: rows.signals(asked),
            "warm": lambda asked=asked: rows.signals(asked),
        }
        for name, form in forms.items():
            started = time.process_time()
            form()
            if number > 1:
                times[name].append(1000 * (time.process_time() - started))
    counts = rows.rates()
    assert counts["computed"] == (steps + 2) * BATCH, "every row is computed once"
    costs = Costs(*(statistics.median(times[name]) for name in Costs._fields))
    shape = rows.store.shape
    full = TRAINING_IMAGES * augmentation.variants * shape.record
    row: dict[str, Any] = {"pair": f"{teacher_name} -> {student_name}", "dtype": "fp16", "batch": BATCH}
    row |= {f"{name}_ms": value for name, value in costs._asdict().items()}
    row |= {"bytes_a_row": shape.record, "full_mib": full / 2**20}
    return row | study_gains(costs, augmentation.variants)


def _live(teacher: networks.Network, images_BCHW: torch.Tensor) -> None:
    with torch.no_grad():
        teacher(images_BCHW)


def missing_share(epoch: int, crops: int) -> float:
    """Expected share of images whose crop of this epoch (counted from 1, over all trials) was never drawn before."""
    return (1 - 1 / crops) ** (epoch - 1)


def study_gains(costs: Costs, crops: int) -> dict[str, float]:
    """CPU time without the cache over CPU time with it, for trials of EPOCHS epochs that share it; and hit rates.

    A batch with a share m of missing rows costs student + warm + m (cold - warm): missing rows are computed in full
    batches. Trials are counted one after the other, each with crops of its own.
    """
    gains: dict[str, float] = {}
    for trials in (1, 8, 64):
        epochs = trials * EPOCHS
        missing = sum(missing_share(epoch, crops) for epoch in range(1, epochs + 1))
        without = epochs * (costs.student + costs.live)
        having = epochs * (costs.student + costs.warm) + missing * (costs.cold - costs.warm)
        gains[f"gain_{trials}_trials"] = without / having
        gains[f"hit_rate_{trials}_trials"] = 1 - missing / epochs
    return gains


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one pair, few steps")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(sentence())
    rows = []
    for teacher, student in PAIRS[:1] if arguments.quick else PAIRS:
        with tempfile.TemporaryDirectory() as location:
            rows.append(measure(teacher, student, 6 if arguments.quick else 20, Path(location)))
    print(
        f"batches of {BATCH}; ms of one thread's CPU time, median; gain = CPU time without / with the cache, computed"
    )
    print(f"for trials of {EPOCHS} epochs on {TRAINING_IMAGES:,} images with 162 crops each")
    print(f"{'pair':<26}{'student':>9}{'live':>8}{'cold':>8}{'warm':>8}{'full MiB':>10}  gain and hit rate, 1 / 8 / 64")
    for row in rows:
        times = f"{row['student_ms']:>9.1f}{row['live_ms']:>8.1f}{row['cold_ms']:>8.1f}{row['warm_ms']:>8.2f}"
        gains = " / ".join(f"{row[f'gain_{n}_trials']:.2f} ({row[f'hit_rate_{n}_trials']:.0%})" for n in (1, 8, 64))
        print(f"{row['pair']:<26}{times}{row['full_mib']:>10,.0f}  {gains}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
