"""What a training step of a spiking network costs with the rate pass and with backpropagation through time.

    python benchmarks/rate_pass.py [--network lif_resnet18] [--batch 4] [--steps 2 4 8 16] [--rounds 5] [--json FILE]

Each number of time steps T with each gradient in turn, round after round. Seconds are CPU seconds of one thread, of the
forward pass (with the rate pass: all time steps without a gradient, then one pass of rates) and of the backward pass:
cold of the first step of a network in this process, warm the least of the later rounds. Kept: bytes of all different
tensors that the forward pass keeps for the backward pass, counted by autograd's hooks. Peak: how far the memory of a
fresh process rises in its first step (Linux: VmHWM after the step less VmRSS before it), what kernels set up once
included.
"""

# Shapes: B batch, C channels, H, W, K classes.

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import sentence
from torch import Tensor
from torch.nn import functional

from akdtune import networks
from akdtune.networks import Network
from akdtune.signals import InputSpec

INPUTS = InputSpec(3, 32, 10)
GRADIENTS = ("rate", "bptt")


def built(name: str, gradient: str, steps: int) -> Network:
    """A network in training mode, its weights always the same."""
    return networks.build({"name": name, "gradient": gradient, "steps": steps}, INPUTS, 0).train()


def images(batch: int) -> Tensor:
    """Random images [B, C, H, W] as kernels lie in memory."""
    drawn = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return drawn.contiguous(memory_format=torch.channels_last)


def loss_of(network: Network, images_BCHW: Tensor) -> Tensor:
    """Cross-entropy with some labels."""
    return functional.cross_entropy(network(images_BCHW).logits_BK, torch.arange(len(images_BCHW)) % 10)


def seconds(network: Network, images_BCHW: Tensor) -> tuple[float, float]:
    """CPU seconds of forward and backward."""
    network.zero_grad(set_to_none=True)
    started = time.thread_time()
    loss = loss_of(network, images_BCHW)
    between = time.thread_time()
    loss.backward()
    return between - started, time.thread_time() - between


def kept_mib(work: Callable[[], Tensor]) -> float:
    """What a forward pass keeps for the backward pass; every storage once, parameters not counted."""
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = tensor, storage.nbytes()  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = work()
    assert loss.requires_grad
    return sum(size for _, size in kept.values()) / 2**20


def peak_mib(name: str, gradient: str, steps: int, batch: int) -> float:
    """`rise_mib` in a process of its own."""
    asked = [sys.executable, __file__, "--rise", gradient, "--network", name, "--batch", str(batch)]
    said = subprocess.run([*asked, "--steps", str(steps)], capture_output=True, text=True, check=True)
    return float(said.stdout)


def rise_mib(name: str, gradient: str, steps: int, batch: int) -> float:
    """How far the first step lifts this process."""
    network, given = built(name, gradient, steps), images(batch)
    before = status_mib("VmRSS")
    seconds(network, given)
    return status_mib("VmHWM") - before


def status_mib(key: str) -> float:
    """What Linux says of this process's memory; `ru_maxrss` would begin with that of whoever started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def measured(name: str, batch: int, steps: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """One row for each number of steps and gradient."""
    given = images(batch)
    kinds = [(gradient, of) for of in steps for gradient in GRADIENTS]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {kind: [] for kind in kinds}
    made = {kind: built(name, *kind) for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            found[kind].append(seconds(made[kind], given))
    for (gradient, of), times in found.items():
        forward_s, backward_s = (min(part) for part in zip(*times[1:], strict=True))
        network = made[gradient, of]
        yield {
            "gradient": gradient, "steps": of,
            "cold_s": sum(times[0]), "forward_s": forward_s, "backward_s": backward_s,
            "kept_mib": kept_mib(lambda network=network: loss_of(network, given)),  # type: ignore[misc]
            "peak_mib": peak_mib(name, gradient, of, batch),
        }  # fmt: skip


COLUMNS: Mapping[str, str] = {
    "forward_s": "forward s", "backward_s": "backward s", "cold_s": "cold s", "kept_mib": "kept MiB",
    "peak_mib": "peak MiB",
}  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Numbers, and in brackets their ratio to the same gradient's with the fewest steps."""
    first = {row["gradient"]: row for row in reversed(rows)}
    lines = ["| gradient | T | " + " | ".join(COLUMNS.values()) + " |", "|---|---:|" + "---:|" * len(COLUMNS)]
    for row in sorted(rows, key=lambda row: (row["gradient"] == "bptt", row["steps"])):
        base = first[row["gradient"]]
        cells = (f"{row[name]:.3g} ({row[name] / max(base[name], 1e-9):.2f})" for name in COLUMNS)
        lines.append(f"| {row['gradient']} | {row['steps']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="lif_resnet18", choices=("lif", "lif_resnet18"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rise", choices=GRADIENTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.rise:
        print(rise_mib(asked.network, asked.rise, asked.steps[0], asked.batch))
        return
    print(f"{sentence()}\n{asked.network}, batch of {asked.batch}\n")
    rows = list(measured(asked.network, asked.batch, asked.steps, asked.rounds))
    print(table(rows))
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
