"""Seeds of one cell as one batched program: a step of S students at once against S steps of one student each.

A step is a student's forward, cross-entropy and kd, backward, and SGD. Loading, views and memory banks are left out, so
that the ratio is the most that a whole trial could gain. Every seed has weights, images and labels of its own; the
teacher's logits are given, as they are with a warm cache. The forms:

    one by one      S networks, S steps
    vmap            torch.func: stacked weights, one vectorised call
    grouped         side by side in the channels: convolutions of S groups, BatchNorm of S times the channels, one
                    batched product for the last layer; in the layout of the network, channels last
    grouped, plain  the same in torch's own layout

Gradients and weights are compared before anything is timed. Then the forms step in turn; the table shows medians, on
the CPU of one thread's process time, on a GPU of wall time between two waits. Where a form does not run, or its numbers
are other ones, the table says so.

    python benchmarks/stacked_seeds.py [--quick] [--device cpu|cuda] [--graphs] [--students NAME ...] [--seeds N ...]
        [--precisions fp32 bf16] [--forms NAME ...] [--steps N] [--json FILE]
"""

# Shapes: S seeds, B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import sentence
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from akdtune import networks
from akdtune.methods.kd import KD
from akdtune.signals import Batch, InputSpec, Signals, Target


class Setup(NamedTuple):
    """A student and what it is trained on."""

    network: str | dict[str, Any]
    inputs: InputSpec
    batch: int


SETUPS = {
    "digits": Setup({"name": "cnn", "widths": [4, 8, 16]}, InputSpec(1, 8, 10), 32),
    "resnet8x4": Setup("resnet8x4", InputSpec(3, 32, 100), 64),
    "resnet20": Setup("resnet20", InputSpec(3, 32, 100), 64),
}
SEEDS = (1, 2, 4, 8)
FORMS = ("one by one", "vmap", "grouped", "grouped, plain")
TOLERANCE = {"fp32": 1e-2, "bf16": 0.2}
"""Of each seed's gradient, as a share of its length: sums are rounded in another order, and ReLU at 0 shows it."""


class Given(NamedTuple):
    """What S students are given for a step."""

    images_SBCHW: Tensor
    labels_SB: Tensor
    teacher_SBK: Tensor


def given(setup: Setup, seeds: int, device: str) -> Given:
    """Random images, labels and teacher's logits."""
    generator, (channels, size, classes) = torch.Generator().manual_seed(0), _sizes(setup.inputs)
    images_SBCHW = torch.randn(seeds, setup.batch, channels, size, size, generator=generator)
    labels_SB = torch.randint(classes, (seeds, setup.batch), generator=generator)
    teacher_SBK = 4 * torch.randn(seeds, setup.batch, classes, generator=generator)
    return Given(images_SBCHW.to(device), labels_SB.to(device), teacher_SBK.to(device))


def _sizes(inputs: InputSpec) -> tuple[int, int, int]:
    return inputs.channels, inputs.size, inputs.num_classes


def loss_of(kd: KD, logits_BK: Tensor, labels_B: Tensor, teacher_BK: Tensor) -> Tensor:
    """Cross-entropy and kd, each a mean over the rows."""
    nothing_BC = logits_BK.new_empty(len(logits_BK), 0)
    student, target = Signals(logits_BK.float(), nothing_BC), Target.of(Signals(teacher_BK, nothing_BC))
    divergence = kd.terms(student, target, Batch.of(labels_B))["kd"]
    return KD.default_ce_weight * functional.cross_entropy(student.logits_BK, labels_B) + 0.9 * divergence


