"""Our training step against the published one: whole trials in their own epoch loop, on four pairs of networks.

Equality first: on the first batch, with the same dropout masks and negatives, every loss term, the student's gradient
and its weights after the update must agree with the reference step (`reference_step.py`), and the loss must have the
same bits with the teacher cache cold and warm, or nothing is timed. Then, in turn and on one thread: the reference, and
a trial with an empty teacher cache (the teacher runs, its rows are stored) and with a full one (rows are read), or,
with methods on stage maps, one whose teacher runs live; each in fp32 and in bf16, the teacher included. A step is
everything between two steps of the loop: loading, teacher, heads, student, losses, backward, update, memory banks,
sums. The first step of an epoch, in which its order and crops are drawn, is told apart.

The 50,000 images of CIFAR's size, their labels and all weights are random: what a step costs does not depend on them.

    python benchmarks/trial_speed.py [--quick] [--pairs NAME ...] [--settings NAME ...]
        [--precisions fp32 bf16] [--images N] [--batch N] [--json FILE]
"""

# Shapes: B batch, S scores per image.

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from machine import facts, sentence
from reference_maps import MAPS
from reference_step import (
    PlainCRD,
    PublishedImages,
    ReferenceStep,
    batches,
    compare,
    first_step,
    loading_difference,
)
from torch import nn

from akdtune import networks
from akdtune.data.source import Source
from akdtune.data.store import Stored
from akdtune.devices import has_bfloat16
from akdtune.methods.crd import CRD
from akdtune.registry import register
from akdtune.settings.data import Augmentation, DataSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.settings.training import TrainingSettings
from akdtune.signals import Batch, InputSpec, Signals, Target
from akdtune.teacher.checkpoints import weights_hash
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.limits import TrialLimits
from akdtune.training.loop import Interrupted
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial

PAIRS = ("resnet32x4->resnet8x4", "resnet56->resnet20", "wrn_40_2->wrn_16_2", "vgg13->vgg8")
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "kd": ("none", ("kd",)),
    "angular_kd": ("angular", ("kd",)),
    "angular_kd_crd": ("angular", ("kd", "crd")),
    **{name: ("none", (name,)) for name in MAPS},
}
"""Views and base methods; those on maps stand alone, and their teacher runs live."""

MODES = ("reference", "cold_fp32", "warm_fp32", "cold_bf16", "warm_bf16", "live_fp32", "live_bf16")
"""In the order of a round: a warm trial reads the rows that the cold one of its precision has just stored."""

IMAGES, CLASSES, BATCH = 50_000, 100, 64
LIMITS = TrialLimits(table_mib=0)
"""Rows come one batch at a time, as with so many images, however few are looked at."""

VIEWS = {"num_views": 5, "variant": "paper", "train_heads": "joint"}

LOSS_LIMIT = 1e-4
"""Of every loss term, and of the student's gradient in the same layout in memory."""

LAYOUT_LIMIT = 5e-2
"""Of the gradient in another layout (noise images differ so little that rounding counts), and of the update."""

LOADING_LIMIT = 1e-5
HALF_LIMITS = {"fp32": 1e-2, "bf16": 5e-2}
"""The cache rounds the teacher to half precision, bf16 teacher and student: how far the first loss may then be off."""

TARGETS: dict[tuple[str, str], tuple[float, float]] = {
    ("kd", "warm_fp32"): (2.0, 1.8),
    ("angular_kd_crd", "warm_fp32"): (4.0, 4.0),
    ("kd", "warm_bf16"): (4.0, 0.0),
    ("angular_kd_crd", "warm_bf16"): (7.0, 0.0),
    ("kd", "cold_bf16"): (4.0, 1.7),
    ("angular_kd_crd", "cold_bf16"): (4.5, 3.5),
}
"""Least ratio on the first pair and on the others; 0: none."""

PART_TARGETS = {"loading": 5.0, "crd": 10.0}


@lru_cache(maxsize=1)
def noise(count: int) -> Stored:
    """Random images, as many of each class; one copy for all trials of the process."""
    drawn = np.random.default_rng(0)
    images, tests = (drawn.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for n in (count, CLASSES))
    labels, test_labels = np.arange(count) % CLASSES, np.arange(CLASSES)
    return Stored(images, labels, tests, test_labels, CLASSES, (0.5,) * 3, (0.25,) * 3, f"noise {count}")


