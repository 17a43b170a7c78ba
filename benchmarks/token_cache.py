"""What is kept of a teacher of tokens: its last hidden states, or compressed logits: size, and what is lost.

The cache keeps the last hidden state of each token in float16 and rebuilds logits by the teacher's head, which the
student's side has anyway. Toolkits that distil offline (DistillKit, EasyDistill) keep the k largest logits instead.
Here the k = 64 largest log-probabilities in float16 with their numbers, and the probability of all others as one
bucket, which is spread evenly when it is read. Both are compared with the exact float32 distribution of the same
teacher, on held-out tokens: KL(exact || kept) in nats, and the change of the largest class.

Two teachers are trained here, for some steps: of characters (the packaged study's size), and of pairs of characters,
whose vocabulary is some thousands. A third row of each is the size for the widths of published models, computed.

    python benchmarks/token_cache.py [--steps N] [--json FILE]
"""

# Shapes: N held-out tokens, C width of the hidden state, K tokens known, T largest kept.

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import sentence
from torch import Tensor
from torch.nn import functional

from akdtune import networks
from akdtune.data.windows import Texts, WindowData, WindowSplit, cut
from akdtune.settings.data import data_settings

KEPT = 64
PUBLISHED = {
    "GPT-2 (small)": (768, 50_257),
    "Pythia 1.4B": (2048, 50_304),
    "Llama 3 8B": (4096, 128_256),
}
CPU = torch.device("cpu")


def text(pairs: bool) -> WindowData:
    """Python's help, one character a token or two."""
    from pydoc_data.topics import topics

    points = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode("utf-32-le"), np.uint32)
    if pairs:
        points = points[: len(points) // 2 * 2].reshape(-1, 2).astype(np.uint64) @ np.array([1 << 32, 1], np.uint64)
    known, ids_T = np.unique(points, return_inverse=True)
    windows = cut(ids_T.astype(np.int64), 64)
    texts = Texts(windows.some(slice(-100)), windows.some(slice(-100, None)), len(known))
    return WindowData(data_settings({"name": "python_docs", "validation": 0}), texts, CPU)


def trained(data: WindowData, steps: int) -> networks.Network:
    """A small target after some steps."""
    train = data.split("full").train
    settings = {"name": "transformer", "width": 96, "layers": 3, "heads": 4}
    network = networks.build(settings, data.inputs, 0).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    epoch, done = 0, 0
    while done < steps:
        epoch += 1
        for loaded in train.epoch(0, epoch, 16):
            loss = functional.cross_entropy(network(loaded.inputs).logits_BK, train.labels_N[loaded.positions_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    return network.eval()


@torch.no_grad()
def compared(network: networks.Network, split: WindowSplit) -> list[dict[str, Any]]:
    """What each form keeps, of the same tokens."""
    _, inputs = split.sample(split.items)
    said = network(inputs)
    exact_NK = torch.log_softmax(said.logits_BK.double(), dim=-1)
    width, classes = said.pooled_BC.shape[1], exact_NK.shape[1]
    rows = []
    for name, half in (("hidden state, float16", True), ("hidden state, float32", False)):
        started = time.perf_counter()
        kept_NC = said.pooled_BC.half().float() if half else said.pooled_BC
        logits_NK = functional.linear(kept_NC, *network.classifier())
        seconds = time.perf_counter() - started
        loss = lost(exact_NK, torch.log_softmax(logits_NK.double(), dim=-1))
        rows.append({"kept": name, "bytes": width * (2 if half else 4), "seconds": seconds, **loss})
    for top in (8, KEPT):
        if top < classes:
            started = time.perf_counter()
            kept_NK = from_top(*exact_NK.topk(top), classes)
            seconds = time.perf_counter() - started
            rows.append({"kept": f"{top} largest and a bucket", "bytes": of_top(top, classes), "seconds": seconds}
                        | lost(exact_NK, kept_NK))  # fmt: skip
    return rows


def of_top(top: int, classes: int) -> int:
    """Bytes of a token: numbers of two or four bytes, log-probabilities and the bucket of two."""
    return top * (2 + (2 if classes <= 1 << 16 else 4)) + 2


def from_top(log_p_NT: Tensor, classes_NT: Tensor, classes: int) -> Tensor:
    """The distribution that is read: the largest as kept in float16, the rest of the probability spread evenly."""
    largest_NT = log_p_NT.half().double()
    rest_N1 = (1 - largest_NT.exp().sum(dim=1, keepdim=True)).clamp(min=1e-7).half().double().clamp(min=1e-7)
    even_N1 = (rest_N1 / (classes - log_p_NT.shape[1])).log()
    kept_NK = even_N1.expand(-1, classes).scatter(1, classes_NT, largest_NT)
    return torch.log_softmax(kept_NK, dim=-1)


def lost(exact_NK: Tensor, kept_NK: Tensor) -> dict[str, float]:
    """KL(exact || kept) over tokens in nats, and tokens whose largest class is another, in percent."""
    kl_N = (exact_NK.exp() * (exact_NK - kept_NK)).sum(dim=1)
    changed = (exact_NK.argmax(dim=1) != kept_NK.argmax(dim=1)).double().mean()
    return {"kl": float(kl_N.mean()), "kl_most": float(kl_N.max()), "changed": 100 * float(changed)}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of each teacher")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(sentence())
    found: dict[str, Any] = {}
    for name, pairs in (("characters", False), ("pairs of characters", True)):
        data = text(pairs)
        network = trained(data, asked.steps)
        rows = compared(network, data.split("full").test)
        found[name] = {"classes": data.num_classes, "rows": rows}
        print(f"\n{name}: {data.num_classes:,} tokens known, hidden states of {network.pooled_dim}")
        for row in rows:
            print(f"  {row['kept']:26}{row['bytes']:6,} bytes  KL {row['kl']:.1e}, at most {row['kl_most']:.1e} nats,"
                  f" largest class changed {row['changed']:.2f} %")  # fmt: skip
    print(
        "\nsizes for published widths, bytes a token: hidden state in float16, 64 largest and a bucket, all in float16"
    )
    for name, (width, classes) in PUBLISHED.items():
        print(f"  {name:16}{2 * width:7,}{of_top(KEPT, classes):7,}{2 * classes:9,}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
