"""Every method and every view on tokens: one step runs and is finite, or the study is refused, naming both."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from akdtune.errors import AkdtuneError, SettingsError
from akdtune.methods.crd import CRD
from akdtune.registry import lookup, names
from akdtune.study import spec
from akdtune.training.trial import Trial
from tests.small_texts import DRAFT, SUMS, TEACHER, configured

SEARCH: dict[str, Any] = {"search": {"algorithm": "grid", "seeds": [0]}, "scheduler": {"name": "none"}}
SETTINGS: dict[str, dict[str, Any]] = {"angular": {"variant": "constrained", "num_views": 3, "warmup_epochs": 1}}


def one_step(view: dict[str, Any], methods: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    trial = Trial(configured(view, methods, others=1, batch_size=4))
    trial.student.train()
    trial.objective.train()
    step = next(iter(trial._batches("student", 1, lambda: False)))
    return trial._student_step(step)


def read(study: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(yaml.safe_dump(study))
        spec.load(str(file))


def refusal(method: str, view: str = "none", **data: Any) -> str:
    """What reading a study says; empty where it is taken."""
    study = {
        "study": "tokens",
        "task": "language",
        "data": {**SUMS, **data},
        "teacher": {**TEACHER, "others": [{**TEACHER, "network": DRAFT}]},
        "student": {"network": DRAFT},
        "views": {"name": view, **SETTINGS.get(view, {})},
        "method": method,
        "training": {"epochs": 1, "batch_size": 4},
        **SEARCH,
    }
    try:
        read(study)
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("view", ["none", "tekap"])
def test_every_method(view: str) -> None:
    ran = []
    for method in names("methods"):
        said = refusal(method, view)
        if said:
            component = lookup("methods", method)
            views_idle = view != "none" and component.consumes in ("stages", "self")
            wants_more = bool(component.needs) or component.overlaps_batches
            assert views_idle or wants_more, (method, said)
            assert f"'{method}'" in said
            continue
        for name, value in one_step({"name": view}, [{"name": method}]).items():
            assert torch.isfinite(value), (method, name)
        ran.append(method)
    assert {"kd", "dkd", "nkd", "dist", "ctkd", "pld", "crd", "rkd", "pkt"} <= set(ran)


def test_every_view() -> None:
    ran = []
    for view in names("views"):
        if said := refusal("kd", view):
            assert f"'{view}'" in said
            continue
        for name, value in one_step({"name": view, **SETTINGS.get(view, {})}, [{"name": "kd"}]).items():
            assert torch.isfinite(value), (view, name)
        ran.append(view)
    assert {"none", "tekap", "angular", "dropout", "random", "sakd_style", "multi_teacher"} <= set(ran)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"student": {"network": {"name": "cnn"}}}, "the network 'cnn' takes images, and the task 'language'"),
        ({"data": {"name": "digits", "validation": 60}}, "the data set 'digits' holds images, and the task 'language'"),
        ({"teacher": {"network": "none"}}, "the task 'language' judges a student beside its teacher, by acceptance"),
        ({"method": "rkd", "training": {"epochs": 1, "batch_size": 16}}, "'rkd' compares all triples of a batch"),
        ({"method": "sp"}, "'sp' cannot work with the task 'language': it needs"),
        ({"record": {"features": 10}}, "which the task 'language' has too many of"),
    ],
)  # fmt: skip
def test_partners_that_do_not_fit(section: dict[str, Any], message: str) -> None:
    study = {
        "study": "tokens", "task": "language", "data": SUMS, "teacher": TEACHER, "student": {"network": DRAFT},
        "views": "none", "method": "kd", "training": {"epochs": 1, "batch_size": 4}, **SEARCH, **section,
    }  # fmt: skip
    with pytest.raises(SettingsError, match=message):
        read(study)


def test_views_of_more_logits_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akdtune.tasks.language.VIEWS_MIB", 0.01)
    said = refusal("kd", "tekap")
    assert "'tekap' makes 3 versions of the logits of 96 tokens, each over 14" in said
    assert "lower views.number (or views.level: feature), training.batch_size or data.window" in said
    assert not refusal("kd")


def test_rkd_on_few_enough_tokens() -> None:
    assert not refusal("rkd", window=24)
    assert "now 4, or data.window, now 96" in refusal("rkd", window=96)


def test_banks_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akdtune.methods.crd.BANKS_MIB", 1)
    with pytest.raises(AkdtuneError, match=r"its banks of 2,000 rows would take 2 MiB \(allowed: 1\): lower"):
        CRD.alone(num_classes=10, train_labels_N=torch.arange(2000) % 10)
