"""What arms are called: by the settings that tell those alike apart, while all that is drawn stays what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from akdtune.randomness import derived_seed
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study

STUDY = """\
study: alike
data: {name: digits, validation: 300}
teacher: {network: {name: cnn, widths: [4, 4]}, epochs: 2}
student: {network: resnet8}
views: none
method: kd
training: {epochs: 4}
search: {algorithm: random, trials: 6}
"""


def study_of(folder: Path, *overrides: str) -> Study:
    file = folder / "alike.yaml"
    file.write_text(STUDY)
    return spec.load(file, overrides)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("method={choice: [kd, {name: kd, weight: 2}, dkd]}", ["none/kd", "none/kd[weight=2]", "none/dkd"]),
        ("method={choice: [{name: kd, weight: 1.5}, {name: kd, temperature: 2}, kd]}",
         ["none/kd[weight=1.5]", "none/kd[temperature=2]", "none/kd"]),
        ("method={choice: [{name: kd, temperature: 2, weight: 2}, {name: kd, temperature: 4, weight: 1}]}",
         ["none/kd[weight=2,temperature=2]", "none/kd[weight=1,temperature=4]"]),
        # ranges: their ends, and their kind where only that differs
        ("method={choice: [{name: kd, weight: {uniform: [0.1, 4]}}, {name: kd, weight: {uniform: [0.1, 8]}}]}",
         ["none/kd[weight=0.1..4]", "none/kd[weight=0.1..8]"]),
        ("method={choice: [{name: kd, weight: {uniform: [0.1, 4]}}, {name: kd, weight: {log_uniform: [0.1, 4]}}]}",
         ["none/kd[weight=uniform(0.1, 4)]", "none/kd[weight=log_uniform(0.1, 4)]"]),
        ("method={choice: [{name: kd, weight: 2}, {name: kd, weight: {choice: [1, 2]}}]}",
         ["none/kd[weight=2]", "none/kd[weight=1|2]"]),
        # each text in the brackets of its own component
        ("method={choice: [[{name: kd, weight: 2}, crd], [kd, {name: crd, weight: 3}]]}",
         ["none/kd[weight=2]+crd", "none/kd+crd[weight=3]"]),
        ("views={choice: [{name: angular, inter: true}, {name: angular, inter: false}]}",
         ["angular[inter=true]/kd", "angular[inter=false]/kd"]),
        ("student.network={choice: [{name: cnn, widths: [4, 8]}, {name: cnn, widths: [4, 16]}, resnet8]}",
         ["none/kd/cnn[widths=[4, 8]]", "none/kd/cnn[widths=[4, 16]]", "none/kd/resnet8"]),
        # a variant stands behind its colon, as ever
        ("views={choice: [{name: angular, variant: paper, num_views: 3}, {name: angular, variant: paper}, "
         "{name: angular, variant: released}]}",
         ["angular:paper[num_views=3]/kd", "angular:paper/kd", "angular:released/kd"]),
        # what the student sees stands behind the methods
        ("training.augmentation={choice: [weak, strong]}",
         ["none/kd[augmentation=weak]", "none/kd[augmentation=strong]"]),
        ("training.augmentation={choice: [null, {autoaugment: cifar10, cutout: 4}]}",
         ["none/kd", "none/kd[augmentation.cutout=4]"]),
        # nothing names the difference
        ("method={choice: [{name: kd, weight: {choice: [1, 2]}}, {name: kd, weight: {grid: [1, 2]}}]}",
         ["none/kd", "none/kd#2"]),
    ],
)  # fmt: skip
def test_alike_arms_are_named_by_what_differs(tmp_path: Path, override: str, names: list[str]) -> None:
    assert [arm.name for arm in study_of(tmp_path, override).arms] == names


def test_long_values_are_cut_where_they_stay_apart(tmp_path: Path) -> None:
    one, other = "[4, 8, 16, 32, 64, 128]", "[4, 8, 16, 32, 64, 256]"
    networks = [f"{{name: cnn, widths: {widths}}}" for widths in (one, other)]
    arms = study_of(tmp_path, f"student.network={{choice: [{', '.join(networks)}]}}").arms
    assert [arm.name for arm in arms] == [
        "none/kd/cnn[widths=[4, 8, 16… 64, 128]]",
        "none/kd/cnn[widths=[4, 8, 16… 64, 256]]",
    ]
    middle = "[4, 8, 16, 99, 64, 128]"
    networks = [f"{{name: cnn, widths: {widths}}}" for widths in (one, middle)]
    arms = study_of(tmp_path, f"student.network={{choice: [{', '.join(networks)}]}}").arms
    assert [arm.name for arm in arms] == [f"none/kd/cnn[widths={one}]", f"none/kd/cnn[widths={middle}]"]


def test_no_more_settings_than_a_line_holds(tmp_path: Path) -> None:
    keys = ("inter", "intra", "margin", "dropout", "num_views", "diversity_weight")
    values = (("true", "false"), ("true", "false"), ("0.1", "0.2"), ("0.1", "0.2"), ("3", "5"), ("1.0", "2.0"))
    options = [
        "{name: angular, " + ", ".join(f"{key}: {value[side]}" for key, value in zip(keys, values, strict=True)) + "}"
        for side in (0, 1)
    ]
    names = [arm.name for arm in study_of(tmp_path, f"views={{choice: [{', '.join(options)}]}}").arms]
    assert names == ["angular[margin=0.1,inter=true,intra=true]/kd", "angular[margin=0.2,inter=false,intra=false]/kd"]


ALIKE = "method={choice: [{name: kd, weight: {uniform: [0.1, 4]}}, {name: kd, weight: {log_uniform: [0.1, 4]}}]}"


@pytest.mark.parametrize("algorithm", ["random", "qmc"])
def test_what_is_drawn_does_not_follow_the_name(tmp_path: Path, algorithm: str) -> None:
    study = study_of(tmp_path, ALIKE, f"search.algorithm={algorithm}")
    before = study.begun_as({})
    assert [arm.name for arm in before.arms] == ["none/kd", "none/kd#2"]
    drawn, as_before = ([p.params for _, p in Outline(each).proposals] for each in (study, before))
    assert drawn == as_before
    if algorithm == "random":
        first = study.arms[1].random(derived_seed("search", 0, "none/kd#2", 0))
        assert drawn[1] == first.params, "as earlier versions drew it"


def test_probes_and_a_pooled_search_keep_their_draws(tmp_path: Path) -> None:
    views = ("views={choice: [{name: angular, inter: true, margin: {uniform: [0.1, 0.5]}}, "
             "{name: angular, inter: false, margin: {uniform: [0.1, 0.5]}}]}")  # fmt: skip
    study = study_of(tmp_path, views, "probe={trials: 4}", "search.fair=pooled")
    before = study.begun_as({})
    assert [arm.name for arm in study.arms] == ["angular[inter=true]/kd", "angular[inter=false]/kd"]
    probes, as_before = ([probe.params for probe in Outline(each).probes] for each in (study, before))
    assert probes == as_before
    assert probes[2:] == [p.params for p in study.arms[1].probes(2, derived_seed("probe", 0, "angular/kd#2"))]
    assert [proposal.arm for _, proposal in Outline(before).proposals if "#" in proposal.arm], "pooled arms, too"
    assert {p.arm for _, p in Outline(study).proposals} <= {arm.name for arm in study.arms}


def test_a_begun_study_keeps_its_names(tmp_path: Path) -> None:
    study = study_of(tmp_path, ALIKE)
    assert [arm.name for arm in study.begun_as({"arms": ["a", "b"]}).arms] == ["a", "b"]
    assert study.begun_as({"arms": ["a", "b"]}).arms[1].drawn_as == "none/kd#2"
    plain = study_of(tmp_path)
    assert [arm.name for arm in plain.begun_as({}).arms] == ["none/kd"]
