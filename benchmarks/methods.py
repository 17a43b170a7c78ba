"""What every method costs a step beyond the student: its terms, their backward, and its update of what it remembers.

A student and its teacher of CIFAR's size say what they say about a batch; the method's own part is timed on that, down
to the gradients of the student's outputs and of the method's own weights. The student's step (forward, cross-entropy,
backward, SGD) is what it is a share of. What an update of the method's own weights costs, and what a teacher whose maps
are read costs, is not in it. Median ms of one thread's CPU time, methods in turn.

    python benchmarks/methods.py [--quick] [--methods NAME ...] [--pair TEACHER STUDENT] [--json FILE]
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from machine import sentence
from torch import Tensor, nn

from akdtune import networks
from akdtune.methods import Method
from akdtune.registry import lookup, names
from akdtune.signals import Batch, InputSpec, Signals, Target
from akdtune.training.objective import weighted_sum

IMAGES, CLASSES, BATCH = 50_000, 100, 64
INPUTS = InputSpec(3, 32, CLASSES)


class Pair:
    """A teacher and a student that have seen the same batch, and its strong version."""

    def __init__(self, teacher: str, student: str, batch: int) -> None:
        self.teacher, self.student = (
            networks.build(name, INPUTS, seed) for seed, name in enumerate((teacher, student))
        )
        self.labels_N = torch.arange(IMAGES) % CLASSES
        self.batch = batch
        self.images_BCHW = self.images()
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9, fused=True)
        with torch.no_grad():
            self.of_student, self.of_teacher = (
                replace(self.said(network), strong=self.said(network)) for network in (self.student, self.teacher)
            )

    def images(self) -> Tensor:
        """Noise, as the networks read it."""
        images_BCHW = torch.randn(self.batch, INPUTS.channels, INPUTS.size, INPUTS.size)
        return images_BCHW.contiguous(memory_format=networks.layout(self.student))

    def said(self, network: networks.Network) -> Signals:
        """Everything that a network says about images of its own."""
        signals: Signals = network(self.images(), True)
        return replace(signals, classifier=network.classifier())

    def step(self) -> None:
        """The student alone."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.student(self.images_BCHW).logits_BK, self.labels_N[: self.batch])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def method(self, name: str) -> Method:
        """A method for the two, with its default settings."""
        component: type[Method] = lookup("methods", name)
        weight_KC, bias_K = self.teacher.classifier()
        return component.alone(
            num_classes=CLASSES,
            student_dim=self.student.pooled_dim,
            teacher_dim=self.teacher.pooled_dim,
            student_stages=self.student.stage_shapes,
            teacher_stages=self.teacher.stage_shapes,
            teacher_classifier=(weight_KC, bias_K),
            train_labels_N=self.labels_N,
            epochs=240,
        ).train()


def leaves(signals: Signals) -> Signals:
    """The same numbers, each a tensor that wants a gradient."""
    changed: dict[str, Any] = {}
    for field in fields(signals):
        value = getattr(signals, field.name)
        if isinstance(value, Signals):
            changed[field.name] = leaves(value)
        elif isinstance(value, Tensor):
            changed[field.name] = value.detach().requires_grad_()
        elif isinstance(value, tuple) and field.name != "others":
            changed[field.name] = tuple(one.detach().requires_grad_() for one in value)
    return replace(signals, **changed)


def stepper(pair: Pair, name: str) -> Callable[[], None]:
    """The method's own part of a step in an epoch in which all of its terms have a weight."""
    method, batches = pair.method(name), _batches(pair, lookup("methods", name))
    target = Target.of(pair.of_teacher, strong=True).with_maps(pair.of_teacher)
    if method.consumes == "self":
        target = Target.of(pair.of_student, strong=True)

    def step() -> None:
        batch, student = next(batches), leaves(pair.of_student)
        if method.replaces_logits:
            student = replace(student, logits_BK=method.logits(student))
        total = weighted_sum(method.terms(student, target, batch), method.weights(batch.epoch))
        if method.replaces_logits:
            own = nn.functional.cross_entropy(student.logits_BK, batch.labels_B)
            total = own if total is None else total + own
        if total is not None and total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
        method.after_step()
        method.zero_grad(set_to_none=True)

    return step


def _batches(pair: Pair, component: type[Method]) -> Iterator[Batch]:
    """Batches without end; where a method wants that, each begins with half of the one before."""
    generator, repeated = torch.Generator().manual_seed(0), 0
    while True:
        positions_B = torch.randint(IMAGES, (pair.batch,), generator=generator)
        yield Batch(pair.labels_N[positions_B], positions_B, positions_B, 100, generator, repeated=repeated)
        repeated = pair.batch // 2 if component.overlaps_batches else 0


def measure(pair: Pair, methods: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """A row a method, the dearest first."""
    steps = {"": pair.step, **{name: stepper(pair, name) for name in methods}}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if number >= 2:
                times[name].append(1000 * (time.process_time() - started))
    median = {name: statistics.median(of_method) for name, of_method in times.items()}
    student_ms = median.pop("")
    rows = [
        {"method": name, "own_ms": own_ms, "student_ms": student_ms, "share": own_ms / student_ms}
        for name, own_ms in median.items()
    ]
    return sorted(rows, key=lambda row: -float(row["own_ms"]))


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--methods", nargs="+", choices=names("methods"), metavar="NAME", help="default: all")
    parser.add_argument("--pair", nargs=2, default=("resnet32x4", "resnet8x4"), metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher, student = arguments.pair
    rows = measure(Pair(teacher, student, BATCH), arguments.methods or names("methods"), 3 if arguments.quick else 9)
    print(sentence())
    print(f"{teacher} -> {student}, batches of {BATCH}, fp32; ms of one thread's CPU time")
    print(f"the student's step alone: {rows[0]['student_ms']:.0f} ms")
    print(f"{'method':<18}{'own ms':>9}{'of the student':>16}")
    for row in rows:
        print(f"{row['method']:<18}{row['own_ms']:>9.1f}{row['share']:>16.1%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
