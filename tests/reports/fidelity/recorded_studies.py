"""Studies whose teachers and students have left answers and maps that tests choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.records import recorded_files as files
from akdtune.records.files import trial_directory
from akdtune.records.recorded_files import Maps
from tests.study_fixture import StudyBuilder

IMAGES, CLASSES, MAPPED, MAP, SIZE = 40, 4, 12, 3, 6
IDS_N = 100 + np.arange(IMAGES)
LABELS_N = np.arange(IMAGES) % CLASSES


@dataclass(frozen=True)
class Network:
    """Answers to all images, and maps of the first."""

    logits_NK: np.ndarray[Any, Any]
    maps_Nhw: np.ndarray[Any, Any]

    @property
    def maps(self) -> Maps:
        return Maps(self.maps_Nhw, -self.maps_Nhw)

    def near(self, seed: int, noise: float) -> Network:
        """A network that says much the same."""
        rng = np.random.default_rng(seed)
        logits_NK = self.logits_NK + noise * rng.normal(size=self.logits_NK.shape)
        maps_Nhw = self.maps_Nhw + noise * rng.normal(size=self.maps_Nhw.shape)
        return Network(logits_NK.astype(np.float16).astype(np.float32), maps_Nhw.astype(np.float16))


def some_network(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    logits_NK = 3 * np.eye(CLASSES)[LABELS_N] + rng.normal(size=(IMAGES, CLASSES))
    maps_Nhw = rng.normal(size=(MAPPED, MAP, MAP))
    return Network(logits_NK.astype(np.float16).astype(np.float32), maps_Nhw.astype(np.float16))


class RecordedStudy:
    """Two teachers, of which the second is as far from the first as `apart` says, and students of both."""

    def __init__(self, path: Path, apart: float = 0.5) -> None:
        self.builder = StudyBuilder(path)
        self.teachers = [some_network(0), some_network(0).near(1, apart)]
        self.students: dict[str, Network] = {}

    def teach(self, cell: str, seeds: Sequence[int] = (1, 2, 3), noise: float = 0.5, **settings: Any) -> list[str]:
        """Adds a cell of finished students near the first teacher; returns their trials."""
        trials = []
        for seed in seeds:
            network = self.teachers[0].near(10 + seed, noise)
            right = 100 * float((network.logits_NK.argmax(1) == LABELS_N).mean())
            trial = self.builder.add(
                "none/kd", right, None, role="ablation", cell=f"c-{cell}", seed=seed,
                train_accuracy=right + 4.0, plain_train_accuracy=right + 10.0,
            )  # fmt: skip
            self.builder.plan[-1]["cell"] = cell
            self.builder.plan[-1]["settings"] |= settings
            self.leave(trial, network)
            trials.append(trial)
        return trials

    def leave(self, trial: str, network: Network, *, augmentation: str = "weak") -> None:
        """Writes what a trial leaves."""
        self.students[trial] = network
        folder = trial_directory(self.builder.path, trial)
        order = np.random.default_rng(0).permutation(IMAGES)
        files.write_trial_logits(
            folder / files.PREDICTIONS, IDS_N[order], LABELS_N[order], network.logits_NK[order].astype(np.float32)
        )
        files.write_trial_logits(
            folder / files.AUGMENTED, IDS_N, LABELS_N, np.roll(network.logits_NK, 1, axis=0), augmentation=augmentation
        )
        files.write_attention(
            folder / files.ATTENTION, IDS_N[:MAPPED], SIZE, {"student": network.maps, "view_1": self.teachers[0].maps}
        )

    def write(self, *, finished: bool = True) -> Path:
        run = self.builder.path
        logits = [teacher.logits_NK for teacher in self.teachers]
        files.write_teacher_logits(files.teacher_logits_file(run, "test"), IDS_N, LABELS_N, logits)
        files.write_teacher_logits(
            files.teacher_augmented_file(run, "weak", "test"), IDS_N, LABELS_N,
            [np.roll(logits_NK, 1, axis=0) for logits_NK in logits], "weak",
        )  # fmt: skip
        maps = {f"teacher_{place}": teacher.maps for place, teacher in enumerate(self.teachers)}
        files.write_attention(files.teacher_attention_file(run, "test"), IDS_N[:MAPPED], SIZE, maps)
        return self.builder.write(finished=finished)


def three_pairs(tmp_path: Path) -> list[Path]:
    """Studies whose teachers are ever further apart, and whose students say ever less what the teachers say."""
    runs = []
    for place, apart in enumerate((0.1, 0.6, 2.0)):
        study = RecordedStudy(tmp_path / f"pair_{place}", apart)
        study.teach("weak", noise=0.3 + apart)
        study.teach("strong", noise=0.5 + apart)
        runs.append(study.write())
    return runs
