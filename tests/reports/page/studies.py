"""Studies that pages are made of in tests."""

from __future__ import annotations

from pathlib import Path

from akdtune.records.files import EPOCHS, read_rows, trial_directory, write_rows
from tests.study_fixture import StudyBuilder

HOSTILE = (
    "<script>alert(1)</script>", "</style><b>", "\"'onload=alert(1) x='", "a&amp;b", "</title><svg/onload=x>",
    "日本語 \u202e evil", "[x](javascript:alert(1))", "{{ 7*7 }}", "`#` *b* |",
)  # fmt: skip


def write_curves(study: StudyBuilder, trial: str, values: list[float | None], **columns: float | None) -> None:
    path = trial_directory(study.path, trial) / EPOCHS
    first = read_rows(path)[0]
    rows = [{**first, "epoch": epoch, "val_accuracy": value, **columns} for epoch, value in enumerate(values, 1)]
    write_rows(path, rows)


def searched(path: Path, arms: tuple[str, ...] = ("angular/kd", "tekap/kd", "none/kd")) -> StudyBuilder:
    """Twelve search trials an arm with two settings, one of each pruned at a rung, and as many probes of the first."""
    study = StudyBuilder(path)
    for place, arm in enumerate(arms):
        for number in range(12):
            pruned = number == 3
            settings = {"views.margin": 0.1 + 0.03 * number, "method.kd.weight": 2.0 ** (number % 5)}
            trial = study.add(
                arm, 60.0 + place + number % 5, 0.1 * number if place < 2 else None, role="search", params=settings,
                status="pruned" if pruned else "done", inter_cosine=0.5, teacher_cosine=0.0, gate_open_train=0.25,
            )  # fmt: skip
            decision = "STOP" if pruned else "CONTINUE"
            study.event(
                "rung", trial, epoch=1, rung=1, value=50.0 + number, cutoff=51.0, decision=decision, bracket=arm
            )
    study.add_many(arms[0], [(0.1 * n, 60.0 + n % 7) for n in range(12)], params={"views.margin": 0.2})
    study.lock = {
        "akdtune": "0.1.0", "command": "/home/ada/venv/bin/akdtune run /home/ada/x.yaml 'a.b={c: 1}'",
        "settings": {
            "study": "small", "data": {"name": "digits"}, "training": {"epochs": 2},
            "search": {"algorithm": "tpe", "objectives": ["accuracy"]}, "scheduler": {"name": "asha"},
            "views": {"name": "angular", "margin": {"uniform": [0.1, 0.6]}},
        },
    }  # fmt: skip
    return study


def ablated(path: Path, cells: tuple[str, ...] = ("base", "inter=false", "plain")) -> StudyBuilder:
    study = StudyBuilder(path)
    for place, name in enumerate(cells):
        role = "control" if place == 2 else None
        study.cell(
            name, [70.0 - place, 71.5 - 2 * place, 72.0 - place], role=role, explanation="what views add" * bool(role)
        )
    study.design["ablation"] |= {"design": "leave_one_out", "reference": cells[0], "equivalence_margin": 0.3}
    return study