class Noise(Source):
    """Random colour images of 32x32 in 100 classes, padded and mirrored as CIFAR's."""

    images: ClassVar[int]

    @classmethod
    def of(cls, images: int) -> type[Noise]:
        """As many training images."""
        return type("Noise", (cls,), {"images": images, "__module__": __name__})

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """Pad 4 and flip."""
        return Augmentation(pad=4, flip=True)

    @classmethod
    def read(cls, settings: DataSettings) -> Stored:
        """Made, not read."""
        return noise(cls.images)


def untrained_teacher(name: str, inputs: InputSpec, images_BCHW: torch.Tensor, path: Path) -> TeacherFile:
    """Writes an untrained teacher whose running statistics fit the images, so that its numbers have usual sizes."""
    network = networks.build(name, inputs, 0).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(images_BCHW)
    torch.save(network.state_dict(), path)
    return TeacherFile(str(path), "", weights_hash(network), name, None, None, True)


@dataclass(frozen=True)
class Bench:
    """One pair of networks, teacher->student, and a folder for its teacher and its caches."""

    pair: str
    folder: Path
    images: int = IMAGES
    batch: int = BATCH

    @cached_property
    def teacher_file(self) -> TeacherFile:
        """Of the first batch's statistics."""
        name, images_NCHW = self.pair.partition("->")[0], noise(self.images).train_images[: self.batch]
        images_BCHW = (torch.from_numpy(images_NCHW).float() / 255 - 0.5) / 0.25
        return untrained_teacher(name, InputSpec(3, 32, CLASSES), images_BCHW, self.folder / "teacher.pt")

    def config(self, setting: str, precision: str = "fp32", cached: bool = True) -> TrialConfig:
        """A trial that trains on all images; a setting has crops of its own, a precision a cache of its own."""
        views, methods = SETTINGS[setting]
        training: dict[str, Any] = {"batch_size": self.batch, "lr": 0.01, "device": "cpu"}
        if precision != "fp32":
            training["precision"] = precision
        settings = {
            "data": {"name": "noise", "validation": 0},
            "student": {"network": self.pair.partition("->")[2]},
            "views": {"name": views, **(VIEWS if views == "angular" else {})},
            "method": [{"name": name} for name in methods],
            "training": training,
        }
        cache = CacheSettings(location=str(self.folder / f"cache-{precision}")) if cached else None
        seeds = {"order": list(SETTINGS).index(setting)}
        return TrialConfig.parse(
            TrialRequest(
                settings=settings, seeds=seeds, role="confirm", teacher_file=self.teacher_file, teacher_cache=cache
            )
        )


