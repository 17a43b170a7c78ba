"""What is measured on real images before cells train takes every method, view and control, through real networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from akdtune import networks
from akdtune.data.dataset import DataSet
from akdtune.designs.cells import Cell, control_cell
from akdtune.designs.controls import NAMES as CONTROLS
from akdtune.errors import AkdtuneError
from akdtune.methods import Method
from akdtune.planning.measured_targets import Sample, Taught, taught
from akdtune.registry import lookup, names, network_name
from akdtune.settings.trial import trial_settings
from akdtune.signals import InputSpec
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.parts import build_parts
from akdtune.training.request import TrialRequest

INPUTS = InputSpec(1, 8, 10)
IMAGES = 12
CNN = {"name": "cnn", "widths": [4, 8, 8]}
TEACHERS = [{"network": CNN}, {"network": {"name": "cnn", "widths": [4, 6, 12]}}]
STUDY = {
    "data": {"name": "digits", "validation": 300},
    "teacher": {**TEACHERS[0], "others": TEACHERS[1:]},
}
SPIKING = {"name": "lif", "widths": [8, 6], "threshold": 0.1, "branches": 1}
STUDENTS: list[Any] = [{"name": "cnn", "widths": [2, 4, 6]}, "resnet8", "wrn_16_1", "vgg8", SPIKING]


@cache
def components() -> dict[str, type[Method]]:
    return {name: lookup("methods", name) for name in names("methods")}


def of_each_need() -> dict[tuple[str, frozenset[str]], str]:
    """One method of each pair of what it consumes and what it needs."""
    return {(component.consumes, frozenset(component.needs)): name for name, component in components().items()}


def cell(views: str, methods: list[str], student: Any = STUDENTS[0]) -> Cell | None:
    """A cell with default settings; None where the three cannot work together."""
    of_views = {"name": views, "of": {"name": "tekap"}} if views == "matched" else {"name": views}
    written = {
        "views": of_views,
        "method": [{"name": name} for name in methods],
        "student": {"network": student},
        "training": {"epochs": 30, "milestones": [20]},
    }
    settings, issues = trial_settings(written, STUDY)
    return None if issues else Cell("base", "ablation", views, {**STUDY, **settings})


@cache
def sample() -> Sample:
    """Random images, and teachers as sure of them as trained ones."""
    torch.manual_seed(0)
    teachers = [networks.build(teacher["network"], INPUTS, seed).eval() for seed, teacher in enumerate(TEACHERS)]
    with torch.no_grad():
        teachers[0].classifier()[0].mul_(30)
    positions_B = torch.arange(IMAGES)
    return Sample(torch.randn(IMAGES, 1, 8, 8), positions_B % 10, positions_B, teachers)


def measured(of: Cell) -> Taught:
    file = TeacherFile("", "", "", CNN, None, None, False)
    config = TrialConfig.parse(TrialRequest(settings=of.settings, role=of.role, teacher_file=file))
    labels_N = torch.arange(40) % 10
    data = cast(DataSet, SimpleNamespace(inputs=INPUTS))
    objective, student = build_parts(config, sample().teachers[0], sample().teachers[1:], data, labels_N)
    return taught(objective, student, sample(), config.training.epochs)


def check(of: Cell) -> None:
    """Every method that reads views has a factor wherever the plain teacher pulls at the student."""
    given = measured(of)
    assert all(math.isfinite(factor) and factor >= 0 for factor in given.factors.values()), given.factors
    reading = {term["name"] for term in of.settings["method"] if components()[term["name"]].consumes in READ}
    measured_methods = {term.partition(".")[0] for term in given.factors}
    assert measured_methods <= reading
    if of.settings["views"]["name"] == "none":
        assert given.factors == {}
    else:
        assert measured_methods == reading
    for pull in given.pulls or ():
        assert {term.partition(".")[0] for term in pull} <= reading
        assert all(gradient_P.isfinite().all() for gradient_P in pull.values())


READ = ("logits", "pooled")


def test_each_need_stands_beside_each_other_one() -> None:
    needs = {need for component in components().values() for need in component.needs}
    assert needs == {"stages", "preact", "last_map", "strong", "answers"}
    assert {consumed for consumed, _ in of_each_need()} == {"logits", "pooled", "stages", "self"}


@pytest.mark.parametrize("views", names("views"))
def test_every_method_under_these_views(views: str) -> None:
    """Beside kd, as a sum asks the networks for what all of its methods need."""
    for name in components():
        if (built := cell(views, list(dict.fromkeys(["kd", name])))) is not None:
            check(built)


def controlled(views: str) -> Iterator[Cell]:
    for name in of_each_need().values():
        base = cell(views, list(dict.fromkeys(["kd", name])))
        for control in CONTROLS if base is not None else ():
            if control == "parameter_matched":  # differs in the student alone, and takes seconds to find it
                continue
            try:
                yield control_cell(control, base, STUDY)
            except AkdtuneError:  # makes no sense for this base
                continue


@pytest.mark.parametrize("views", [name for name in names("views") if not lookup("views", name).of_clients])
def test_every_control_of_every_need_under_these_views(views: str) -> None:
    seen: set[str] = set()
    for built in controlled(views):
        if (key := repr((built.settings["views"], built.settings["method"]))) not in seen:
            seen.add(key)
            check(built)
    assert seen


@pytest.mark.parametrize("student", STUDENTS, ids=network_name)
def test_every_need_through_real_networks(student: Any) -> None:
    """Networks of each family; maps that one lacks are refused before."""
    for name in of_each_need().values():
        if (built := cell("tekap", list(dict.fromkeys(["kd", name])), student)) is not None:
            check(built)
