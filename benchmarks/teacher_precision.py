"""What a teacher says in bfloat16 against what it says in float32, and what each costs, on the images of a study.

    python benchmarks/teacher_precision.py [STUDY [key=value ...]] [--images N]

The training images of a first epoch pass in the crops that this epoch has. Agreement is the share of images
with the same largest logit; KL is that of the probabilities in bfloat16 from those in float32, mean over the images.
Beside it stands what plain autocast gives, which converts the weights at every batch, and what the cache's rounding to
half precision does alone. The default study is digits_angular; its teacher must be trained
(`akdtune teacher train STUDY`), or a file (`teacher.checkpoint=FILE`).
"""

# Shapes: B batch, N images, K classes.

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

import torch
from machine import sentence
from torch import Tensor
from torch.nn import functional

from akdtune import networks
from akdtune.data.dataset import DataSet, load_data
from akdtune.data.splits import Split
from akdtune.networks import Network
from akdtune.planning.prepared import network_label
from akdtune.registry import load_plugins
from akdtune.roles import TrainOn
from akdtune.signals import Signals
from akdtune.study import spec
from akdtune.study.spec import Study
from akdtune.teacher.asked import Asked, asked
from akdtune.teacher.find import find_teacher, load_teacher

CPU = torch.device("cpu")
BATCH = 64
TEMPERATURES = (1.0, 4.0)
TRAIN_ON: Sequence[TrainOn] = get_args(TrainOn)


def in_autocast(network: Network) -> Asked:
    """The network as it is, under autocast."""

    def ask(images_BCHW: Tensor, stages: bool = False) -> Signals:
        with torch.autocast("cpu", torch.bfloat16):
            said: Signals = network(images_BCHW, stages)
        return said.in_float32()

    return ask


def rounded(network: Network) -> Asked:
    """The network in float32, its feature rounded to half precision as the cache keeps it."""

    def ask(images_BCHW: Tensor, stages: bool = False) -> Signals:
        pooled_BC = network(images_BCHW, stages).pooled_BC.half().float()
        return Signals(functional.linear(pooled_BC, *network.classifier()), pooled_BC)

    return ask


def kl(exact_NK: Tensor, given_NK: Tensor, temperature: float) -> float:
    """Mean KL divergence in nats of one from the other."""
    exact, given = (torch.log_softmax(logits.double() / temperature, dim=1) for logits in (exact_NK, given_NK))
    return float((exact.exp() * (exact - given)).sum(dim=1).mean())


@torch.no_grad()
def answers(ways: Mapping[str, Asked], batches: Iterable[Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Logits [N, K] by way, and median CPU ms of a batch after the first, all ways in turn on every batch."""
    said: dict[str, list[Tensor]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for images_BCHW in batches:
        for name, ask in ways.items():
            started = time.process_time()
            said[name].append(ask(images_BCHW).logits_BK)
            times[name].append(1000 * (time.process_time() - started))
    costs = {name: statistics.median(of_way[1:] or of_way) for name, of_way in times.items()}
    return {name: torch.cat(parts) for name, parts in said.items()}, costs


def first_epoch(split: Split, layout: torch.memory_format, most: int) -> Iterator[Tensor]:
    """The training images of a first epoch in full batches, at most so many."""
    for loaded in split.epoch(0, 1, BATCH):
        assert loaded.inputs is not None
        if most < BATCH or len(loaded.inputs) < BATCH:
            return
        most -= BATCH
        yield loaded.inputs.contiguous(memory_format=layout)


def trained_teacher(study: Study, dataset: DataSet) -> tuple[Network, Split]:
    """The study's teacher, and the images that it was trained on."""
    for train_on in TRAIN_ON:
        file = find_teacher(study.teacher, dataset, train_on)
        if file is not None:
            print(f"{study.name}: {network_label(file.network)} on {study.data.name}, test {file.test_accuracy:.1f} %")
            return load_teacher(file, dataset.inputs, CPU), dataset.split(train_on).train
    raise SystemExit(f"{study.source}: the teacher is not trained yet: akdtune teacher train {study.source}")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="digits_angular", help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--images", type=int, default=10_000, help="at most (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(sentence())
    study = spec.load(arguments.study, arguments.overrides)
    load_plugins(study.plugins)
    dataset = load_data(study.data, CPU)
    network, split = trained_teacher(study, dataset)
    ways = {"float32": network, "bf16": asked(network, "bf16"), "autocast": in_autocast(network)}
    ways["fp16 rows"] = rounded(network)
    said, costs = answers(ways, first_epoch(split, networks.layout(network), arguments.images))
    exact_NK = said["float32"]
    print(f"{len(exact_NK):,} images, logits up to {float(exact_NK.abs().max()):.1f}, batches of {BATCH}")
    heads = [f"KL at T={temperature:g}" for temperature in TEMPERATURES]
    print(f"{'way':<11}{'CPU ms':>8}{'agreement':>12}{heads[0]:>12}{heads[1]:>12}{'largest difference':>20}")
    for name, logits_NK in said.items():
        agreement = 100 * float((logits_NK.argmax(dim=1) == exact_NK.argmax(dim=1)).double().mean())
        divergences = "".join(f"{kl(exact_NK, logits_NK, temperature):>12.1e}" for temperature in TEMPERATURES)
        largest = float((logits_NK - exact_NK).abs().max())
        print(f"{name:<11}{costs[name]:>8.1f}{agreement:>10.2f} %{divergences}{largest:>20.3f}")


if __name__ == "__main__":
    main()
