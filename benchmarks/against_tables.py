"""What `against_tune.py` found: rows of both sides, what follows for a search of CIFAR's size, and the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from process_tree import ENDING_S, Used
from trial_speed import BATCH, IMAGES

TARGETS = {"kd": 3.0, "angular_kd": 3.0, "angular_kd_crd": 6.0}
SIDES = ("cold", "plain", "warm")
"""In the order of a round: plain stands between, so that what slows the machine down meets both."""

AUTOCAST = "plain, autocast"
VARIANTS = 162
"""Crops of an image: 9 x 9 places, mirrored or not."""

PAPER_EPOCHS = 240


class Run(NamedTuple):
    """What one side did with one search.

    Attributes:
        used: by all its processes.
        epochs: that students were trained, those trained twice counted twice.
        steps_s: CPU seconds of the threads that trained students and view heads; the rest of `used` is start-up,
            evaluation, tracking, checkpoints, reports.
        warmups: epochs that view heads alone were trained.
        again: student epochs that were trained before.
        files, mib: in the study's folder.
        beside_mib: in Ray's folder, or in the cache (teacher and data not counted).
    """

    used: Used
    epochs: int
    steps_s: float
    warmups: int
    again: int
    files: int
    mib: float
    beside_mib: float


def named(side: str, precision: str) -> str:
    """A side as the tables name it; the plain step is float32 as published, unless it runs under autocast."""
    if side == "plain":
        return side if precision == "fp32" else AUTOCAST
    return f"{precision} {side}"


def rows_of(setting: str, runs: Mapping[tuple[str, str], Sequence[Run]]) -> list[dict[str, Any]]:
    """A row for each side: means over the rounds, and how many times more the plain side took, whole and by epoch.

    Args:
        setting: what was searched.
        runs: of each (side, precision); without (`plain`, `fp32`) there are no ratios.
    """

    def mean(of_side: Sequence[Run], name: str) -> float:
        values = [getattr(run.used if hasattr(run.used, name) else run, name) for run in of_side]
        return float(sum(values)) / len(values)

    rows: list[dict[str, Any]] = [
        {
            "setting": setting, "precision": precision, "side": side, "rounds": len(of_side),
            **{name: mean(of_side, name) for name in (*Used.__dataclass_fields__, *Run._fields[1:])},
        }
        for (side, precision), of_side in runs.items()
    ]  # fmt: skip
    plain = next((row for row in rows if named(row["side"], row["precision"]) == "plain"), None)
    for row in rows:
        row["ratio"] = row["ratio_by_epoch"] = None
        if plain is not None:
            row["ratio"] = plain["cpu_s"] / row["cpu_s"]
            row["ratio_by_epoch"] = row["ratio"] * row["epochs"] / plain["epochs"]
    return rows


def scaled(rows: Sequence[Mapping[str, Any]], steps: Mapping[str, float], precision: str) -> dict[str, float]:
    """Ratios of the same search over 240 epochs of CIFAR's 50,000 images, from what steps and all the rest cost.

    What a study costs beside its steps is taken as it is here, and so is the share of epochs that ASHA leaves. Cold,
    every crop that occurs is computed once: all trials of a seed draw the same ones.

    Args:
        rows: of one setting, the plain side among them.
        steps: ms of a step by mode, at CIFAR's size.
        precision: of ours.
    """
    ours = [row for row in rows if row["side"] != "plain" and row["precision"] == precision]
    plain = next(row for row in rows if named(row["side"], row["precision"]) == "plain")
    share = sum(row["epochs"] for row in rows) / sum(row["trials"] * row["epochs_each"] for row in rows)
    per_epoch = math.ceil(IMAGES / BATCH)
    steps_there = share * plain["trials"] * PAPER_EPOCHS * per_epoch
    beside_s = min(row["cpu_s"] - row["steps_s"] for row in ours)
    plain_s = plain["cpu_s"] - plain["steps_s"] + steps_there * steps["reference"] / 1000
    warm_ms = steps[f"warm_{precision}"]
    warm_s = beside_s + steps_there * warm_ms / 1000
    crops = VARIANTS * (1 - (1 - 1 / VARIANTS) ** PAPER_EPOCHS)
    cold_s = warm_s + crops * per_epoch * max(0.0, steps[f"cold_{precision}"] - warm_ms) / 1000
    return {"cold": plain_s / cold_s, "warm": plain_s / warm_s}


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The tables of one setting; CPU seconds of all processes, memory as a sum of proportional sets."""
    head = f"{'CPU s':>8}{'of steps':>10}{'epochs':>8}{'CPU s/epoch':>13}{'times':>7}{'whole':>7}{'wall s':>9}"
    print(f"\n{title}\n{'':<16}{head}")
    for row in rows:
        ratios = "".join(
            f"{'-' if row[name] is None else f'{row[name]:.2f}':>7}" for name in ("ratio_by_epoch", "ratio")
        )
        print(
            f"{named(row['side'], row['precision']):<16}{row['cpu_s']:>8.1f}{row['steps_s']:>10.1f}"
            f"{row['epochs']:>8.1f}{row['cpu_s'] / row['epochs']:>13.2f}{ratios}{row['wall_s']:>9.1f}"
        )
    print("times: of the CPU seconds an epoch (the target's); whole: of the whole search")
    print(f"\n{'':<16}{'peak MiB':>10}{'processes':>11}{'files left':>12}{'MiB left':>10}{'MiB beside':>12}")
    for row in rows:
        print(
            f"{named(row['side'], row['precision']):<16}{row['peak_mib']:>10.0f}{row['processes']:>11.0f}"
            f"{row['files']:>12.0f}{row['mib']:>10.1f}{row['beside_mib']:>12.1f}"
        )