class Students:
    """S students in one form, and their step.

    Attributes:
        parameters: what trains.
    """

    def __init__(self, students: Sequence[networks.Network], stacked: Given, precision: str) -> None:
        self.stacked, self.seeds = stacked, len(students)
        self.device, self.precision = stacked.images_SBCHW.device.type, precision
        self.kd = KD.alone(num_classes=stacked.teacher_SBK.shape[-1], device=self.device)
        self.parameters = list(self.hold(students))
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)

    def hold(self, students: Sequence[networks.Network]) -> Iterable[nn.Parameter]:
        """Takes the students in; what trains."""
        raise NotImplementedError

    def logits_SBK(self) -> Tensor:
        """What all students say of their images."""
        raise NotImplementedError

    def gradients(self) -> list[Tensor]:
        """The gradient of each seed, flat, in the order of the network's parameters."""
        raise NotImplementedError

    def step(self) -> None:
        """One update of all."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            logits_SBK = self.logits_SBK()
        rows = logits_SBK.flatten(0, 1), self.stacked.labels_SB.flatten(), self.stacked.teacher_SBK.flatten(0, 1)
        (self.seeds * loss_of(self.kd, *rows)).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 for the forward pass, where that is asked for."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


class OneByOne(Students):
    """As S trials do it."""

    def hold(self, students: Sequence[networks.Network]) -> Iterable[nn.Parameter]:
        """One optimiser each."""
        self.students = [student.train() for student in students]
        self.optimizers = [
            torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
            for student in students
        ]
        images = self.stacked.images_SBCHW
        self.images = [one.contiguous(memory_format=networks.layout(students[0])) for one in images]
        return [parameter for student in students for parameter in student.parameters()]

    def gradients(self) -> list[Tensor]:
        """As they are."""
        return [_flat(parameter.grad for parameter in student.parameters()) for student in self.students]

    def step(self) -> None:
        """S steps."""
        rows = zip(self.images, self.stacked.labels_SB, self.stacked.teacher_SBK, strict=True)
        for student, optimizer, (images_BCHW, labels_B, teacher_BK) in zip(
            self.students, self.optimizers, rows, strict=True
        ):
            optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                logits_BK = student(images_BCHW).logits_BK
            loss_of(self.kd, logits_BK, labels_B, teacher_BK).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


class Vectorised(Students):
    """torch.func: one network, stacked weights and running statistics."""

    def hold(self, students: Sequence[networks.Network]) -> Iterable[nn.Parameter]:
        """Stacks them."""
        self.network = students[0].train()
        self.weights, self.buffers = stack_module_state(list(students))
        return [nn.Parameter(weight) for weight in self.weights.values()]

    def logits_SBK(self) -> Tensor:
        """One call."""

        def logits_BK(weights: dict[str, Tensor], buffers: dict[str, Tensor], images_BCHW: Tensor) -> Tensor:
            signals = functional_call(self.network, (weights, buffers), (images_BCHW,))
            return signals.logits_BK  # type: ignore[no-any-return]

        weights = dict(zip(self.weights, self.parameters, strict=True))
        called: Tensor = vmap(logits_BK)(weights, self.buffers, self.stacked.images_SBCHW)
        return called

    def gradients(self) -> list[Tensor]:
        """Each seed's row of the stack."""
        return [_flat(_given(parameter.grad)[seed] for parameter in self.parameters) for seed in range(self.seeds)]


class GroupedLinear(nn.Linear):
    """S linear layers on [B, S * C] in one batched product, [B, S * K]; weights stacked as in a grouped convolution."""

    seeds: int

    def forward(self, pooled_BC: Tensor) -> Tensor:
        """The layers' outputs beside each other."""
        in_SBC = pooled_BC.unflatten(1, (self.seeds, -1)).transpose(0, 1)
        weight_SCK = self.weight.unflatten(0, (self.seeds, -1)).transpose(1, 2)
        out_SBK = torch.baddbmm(self.bias.view(self.seeds, 1, -1), in_SBC, weight_SCK)
        return out_SBK.transpose(0, 1).flatten(1)


class Grouped(Students):
    """Side by side in the channels of one network."""

    layout: torch.memory_format | None = None

    def hold(self, students: Sequence[networks.Network]) -> Iterable[nn.Parameter]:
        """Widens every layer of a copy, and concatenates the weights."""
        self.network = copy.deepcopy(students[0])
        layout = self.layout or networks.layout(students[0])
        for name, module in list(self.network.named_modules()):
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
                widened(module, [student.get_submodule(name) for student in students])
        self.network.to(memory_format=layout).train()
        images_BCHW = self.stacked.images_SBCHW.transpose(0, 1).flatten(1, 2)
        self.images_BCHW = images_BCHW.contiguous(memory_format=layout)
        return self.network.parameters()

    def logits_SBK(self) -> Tensor:
        """One call."""
        logits_BK: Tensor = self.network(self.images_BCHW).logits_BK
        return logits_BK.unflatten(1, (self.seeds, -1)).transpose(0, 1)

    def gradients(self) -> list[Tensor]:
        """Each seed's share of the rows."""
        shares = [_given(parameter.grad).chunk(self.seeds) for parameter in self.parameters]
        return [_flat(share[seed] for share in shares) for seed in range(self.seeds)]


class GroupedPlain(Grouped):
    """The same in torch's own layout."""

    layout = torch.contiguous_format