def measure(bench: Bench, setting: str, modes: Sequence[str], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Proves one setting of a pair equal, then times its modes in turn: rows of the JSON."""
    live = Trial(bench.config(setting, cached=False), limits=LIMITS)
    reference = ReferenceStep(live)
    alike, in_its_layout = compare(live, [ReferenceStep(live, networks.layout(live.student)), reference])
    if (
        max(alike.terms, alike.gradient, in_its_layout.terms) > LOSS_LIMIT
        or max(alike.update, in_its_layout.gradient) > LAYOUT_LIMIT
    ):
        raise SystemExit(
            f"{bench.pair} {setting}: differs from the reference step: {alike}, in its layout {in_its_layout}"
        )
    print(
        f"{bench.pair} {setting}: equal to the reference step (loss terms {in_its_layout.terms:.0e}, gradient "
        f"{alike.gradient:.0e} in our layout, {in_its_layout.gradient:.0e} in its own)",
        flush=True,
    )
    ours = [mode for mode in modes if mode != "reference" and mode.startswith("live") is (setting in MAPS)]
    trials = {mode: Trial(bench.config(setting, mode.split("_")[1]), limits=LIMITS) for mode in ours}
    losses = {mode: float(first_step(trial, 1).loss.total) for mode, trial in trials.items()}
    refuse_other_losses(losses, in_its_layout.loss, f"{bench.pair} {setting}")
    loading = batches(published_images(live, SETTINGS[setting][1]), bench.batch)
    next(loading)
    times: dict[str, list[float]] = {mode: [] for mode in ("reference", *trials)}
    starts: list[float] = []
    for number in range(rounds):
        times["reference"] += timed(lambda: reference.step(next(loading)), steps)
        for mode, trial in trials.items():
            start, of_steps = epoch_steps(trial, 2 + number, steps)
            refuse_other_temperature(trial, mode)
            times[mode] += of_steps
            starts.append(start)
    median = {mode: statistics.median(of_mode) for mode, of_mode in times.items()}
    print("  " + ", ".join(f"{mode} {of_mode:.0f} ms" for mode, of_mode in median.items()), flush=True)
    start_ms, over = statistics.median(starts), steps_of_epoch(live)
    print(f"  start of an epoch: {start_ms:.0f} ms, over {over} steps (not in the table)")
    return [
        {"pair": bench.pair, "setting": setting, "mode": mode}
        | {"cpu_ms_per_step": median[mode], "ratio": median["reference"] / median[mode]}
        for mode in times
    ]


def refuse_other_losses(losses: Mapping[str, float], exact: float, name: str) -> None:
    """Ends the benchmark unless cold and warm have the same first loss, and half precision is only that."""
    for precision, limit in HALF_LIMITS.items():
        of_precision = [loss for mode, loss in losses.items() if mode.endswith(precision)]
        if len(set(of_precision)) > 1:
            raise SystemExit(f"{name} {precision}: other losses cold and warm: {of_precision}")
        for loss in of_precision[:1]:
            off = abs(loss - exact) / abs(exact)
            cached = (
                ""
                if any(mode.startswith("live") for mode in losses)
                else ", teacher cache in fp16: the same bits cold and warm"
            )
            print(f"  {precision}{cached}, first loss off by {off:.0e}")
            if off > limit:
                raise SystemExit(f"{name} {precision}: loss {loss} instead of {exact}")


def refuse_other_temperature(trial: Trial, mode: str) -> None:
    """Ends the benchmark when a warm trial computed rows, or a cold one found them."""
    assert trial.teacher is not None
    rate = trial.teacher.cache_rates().get("teacher_cache_hit_rate")
    if mode.startswith("live"):
        if rate is not None:
            raise SystemExit(f"{mode}: the teacher cache is used")
        return
    if rate is None:
        raise SystemExit(f"{mode}: the teacher cache is not used")
    if (rate < 1) if mode.startswith("warm") else (rate > 0.05):
        raise SystemExit(f"{mode}: {rate:.0%} of the rows were found")


def modes_of_this_version() -> list[str]:
    """All modes, or those without bf16 where trials have no precision."""
    has_precision = "precision" in TrainingSettings.model_fields
    return [mode for mode in MODES if has_precision or not mode.endswith("bf16")]


def epoch_steps(trial: Trial, epoch: int, steps: int) -> tuple[float, list[float]]:
    """CPU ms that the start of an epoch takes more than a step, and of each of some steps after its first."""
    marks = [time.process_time()]

    def should_stop() -> bool:
        marks.append(time.process_time())
        return len(marks) > steps + 2

    with contextlib.suppress(Interrupted):
        trial.student_epoch(epoch, should_stop)
    times_ms = [1000 * (after - before) for before, after in zip(marks, marks[1:], strict=False)]
    before_first, first, *rest = times_ms
    return before_first + first - statistics.median(rest), rest


def timed(step: Callable[[], object], times: int) -> list[float]:
    """CPU ms of each of some steps."""
    times_ms = []
    for _ in range(times):
        started = time.process_time()
        step()
        times_ms.append(1000 * (time.process_time() - started))
    return times_ms


def steps_of_epoch(trial: Trial) -> int:
    """How many batches its training images are."""
    return -(-len(trial.train) // trial.config.training.batch_size)


def published_images(trial: Trial, methods: Sequence[str]) -> PublishedImages:
    """A trial's training images as the published loader has them."""
    crd = dict(trial.objective.methods.items()).get("crd")
    negatives = crd.num_negatives if "crd" in methods and isinstance(crd, CRD) else 0
    images_NCHW = torch.from_numpy(noise(len(trial.train)).train_images)
    assert len(trial.train) == len(images_NCHW), "positions are numbers of images"
    return PublishedImages(images_NCHW, trial.train.training_labels_N, trial.dataset, negatives)


def measure_parts(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Loading a batch, and CRD from pooled features to updated banks, alone."""
    trial = Trial(bench.config("angular_kd_crd", cached=False), limits=LIMITS)
    return [measure_loading(trial, rounds), measure_crd(trial, bench.pair, rounds)]


def measure_loading(trial: Trial, rounds: int) -> dict[str, Any]:
    """A batch of images through PIL one by one, and ours (with its share of what is drawn once an epoch)."""
    plain, pad = published_images(trial, ()), trial.dataset.augmentation.pad
    batch = trial.config.training.batch_size
    ours = trial.train.epoch(0, 1, batch)
    started = time.process_time()
    loaded = next(ours)
    drawing = 1000 * (time.process_time() - started)
    difference = loading_difference(trial.train, plain, loaded, pad)
    if difference > LOADING_LIMIT:
        raise SystemExit(f"loading: images differ from torchvision's by {difference:.0e}")
    theirs = batches(plain, batch)
    next(theirs)
    times: dict[str, list[float]] = {"reference": [], "ours": []}
    for _ in range(rounds):
        times["reference"] += timed(lambda: next(theirs), 5)
        times["ours"] += timed(lambda: next(ours), 5)
    ours.close()
    share = (drawing - statistics.median(times["ours"])) / steps_of_epoch(trial)
    return part("loading", "a batch of images", times, share, difference)


def measure_crd(trial: Trial, pair: str, rounds: int) -> dict[str, Any]:
    """Negatives, loss, backward and bank update of one batch, by gathers of rows and ours."""
    crd = trial.objective.methods["crd"]
    assert isinstance(crd, CRD)
    plain, images = PlainCRD(crd), published_images(trial, ("crd",))
    generator = torch.Generator().manual_seed(0)
    size = trial.config.training.batch_size
    positions_B = torch.randperm(len(trial.train), generator=generator)[:size]
    labels_B = trial.train.training_labels_N[positions_B]
    student_BC, teacher_BC = (
        torch.randn(size, layer.in_features, generator=generator).relu_()
        for layer in (crd.embed_student, crd.embed_teacher)
    )
    student_BC.requires_grad_()
    logits_BK = torch.zeros(size, CLASSES)
    student, target = Signals(logits_BK, student_BC), Target.of(Signals(logits_BK, teacher_BC))

    def our_loss() -> torch.Tensor:
        batch = Batch(labels_B, positions_B, positions_B, 1, generator)
        return crd.terms(student, target, batch)["crd"]

    def ours() -> None:
        our_loss().backward()  # type: ignore[no-untyped-call]
        crd.after_step()

    def theirs() -> None:
        drawn_BJ = np.stack([images.draw(label) for label in labels_B.tolist()])
        index_BS = torch.cat([positions_B[:, None], torch.from_numpy(drawn_BJ)], dim=1)
        plain(student_BC, teacher_BC, positions_B, index_BS).backward()

    our_value = our_loss()
    assert crd._step is not None
    their_value = plain(student_BC, teacher_BC, positions_B, crd._step.index_BS)
    gradients = [torch.autograd.grad(loss, student_BC)[0] for loss in (our_value, their_value)]
    crd.after_step()
    banks = [(getattr(crd, name), getattr(plain, name)) for name in ("student_bank_NE", "teacher_bank_NE")]
    difference = max(
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in [(our_value, their_value), gradients, *banks]
    )
    if difference > LOSS_LIMIT:
        raise SystemExit(f"crd: loss, gradient or banks differ by {difference:.0e}")
    times: dict[str, list[float]] = {"reference": [], "ours": []}
    for _ in range(rounds):
        times["reference"] += timed(theirs, 1)
        times["ours"] += timed(ours, 1)
    return part("crd", f"CRD of a batch, {pair}", times, 0.0, difference)


def part(name: str, text: str, times: Mapping[str, Sequence[float]], share: float, difference: float) -> dict[str, Any]:
    """A row of the second table; `share` ms are added to ours."""
    reference, ours = statistics.median(times["reference"]), statistics.median(times["ours"]) + share
    of_part = {"name": name, "text": text, "reference_ms": reference, "ours_ms": ours, "ratio": reference / ours}
    return of_part | {"difference": difference}


def target_of(row: Mapping[str, Any]) -> float:
    """The least ratio asked of a row; 0: none."""
    first, others = TARGETS.get((row["setting"], row["mode"]), (0.0, 0.0))
    return first if row["pair"] == PAIRS[0] else others


def missed(row: Mapping[str, Any]) -> bool:
    """Whether a row's ratio is less than what is asked of it."""
    return bool(row["ratio"] < target_of(row))


COLUMNS = ("cold_fp32", "warm_fp32", "cold_bf16", "warm_bf16")
"""Of the table, fp32 beside bf16 and cold beside warm; a teacher that runs live stands where it would be cold."""


def print_tables(rows: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]], batch: int) -> None:
    """A table of steps for each pair, then parts; what is asked for and missed has a star."""
    print(f"\nms of one thread's CPU time a step of {batch} images, median")
    print("x: published step over ours; *: less than its target")
    shown = [name for name in COLUMNS if any(row["mode"].endswith(name[-4:]) for row in rows)]
    for pair in dict.fromkeys(row["pair"] for row in rows):
        of_pair = {(row["setting"], row["mode"]): row for row in rows if row["pair"] == pair}
        print(
            f"\n{pair}\n{'':<16}{'published':>9}" + "".join(f"{' '.join(name.split('_')[::-1]):>13}" for name in shown)
        )
        for setting in dict.fromkeys(setting for setting, _ in of_pair):
            cells = "".join(f"{_cell(of_pair, setting, name):>13}" for name in shown)
            print(f"{setting:<16}{of_pair[setting, 'reference']['cpu_ms_per_step']:>9.0f}{cells}".rstrip())
    for row in filter(missed, rows):
        print(f"missed: {row['pair']} {row['setting']} {row['mode']}: {row['ratio']:.2f} (at least {target_of(row):g})")
    print(f"\n{'part':<39}{'published':>10}{'ours':>8}{'x':>6}{'target':>8}  off by")
    for part in parts:
        star = "*" if part["ratio"] < PART_TARGETS[part["name"]] else " "
        times = f"{part['reference_ms']:>10.2f}{part['ours_ms']:>8.2f}{part['ratio']:>6.1f}"
        print(f"{part['text']:<39}{times}{PART_TARGETS[part['name']]:>7g}{star}  {part['difference']:.0e}")
    if not any(row["mode"].endswith("bf16") for row in rows):
        print("bf16: not measured")
    elif not has_bfloat16():
        print("bf16: this processor has no instructions for it: its numbers say nothing about one that has")