def print_scaled(rows: Sequence[Mapping[str, Any]], steps: Mapping[str, float]) -> None:
    """What follows for a search of CIFAR's size, against the step as published and under autocast."""
    print(f"\ncomputed, {PAPER_EPOCHS} epochs of {IMAGES:,} images: steps there, and all else as it was here")
    print("steps: " + ", ".join(f"{mode.replace('_', ' ')} {ms:.0f} ms" for mode, ms in steps.items()))
    precisions = dict.fromkeys(row["precision"] for row in rows if row["side"] != "plain")
    for precision in precisions:
        found = scaled(rows, steps, precision)
        line = f"  {precision}: {found['cold']:.2f} cold, {found['warm']:.2f} warm"
        if precision == "bf16" and "autocast" in steps:
            found = scaled(rows, {**steps, "reference": steps["autocast"]}, precision)
            line += f" ({found['cold']:.2f} and {found['warm']:.2f} against autocast)"
        print(line)


def print_killed(killed: Sequence[Mapping[str, Any]]) -> None:
    """What survived kill -9 of the driver."""
    print(f"\nkill -9 of the driver in the middle, then Tuner.restore / the same command\n{'':<31}"
          f"{'epochs':>8}{'trials':>8}{'known':>7}{'trained':>9}{'left':>6}{'CPU s':>9}\n{'':<31}{'by then':>8}"
          f"{'ended':>8}{'after':>7}{'again':>9}{'over':>6}{'after':>9}")  # fmt: skip
    for row in killed:
        print(
            f"{row['setting']:<15}{named(row['side'], row['precision']):<16}{row['epochs_at_kill']:>8}{row['ended']:>8}"
            f"{row['known']:>7}{row['again']:>9}{row['processes_left']:>6}{row['cpu_s_after']:>9.1f}"
        )
    print(f"left over: processes that still ran {ENDING_S:g} s after the kill")


def missed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Targets that were not reached: of CPU seconds an epoch, because what ASHA stops depends on who arrives first."""
    return [
        f"{row['setting']} {named(row['side'], row['precision'])}: {row['ratio_by_epoch']:.2f} "
        f"(at least {TARGETS[row['setting']]:g})"
        for row in rows
        if row["side"] != "plain" and row["ratio_by_epoch"] is not None
        and row["ratio_by_epoch"] < TARGETS[row["setting"]]
    ]  # fmt: skip