def widened(layer: nn.Module, of_seeds: Sequence[nn.Module]) -> None:
    """Makes a layer the layers of all seeds beside each other; their weights come one seed after the other."""
    seeds = len(of_seeds)
    for name, parameter in list(layer.named_parameters(recurse=False)):
        rows = torch.cat([one.get_parameter(name).detach() for one in of_seeds])
        setattr(layer, name, nn.Parameter(rows.to(parameter.device)))
    if isinstance(layer, nn.Conv2d):
        layer.groups *= seeds
        layer.in_channels, layer.out_channels = seeds * layer.in_channels, seeds * layer.out_channels
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features *= seeds
        for name in ("running_mean", "running_var"):
            setattr(layer, name, torch.cat([one.get_buffer(name) for one in of_seeds]))
    else:
        layer.__class__, layer.seeds = GroupedLinear, seeds  # type: ignore[assignment]


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def _flat(tensors: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([_given(tensor).detach().double().contiguous().view(-1) for tensor in tensors])


CLASSES = dict(zip(FORMS, (OneByOne, Vectorised, Grouped, GroupedPlain), strict=True))


def recorded(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def clock(device: str) -> float:
    """Seconds of this process on the CPU; of the wall when the GPU is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(
    name: str,
    seeds: int,
    precision: str,
    device: str,
    steps: int,
    graphs: bool = False,
    forms: Sequence[str] = FORMS,
) -> list[dict[str, Any]]:
    """Compares the forms, then times them in turn; a row each."""
    setup = SETUPS[name]
    students = [networks.build(setup.network, setup.inputs, seed).to(device) for seed in range(seeds)]
    stacked = given(setup, seeds, device)
    rows, stepping, expected = [], {}, []
    for form in [FORMS[0], *(form for form in forms if form != FORMS[0] and seeds > 1)]:
        row: dict[str, Any] = {"student": name, "seeds": seeds, "precision": precision, "device": device, "form": form}
        row |= {"graphs": graphs, "ms_per_seed": None, "difference": None, "note": ""}
        rows.append(row)
        try:
            of_form = CLASSES[form](copy.deepcopy(students), stacked, precision)
            of_form.step()
            found = of_form.gradients()
            expected = expected or found
            pairs = zip(found, expected, strict=True)
            row["difference"] = max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)
            stepping[form] = recorded(of_form.step) if graphs else of_form.step
        except Exception as error:  # what a form cannot do is a result
            row["note"] = " ".join(f"{type(error).__name__}: {error}".split())[:90]
            continue
        if row["difference"] > TOLERANCE[precision]:
            row["note"] = "other numbers"
    times = timed(stepping, device, steps)
    for row in rows:
        if row["form"] in times:
            row["ms_per_seed"] = 1000 * times[row["form"]] / seeds
            row["ratio"] = times[FORMS[0]] / times[row["form"]]
    return rows


def timed(stepping: dict[str, Callable[[], None]], device: str, steps: int) -> dict[str, float]:
    """Median seconds of a step of each form, one step of each in turn after two that do not count."""
    times: dict[str, list[float]] = {form: [] for form in stepping}
    for number in range(steps + 2):
        for form, step in stepping.items():
            started = clock(device)
            step()
            if number >= 2:
                times[form].append(clock(device) - started)
    return {form: statistics.median(of_form) for form, of_form in times.items()}


def shown(row: dict[str, Any]) -> str:
    """One line of the table."""
    names = f"{row['student']:<11}{row['precision']:<6}{row['seeds']:>5}  {row['form']:<16}"
    if row["ms_per_seed"] is None:
        return f"{names}{'failed':>10}  {row['note']}"
    numbers = f"{row['ms_per_seed']:>10.2f}{row['ratio']:>7.2f}{row['difference']:>12.0e}"
    return f"{names}{numbers}  {row['note']}".rstrip()


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, the two students of the digits and CIFAR")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--graphs", action="store_true", help="every form as a CUDA graph")
    parser.add_argument("--students", nargs="+", choices=SETUPS, default=["digits", "resnet8x4"], metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N", help="default: 1 2 4 8")
    parser.add_argument("--precisions", nargs="+", choices=TOLERANCE, default=list(TOLERANCE), help="default: both")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, metavar="NAME", help="default: all")
    parser.add_argument("--steps", type=int, help="timed ones of each form")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: not measured")
        return
    if arguments.graphs and arguments.device != "cuda":
        parser.error("--graphs needs --device cuda")
    torch.set_num_threads(1)
    clocked = "one thread's CPU time" if arguments.device == "cpu" else f"wall time, {torch.cuda.get_device_name()}"
    print(sentence())
    print(f"ms per step and seed ({clocked}), median; ratio: one by one over the form;")
    print("difference: of a seed's gradient in the first step, as a share of its length")
    print(f"{'student':<11}{'':<6}{'seeds':>5}  {'form':<16}{'ms / seed':>10}{'ratio':>7}{'difference':>12}")
    rows: list[dict[str, Any]] = []
    for name in arguments.students:
        steps = arguments.steps or (40 if name == "digits" else 5) // (4 if arguments.quick else 1) or 1
        for precision in arguments.precisions:
            for seeds in arguments.seeds:
                measured = measure(name, seeds, precision, arguments.device, steps, arguments.graphs, arguments.forms)
                print("\n".join(map(shown, measured)), flush=True)
                rows += measured
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
