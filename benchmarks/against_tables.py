"""What `against_tune.py` found: rows of both sides, what follows for a search of CIFAR's size, and the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from process_tree import Used
from trial_speed import BATCH, IMAGES

TARGETS = {"kd": 3.0, "angular_kd": 3.0, "angular_kd_crd": 6.0}
SIDES = ("cold", "plain", "warm")
"""In the order of a round: plain stands between, so that what slows the machine down meets both."""

VARIANTS = 162
"""Crops of an image: 9 x 9 places, mirrored or not."""

PAPER_EPOCHS = 240


class Run(NamedTuple):
    """What one side did with one search.

    Attributes:
        used: by all its processes.
        epochs: that students were trained, those trained twice counted twice.
        warmups: epochs that view heads alone were trained.
        again: student epochs that were trained before.
        files, mib: in the study's folder.
        beside_mib: in Ray's folder, or in the cache (teacher and data not counted).
    """

    used: Used
    epochs: int
    warmups: int
    again: int
    files: int
    mib: float
    beside_mib: float


def rows_of(setting: str, precision: str, runs: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """A row for each side: sums and means over the rounds, and how many times more the plain side took."""

    def mean(side: str, name: str) -> float:
        values = [getattr(run.used if hasattr(run.used, name) else run, name) for run in runs[side]]
        return float(sum(values)) / len(values)

    plain_s, plain_epochs = mean("plain", "cpu_s"), mean("plain", "epochs")
    return [
        {
            "setting": setting, "precision": precision, "side": side, "rounds": len(runs[side]),
            **{name: mean(side, name) for name in (*Used.__dataclass_fields__, *Run._fields[1:])},
            "ratio": plain_s / mean(side, "cpu_s"),
            "ratio_by_epoch": plain_s / plain_epochs * mean(side, "epochs") / mean(side, "cpu_s"),
        }
        for side in SIDES
    ]  # fmt: skip


def scaled(rows: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Ratios of the same search over 240 epochs of CIFAR's 50,000 images, from what steps and all the rest cost.

    What a study costs beside its steps is taken as it is here, and so is the share of epochs that ASHA leaves. Cold,
    every crop that occurs is computed once: all trials of a seed draw the same ones.
    """
    ms = {row["mode"].partition("_")[0]: row["cpu_ms_per_step"] for row in steps}
    by_side = {row["side"]: row for row in rows}
    share = sum(row["epochs"] for row in rows) / sum(row["trials"] * row["epochs_each"] for row in rows)
    steps_there = share * rows[0]["trials"] * PAPER_EPOCHS * math.ceil(IMAGES / BATCH)
    beside_s = {
        side: max(0.0, row["cpu_s"] - row["epochs"] * row["steps_each"] * ms.get(side, ms["reference"]) / 1000)
        for side, row in by_side.items()
    }
    plain_s = beside_s["plain"] + steps_there * ms["reference"] / 1000
    warm_s = beside_s["warm"] + steps_there * ms["warm"] / 1000
    crops = VARIANTS * (1 - (1 - 1 / VARIANTS) ** PAPER_EPOCHS)
    cold_s = warm_s + crops * math.ceil(IMAGES / BATCH) * max(0.0, ms["cold"] - ms["warm"]) / 1000
    return {"cold": plain_s / cold_s, "warm": plain_s / warm_s, **{f"step_{name}_ms": ms[name] for name in ms}} | {
        f"beside_{side}_s": of_side for side, of_side in beside_s.items() if side != "cold"
    }


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table; CPU seconds of all processes, memory as a sum of proportional sets."""
    print(
        f"\n{'setting':<15}{'':<6}{'side':<7}{'CPU s':>8}{'ratio':>7}{'wall s':>8}{'epochs':>8}{'CPU s/epoch':>13}"
        f"{'ratio':>7}{'peak MiB':>10}{'proc.':>7}{'files':>7}{'MiB':>7}{'beside':>8}"
    )
    for row in rows:
        by_epoch = row["cpu_s"] / row["epochs"]
        print(
            f"{row['setting']:<15}{row['precision']:<6}{row['side']:<7}{row['cpu_s']:>8.1f}{row['ratio']:>7.2f}"
            f"{row['wall_s']:>8.1f}{row['epochs']:>8.1f}{by_epoch:>13.2f}{row['ratio_by_epoch']:>7.2f}"
            f"{row['peak_mib']:>10.0f}{row['processes']:>7.0f}{row['files']:>7.0f}{row['mib']:>7.1f}"
            f"{row['beside_mib']:>8.1f}"
        )


def print_scaled(rows: Sequence[Mapping[str, Any]]) -> None:
    """What follows for a search of CIFAR's size."""
    print(
        f"\ncomputed: {PAPER_EPOCHS} epochs of {IMAGES:,} images, from steps there and what a study costs beside them"
    )
    for row in rows:
        if row["side"] == "plain":
            there = row["at_cifars_size"]
            numbers = ", ".join(f"{name.removesuffix('_ms')} {there[name]:.0f} ms" for name in there if "ms" in name)
            beside = f"beside steps: plain {there['beside_plain_s']:.0f} s, akdtune {there['beside_warm_s']:.0f} s"
            print(f"  {row['setting']} {row['precision']}: {there['cold']:.2f} cold, {there['warm']:.2f} warm")
            print(f"    ({numbers}; {beside})")


def print_killed(killed: Sequence[Mapping[str, Any]]) -> None:
    """What survived kill -9 of the driver."""
    print("\nkill -9 of the driver in the middle, then Tuner.restore / the same command")
    for row in killed:
        print(
            f"  {row['side']:<6} {row['epochs_at_kill']} epochs trained and {row['ended']} trials ended by then; "
            f"{row['known']} known after, {row['again']} epochs trained again; "
            f"{row['processes_left']} processes left after 10 s"
        )


def missed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Targets that were not reached."""
    return [
        f"{row['setting']} {row['precision']} {row['side']}: {row['ratio']:.2f} (at least {TARGETS[row['setting']]:g})"
        for row in rows
        if row["side"] != "plain" and row["ratio"] < TARGETS[row["setting"]]
    ]