def _cell(of_pair: Mapping[tuple[str, str], Mapping[str, Any]], setting: str, column: str) -> str:
    """Ms and ratio; of a live teacher in the column of the cold one."""
    row = of_pair.get((setting, column))
    live = of_pair.get((setting, f"live_{column[-4:]}"))
    if row is None and live is not None:
        if column.startswith("warm"):
            return "live "
        row = live
    return "- " if row is None else f"{row['cpu_ms_per_step']:.0f} {row['ratio']:.2f}x{'*' if missed(row) else ' '}"


def chosen_pairs(given: Sequence[str] | None, quick: bool) -> list[str]:
    """Pairs by their name or their teacher's; others as teacher->student."""
    if given is None:
        return list(PAIRS[: 1 if quick else None])
    known = [pair for pair in PAIRS if pair in given or pair.partition("->")[0] in given]
    return known + [pair for pair in given if "->" in pair and pair not in PAIRS]


def pair_name(text: str) -> str:
    """A pair as given on the command line."""
    if "->" not in text and not any(pair.startswith(f"{text}->") for pair in PAIRS):
        raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(PAIRS)}, their teachers, or teacher->student")
    return text


def main() -> None:
    """Prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, only the first pair unless --pairs is given")
    parser.add_argument("--pairs", nargs="+", type=pair_name, metavar="NAME", help="pairs, or their teachers")
    parser.add_argument("--images", type=int, default=IMAGES, help="training images (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=BATCH, help="images a step (default: %(default)s)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="default: all")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=("fp32", "bf16"))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    print(sentence())
    torch.set_num_threads(1)
    torch.manual_seed(0)
    register("noise", kind="data")(Noise.of(arguments.images))
    modes = [mode for mode in modes_of_this_version() if mode.split("_")[-1] in ("reference", *arguments.precisions)]
    rounds, steps = (2, 1) if arguments.quick else (3, 2)
    rows: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for pair in chosen_pairs(arguments.pairs, arguments.quick):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(pair, Path(folder), arguments.images, arguments.batch)
            parts = parts or measure_parts(bench, 2 * rounds)
            for setting in SETTINGS:
                if setting in arguments.settings:
                    rows += measure(bench, setting, modes, rounds, steps)
    print_tables(rows, parts, arguments.batch)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts(), "rows": rows, "parts": parts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
