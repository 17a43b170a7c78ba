"""Studies of the whole zoo, from the YAML to the plan: no teacher, several, chains, pretrained, seeds, published."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import Field

from akdtune import networks
from akdtune.data.dataset import load_data
from akdtune.errors import SettingsError
from akdtune.methods import Method
from akdtune.networks.cnn import CNN
from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.plan import Plan
from akdtune.planning.prepared import Prepared
from akdtune.planning.report import headline, plan_report
from akdtune.registry import ComponentSettings, kept, register
from akdtune.running.lock import lock_content
from akdtune.settings.data import DataSettings
from akdtune.signals import InputSpec
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.proposals import Outline
from akdtune.study.written import export_yaml
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import load_teacher
from akdtune.training.teachers import train_teachers
from tests.extras import readable_studies

CPU = torch.device("cpu")
ZOO = """\
study: zoo
data: {name: digits, validation: 600}
teacher:
  network: {name: cnn, widths: [4, 4]}
  epochs: 1
student: {network: {name: cnn, widths: [2, 4]}}
views: none
method: kd
training: {epochs: 2}
search: {algorithm: grid}
"""
CIFAR = {"data": {"name": "cifar100", "validation": 5000}, "teacher": {"network": "resnet56"}}
SMALL: dict[str, Any] = {"network": {"name": "cnn", "widths": [4]}, "epochs": 1}

Loader = Callable[..., spec.Study]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Loads the small study with sections replaced, or a text as it is."""
    monkeypatch.chdir(tmp_path)

    def of(text: str = ZOO, *overrides: str, **sections: Any) -> spec.Study:
        if sections:
            text = yaml.safe_dump(yaml.safe_load(text) | sections, sort_keys=False)
        Path("zoo.yaml").write_text(text)
        return spec.load("zoo.yaml", overrides)

    return of


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refusal(load: Loader, *arguments: Any, **sections: Any) -> list[str]:
    """The problems of a study that is refused, one text each."""
    with pytest.raises(SettingsError) as raised:
        load(*arguments, **sections)
    return [str(problem) for problem in raised.value.problems]


def identity_of(study: spec.Study, **changes: Any) -> Identity:
    """Names for trials without a trained teacher."""
    stand_in = TeacherFile("t.pt", "key", "weights", study.teacher.network, 80.0, 81.0, False)
    file = TeacherFile.none() if study.teacher.absent else stand_in
    return Identity(study, Prepared.load(study), dataclasses.replace(file, **changes))


# ------------------------------------------------------------------------------------------------------ no teacher


@pytest.mark.parametrize("text", ["none", {"network": "none"}, {"network": {"name": "none"}}])
def test_a_study_without_a_teacher(load: Loader, text: Any) -> None:
    study = load(teacher=text, method={"choice": ["student_only", "label_smoothing", "last_batch", "sdpgo_style"]})
    assert study.teacher.absent
    assert study.warnings == ()
    assert [arm.name.split("/")[1] for arm in study.arms] == [
        "student_only", "label_smoothing", "last_batch", "sdpgo_style",
    ]  # fmt: skip
    text_of_plan = "\n".join(plan_report(Plan.of(study)))
    assert "no teacher: students learn from the labels" in text_of_plan
    assert "not trained yet" not in text_of_plan
    assert "validation accuracy" not in text_of_plan


def test_what_needs_a_teacher_is_refused_without_one(load: Loader) -> None:
    text = ZOO.replace("method: kd", "method:\n  choice:\n    - student_only\n    - [last_batch, crd]")
    (problem,) = refusal(load, text, "teacher=none")
    assert problem.startswith("zoo.yaml:11: method.choice[1]: 'crd' needs a teacher, and teacher.network is none")
    assert "(without one: branch_self, label_smoothing, last_batch, sdpgo_style, student_only, time_self)" in problem
    (problem,) = refusal(load, ZOO.replace("method: kd", "method: student_only"), "teacher=none", "views=tekap")
    assert problem == "command line: views: 'tekap' needs a teacher, and teacher.network is none"
    choice = ["none", {"name": "angular", "num_views": {"choice": [1, 2]}}]
    (problem,) = refusal(load, teacher="none", views={"choice": choice}, method="student_only")
    assert "views.choice[1]: 'angular' needs a teacher" in problem


def test_settings_of_no_teacher_are_ignored_and_change_no_id(load: Loader) -> None:
    bare = load(teacher="none", method="student_only")
    more = load(teacher={"network": "none", "epochs": 3, "lr": 0.1}, method="student_only")
    assert [w.partition(": ")[2] for w in more.warnings] == [
        "teacher.epochs: is ignored: there is no teacher", "teacher.lr: is ignored: there is no teacher",
    ]  # fmt: skip
    ids = [identity_of(study).search_trial(study.arms[0].centre()) for study in (bare, more)]
    assert ids[0] == ids[1]
    taught = load(method="student_only")
    assert identity_of(taught).search_trial(taught.arms[0].centre()) != ids[0]


def test_a_configuration_without_a_teacher_is_exported_as_one(load: Loader) -> None:
    study = load(teacher="none", method="label_smoothing")
    text = export_yaml(study.resolved(), study.arms[0].centre().settings, seed=7)
    assert yaml.safe_load(text)["teacher"] == "none"
    Path("best.yaml").write_text(text)
    best = spec.load("best.yaml")
    assert best.arms[0].centre().settings == study.arms[0].centre().settings
    assert best.search.trial_seed == 7


# --------------------------------------------------------------------------------------- several teachers, chains

NESTED = """\
  distilled_from:
    - network: {name: cnn, widhts: [3]}
    - network: {name: cnn, widths: [3]}
      distilled_from:
        - network: resnet8
          epochs: 0
  others:
    - network: {name: cnn, widths: [4]}
      lr: fast
    - network: cnnn
      epoch: 3
"""


def test_every_problem_of_nested_teachers_names_its_place(load: Loader) -> None:
    text = ZOO.replace("  epochs: 1\nstudent", f"  epochs: 1\n{NESTED}student")
    problems = [problem.partition(";")[0] for problem in refusal(load, text)]
    assert problems == [
        "zoo.yaml:7: teacher.distilled_from[0].network.widhts: unknown key 'widhts'",
        "zoo.yaml:11: teacher.distilled_from[1].distilled_from[0].epochs: must be above 0, got 0",
        "zoo.yaml:14: teacher.others[0].lr: must be a number, got 'fast'",
        "zoo.yaml:15: teacher.others[1].network: unknown network 'cnnn'",
        "zoo.yaml:16: teacher.others[1].epoch: unknown key 'epoch'",
    ]


@pytest.mark.parametrize(
    ("nested", "problem"),
    [
        ("others: [{network: none}]", "teacher.others[0].network: none is not a teacher"),
        ("distilled_from: [{network: resnet8, others: [{network: resnet8}]}]",
         "teacher.distilled_from[0].others: only the study's main teacher has others"),
        ("others: [{network: resnet8, distillation: {weight: 0.5}}]",
         "teacher.others[0].distillation: distillation has no effect without distilled_from"),
        ("others: [{network: resnet8, checkpoint: a.pt, distilled_from: [{network: resnet8}]}]",
         "teacher.others[0].distilled_from: distilled_from needs checkpoint: auto; an imported teacher is not trained"),
        ("others: [resnet8]", "teacher.others[0]: must be a mapping, got 'resnet8'"),
        ("others: [{network: {choice: [resnet8, resnet14]}}]",
         "teacher.others[0].network: cannot be searched over: all trials of a study share one teacher; make one study"
         " per teacher"),
    ],
)  # fmt: skip
def test_a_wrong_nested_teacher(load: Loader, nested: str, problem: str) -> None:
    assert refusal(load, ZOO.replace("  epochs: 1\n", f"  epochs: 1\n  {nested}\n", 1)) == [f"zoo.yaml:6: {problem}"]


def test_several_teachers_need_to_be_listed(load: Loader) -> None:
    (problem,) = refusal(load, views="multi_teacher")
    assert "views: 'multi_teacher' needs further teachers: list them under teacher.others" in problem
    assert load(teacher={**SMALL, "others": [SMALL]}, views="multi_teacher").arms[0].name == "multi_teacher/kd"


def test_paths_of_nested_checkpoints_are_resolved_and_do_not_count(load: Loader, tmp_path: Path) -> None:
    def of(folder: str) -> spec.Study:
        chain = {**SMALL, "distilled_from": [{**SMALL, "checkpoint": f"{folder}/a.pt"}]}
        other = {"network": "resnet8", "checkpoint": f"{folder}/b.pt"}
        return load(teacher={**chain, "others": [other]}, views="multi_teacher")

    study = of("here")
    assert study.teacher.distilled_from[0].checkpoint == str(tmp_path / "here" / "a.pt")
    assert study.teacher.others[0].checkpoint == str(tmp_path / "here" / "b.pt")
    proposal, other = study.arms[0].centre(), of("there").arms[0].centre()
    assert cell_hash(proposal.settings, "d", "t") == cell_hash(other.settings, "d", "t")
    assert cell_hash(proposal.settings, "d", "t") != cell_hash(proposal.settings, "d", "u")
    assert load(teacher={"network": "resnet8", "checkpoint": "~/c.pt"}).teacher.checkpoint == str(Path.home() / "c.pt")


def test_a_plan_names_every_missing_checkpoint_of_a_teacher(load: Loader, tmp_path: Path) -> None:
    of = {**SMALL, "distilled_from": [{**SMALL, "checkpoint": "a.pt"}]}
    text = "\n".join(plan_report(Plan.of(load(teacher={**of, "others": [{**SMALL, "checkpoint": "b.pt"}]}))))
    assert f"missing checkpoint: {tmp_path / 'a.pt'} (teacher.distilled_from[0].checkpoint)" in text
    assert f"missing checkpoint: {tmp_path / 'b.pt'} (teacher.others[0].checkpoint)" in text


def test_a_plan_says_which_teachers_are_trained_first(load: Loader, own_cache: Path) -> None:
    large, middle = ({"network": {"name": "cnn", "widths": [w, 4]}, "epochs": e} for w, e in ((6, 1), (5, 2)))
    study = load(
        teacher={**SMALL, "epochs": 3, "distilled_from": [large, {**middle, "distilled_from": [large]}],
                 "others": [middle, large]},
        views="multi_teacher",
    )  # fmt: skip
    lines = [line for line in plan_report(Plan.of(study)) if "not trained yet" in line]
    assert [re.sub(r": about \d+ s$", "", line) for line in lines] == [
        "teacher.distilled_from[0] cnn (widths: [6, 4]): not trained yet, 1 epoch comes first",
        "teacher.distilled_from[1] cnn (widths: [5, 4]): not trained yet, 2 epochs come first, distilled from cnn "
        "(widths: [6, 4])",
        "teacher cnn (widths: [4]): not trained yet, 3 epochs come first, distilled from cnn (widths: [6, 4]), "
        "cnn (widths: [5, 4])",
        "teacher.others[0] cnn (widths: [5, 4]): not trained yet, 2 epochs come first",
    ]
    assert not list(own_cache.glob("teachers/*/teacher.pt")), "a plan trains nothing"
    dataset = load_data(study.data, CPU)
    trained = [row["network"] for row in train_teachers(study.teacher, dataset, "subset", CPU) if row.get("epoch") == 1]
    assert len(trained) == len(lines)
    text = "\n".join(plan_report(Plan.of(study)))
    assert "not trained yet" not in text
    assert "teacher.others[1] cnn (widths: [6, 4]): " in text


def test_networks_of_a_chain_are_tried_on_the_data(load: Loader) -> None:
    deep = {"network": {"name": "cnn", "widths": [2] * 5}}
    with pytest.raises(SettingsError) as raised:
        Prepared.load(load(teacher={**SMALL, "distilled_from": [SMALL, deep], "others": [deep]}))
    text = str(raised.value)
    assert "teacher.distilled_from[1].network: network cnn: 5 widths halve images of 8 pixels" in text
    assert "teacher.others[0].network: network cnn: 5 widths halve images of 8 pixels" in text


def test_settings_that_an_imported_teacher_does_not_use_are_pointed_out(load: Loader) -> None:
    imported = {"network": "resnet8", "checkpoint": "a.pt", "clean_validation": True, "epochs": 3}
    warned = load(teacher={**SMALL, "others": [imported]}, views="multi_teacher").warnings
    assert [w.partition(": ")[2] for w in warned] == [
        "teacher.others[0].epochs: is ignored: the teacher comes from a checkpoint"
    ]


def test_a_configuration_with_several_teachers_is_exported_without_what_does_not_matter(load: Loader) -> None:
    imported = {"network": "resnet8", "checkpoint": "a.pt"}
    study = load(teacher={**SMALL, "others": [imported], "distilled_from": [imported, SMALL]}, views="multi_teacher")
    Path("best.yaml").write_text(export_yaml(study.resolved(), study.arms[0].centre().settings))
    best = spec.load("best.yaml")
    assert best.warnings == ()
    assert best.teacher == study.teacher
    assert best.arms[0].centre().settings == study.arms[0].centre().settings


def test_who_reads_the_images_changes_no_id(load: Loader) -> None:
    of_data = {"name": "image_folder", "root": "x", "size": 16, "validation": 4}
    hashes = {
        cell_hash(load(data={**of_data, **more}).arms[0].centre().settings, "d", "t")
        for more in ({}, {"workers": 3}, {"root": "y"})
    }
    assert len(hashes) == 1
    assert cell_hash(load(data={**of_data, "size": 8}).arms[0].centre().settings, "d", "t") not in hashes


def test_further_teachers_that_nothing_reads_are_pointed_out(load: Loader) -> None:
    (warning,) = load(teacher={**SMALL, "others": [SMALL]}, views={"choice": ["none", "tekap"]}).warnings
    assert warning.endswith(
        "teacher.others: are read by no views and no selection of this study (by: multi_teacher, selector, gap)"
    )
    assert load(teacher={**SMALL, "others": [SMALL]}, views={"choice": ["none", "multi_teacher"]}).warnings == ()


# ------------------------------------------------------------------------------------------------------ pretrained


class BringsWeights(CNN):
    """A network that comes with weights, as torchvision's do, but without a download."""

    class Settings(ComponentSettings):
        """Which weights."""

        weights: str | None = Field(None, description="which weights")

    source = "none"

    def __init__(self, settings: Settings, inputs: InputSpec) -> None:
        super().__init__(CNN.Settings(widths=[4, 6]), inputs)
        if settings.weights is not None:
            torch.manual_seed(1234)
            for parameter in self.parameters():
                torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture
def brings_weights() -> Iterator[str]:
    with kept():
        register("brings_weights", kind="networks")(BringsWeights)
        yield "brings_weights"


def test_pretrained_needs_a_network_with_weights(load: Loader, brings_weights: str) -> None:
    text = ZOO.replace("  epochs: 1\n", "  checkpoint: pretrained\n")
    (problem,) = refusal(load, text)
    assert problem.startswith(
        "zoo.yaml:5: teacher.checkpoint: pretrained needs a network with weights of its own: 'cnn' has none (networks "
        "that have: brings_weights, torchvision_mobilenet_v2"
    )
    (problem,) = refusal(load, text.replace("{name: cnn, widths: [4, 4]}", brings_weights))
    assert problem.endswith("name them: network: {name: brings_weights, weights: ...}")
    (problem,) = refusal(load, teacher={**SMALL, "others": [{"network": "resnet8", "checkpoint": "pretrained"}]})
    assert "teacher.others[0].checkpoint: pretrained needs a network with weights" in problem


def test_pretrained_weights_are_those_that_the_network_brings(
    load: Loader, brings_weights: str, own_cache: Path
) -> None:
    network = {"name": brings_weights, "weights": "V1"}
    study = load(teacher={"network": network, "checkpoint": "pretrained", "clean_validation": True})
    assert study.warnings == ()
    prepared = Prepared.load(study)
    file = prepared.find_teacher()
    assert file is not None
    assert file.val_accuracy is not None
    loaded = load_teacher(file, prepared.dataset.inputs, CPU)
    for seed in (0, 1):
        own = networks.build(network, prepared.dataset.inputs, seed).state_dict()
        assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    written = list(own_cache.rglob("*.pt"))
    assert [Path(file.path)] == written
    assert prepared.find_teacher() == file
    assert f"teacher {brings_weights} (weights: V1): {file.path}" in "\n".join(plan_report(Plan.of(study)))


# ------------------------------------------------------------------------------------------------- seeds of a grid


def test_each_configuration_is_planned_once_with_each_seed(load: Loader) -> None:
    choice = {"name": "kd", "weight": {"grid": [1, 2]}}
    study = load(teacher="none", method={"choice": ["student_only", "last_batch"]},
                 search={"algorithm": "grid", "seeds": [4, 2]})  # fmt: skip
    rows = initial_rows(Outline(study), identity_of(study))
    assert [(row["seed"], row["arm"].split("/")[1]) for row in rows] == [
        (4, "student_only"), (4, "last_batch"), (2, "student_only"), (2, "last_batch"),
    ]  # fmt: skip
    assert [row["trial_id"] for row in rows] == [f"{row['cell_id']}-s{row['seed']}" for row in rows]
    assert len({row["cell_id"] for row in rows}) == 2
    assert Outline(study).search_trials == Outline(study).trials == 4
    assert "4 search trials (2 configurations x 2 seeds, grid, per_arm" in "\n".join(headline(Outline(study)))
    report = plan_report(Plan.of(study))
    assert "arm none/last_batch: 2 search trials, nothing to search" in report
    drawn = load(method=choice, search={"algorithm": "random", "trials": 3, "seeds": [5, 6]})
    rows = initial_rows(Outline(drawn), identity_of(drawn))
    assert Outline(drawn).search_trials == 6
    assert {row["seed"] for row in rows} == {5, 6}
    half = len(rows) // 2
    assert [r["cell_id"] for r in rows[:half]] == [r["cell_id"] for r in rows[half:]]


def test_one_seed_more_keeps_the_ids_of_the_others(load: Loader) -> None:
    few, more = (load(search={"algorithm": "grid", "seeds": seeds}) for seeds in ([0], [0, 1]))
    plain = load()
    ids = [[row["trial_id"] for row in initial_rows(Outline(s), identity_of(s))] for s in (plain, few, more)]
    assert ids[0] == ids[1] == ids[2][:1]
    assert len(ids[2]) == 2


@pytest.mark.parametrize(
    ("search", "sections", "problem"),
    [
        ({"algorithm": "grid", "seeds": [1, 1]}, {}, "search.seeds: seeds must differ, got [1, 1]"),
        ({"algorithm": "grid", "seeds": []}, {}, "search.seeds: must be at least 1 long, got []"),
        ({"algorithm": "grid", "seeds": [0, 1]}, {"scheduler": {"name": "racing"}},
         "search.seeds: must hold at least scheduler.min_seeds (6) seeds with scheduler.name racing, got [0, 1]"),
        ({"algorithm": "grid", "seeds": [0, 1]},
         {"views": {"name": "angular", "num_views": {"choice": [1, 2]}}, "probe": {"trials": 2, "seeds": [1, 2]}},
         "probe.seeds: must not hold 1, the seed of the search's trials (search.seeds), got [1, 2]"),
    ],
)  # fmt: skip
def test_seeds_that_make_no_sense(load: Loader, search: Any, sections: Any, problem: str) -> None:
    (message,) = refusal(load, search=search, **sections)
    assert re.match(rf"zoo\.yaml:\d+: {re.escape(problem)}", message)


# ---------------------------------------------------------------------------------------- what a pair has published


def facts(study: spec.Study) -> dict[str, Any]:
    """What the lock file resolves, with digits in place of a data set that is not here."""
    prepared = Prepared(study, load_data(DataSettings(name="digits", validation=600), CPU))
    stand_in = TeacherFile("t.pt", "key", "weights", study.teacher.network, None, None, False)
    resolved: dict[str, Any] = lock_content(study, Identity(study, prepared, stand_in))["resolved"]
    return resolved


def test_published_settings_are_resolved_and_said(load: Loader) -> None:
    study = load(**CIFAR, student={"network": "resnet20"}, method="dkd")
    assert study.resolved()["method"]["beta"] == 2
    assert facts(study) == {
        "method.dkd.published": "beta 2.0 (for resnet56 to resnet20 on cifar100)",
        "training.ce_weight[dkd]": 1.0,
    }
    given = load(**CIFAR, student={"network": "resnet20"}, method={"name": "dkd", "beta": 5.0})
    assert given.resolved()["method"]["beta"] == 5
    assert facts(given) == {"training.ce_weight[dkd]": 1.0}
    overridden = load(ZOO, "method.beta=3", "training.ce_weight=0.4", **CIFAR, student={"network": "resnet20"},
                      method="dkd")  # fmt: skip
    assert overridden.resolved()["method"]["beta"] == 3
    assert facts(overridden) == {}


def test_a_searched_student_takes_what_its_own_pair_has_published(load: Loader) -> None:
    searched = {"network": {"choice": ["resnet20", "resnet8"]}}
    study = load(**CIFAR, student=searched, method=["kd", "dkd"])
    beta = {arm.name: arm.centre().settings["method"][1]["beta"] for arm in study.arms}
    assert beta == {"none/kd+dkd/resnet20": 2.0, "none/kd+dkd/resnet8": 8.0}
    assert "beta" not in study.resolved()["method"][1], "it cannot be said once for both"
    assert facts(study) == {
        "method.dkd.published[resnet20]": "beta 2.0 (for resnet56 to resnet20 on cifar100)",
        "training.ce_weight[kd+dkd, resnet20]": 1.0,
        "training.ce_weight[kd+dkd, resnet8]": 1.0,
    }


IMAGENET = {
    "data": {"name": "imagenet", "root": "x", "validation": 5000},
    "teacher": {"network": "torchvision_resnet34"},
}
PACKAGED = sorted(readable_studies())


def assert_same_again(study: spec.Study) -> None:
    """The resolved study is one that loads, draws the same trials, and resolves to itself."""
    Path("again.yaml").write_text(yaml.safe_dump(study.resolved(), sort_keys=False))
    again = spec.load("again.yaml")
    assert again.resolved() == study.resolved()
    # written out, settings that stood at their defaults may be named as well; what is drawn goes by components
    assert [arm.drawn_as for arm in again.arms] == [arm.drawn_as for arm in study.arms]
    for before, after in zip(study.arms, again.arms, strict=True):
        raws = [before.random(seed).raw for seed in range(3)] if before.dimensions else [{}]
        assert [after.replay(raw).settings for raw in raws] == [before.replay(raw).settings for raw in raws]


@pytest.mark.parametrize(
    "sections",
    [
        {**CIFAR, "student": {"network": {"choice": ["resnet20", "resnet8"]}}, "method": "dkd"},
        {**CIFAR, "student": {"choice": [{"network": "resnet20"}, {"network": "resnet8"}]}, "method": "dkd"},
        {**CIFAR, "student": {"network": "resnet20"}, "method": {"name": {"choice": ["kd", "dkd"]}}},
        {**CIFAR, "student": {"network": "resnet20"}, "method": {"name": "dkd", "beta": {"choice": [1, 2]}}},
        {**IMAGENET, "student": {"network": "torchvision_resnet18"},
         "method": {"name": "kd", "standardize": {"choice": [False, True]}}},
        {**IMAGENET, "method": {"choice": ["kd", ["dkd", "reviewkd"]]},
         "student": {"network": {"choice": ["torchvision_resnet18", "torchvision_mobilenet_v2"]}}},
        {"method": {"name": "kd", "standardize": {"choice": [True, False]}, "weight": {"grid": [1, 2]}}},
        {"views": {"name": "angular", "num_views": {"choice": [1, 2]}, "variant": {"choice": ["paper", "released"]}}},
        {"teacher": "none", "method": {"choice": ["student_only", "last_batch"]}},
        {"teacher": {**SMALL, "distilled_from": [SMALL], "others": [SMALL]}, "views": "multi_teacher"},
        {"student": {"network": "resnet8", "train": "classifier", "checkpoint": {"choice": ["a.pt", "b.pt"]}}},
        {"training": {"epochs": 2, "optimizer": {"choice": ["sgd", "dot"]}, "schedule": "cosine"}},
        {"search": {"algorithm": "grid", "seeds": [3, 4]}},
    ],
)  # fmt: skip
def test_a_resolved_study_is_the_same_study(load: Loader, sections: Any) -> None:
    assert_same_again(load(**sections))


@pytest.mark.parametrize("name", PACKAGED)
def test_a_resolved_packaged_study_is_the_same_study(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_same_again(spec.load(name))


@pytest.mark.parametrize("sections", [{"method": "mlkd"}, {"method": {"name": "mlkd", "temperatures": [2.0, 4.0]}}])
def test_temperatures_in_a_list_can_be_given(load: Loader, sections: Any) -> None:
    assert_same_again(load(**sections))


# --------------------------------------------------------------------------------------------------------- misfits


class SecondHead(Method):
    """Another method that replaces the student's prediction."""

    source = "none"
    consumes = "self"
    replaces_logits = True


@pytest.fixture
def second_head() -> Iterator[str]:
    with kept():
        register("second_head", kind="methods")(SecondHead)
        yield "second_head"


MIXED = {"name": "digits", "validation": 600}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"views": "tekap", "method": "at"}, ["views 'tekap'", "'at' reads no views"]),
        ({"views": "tekap", "method": ["at", "sp"]}, ["views 'tekap'", "'at' and 'sp' read no views"]),
        ({"views": "random", "method": "last_batch"}, ["views 'random'", "'last_batch' reads no views"]),
        ({"student": {"network": "torchvision_vit_tiny"}, "method": "ofd"},
         ["'ofd' cannot work with the student network 'torchvision_vit_tiny': it needs preact"]),
        ({"teacher": {"network": "torchvision_mobilenet_v3_small"}, "method": "cat_kd"},
         ["'cat_kd' cannot work with the teacher network 'torchvision_mobilenet_v3_small': it needs last_map"]),
        ({"method": ["simkd", "second_head"]}, ["'simkd' and 'second_head' both replace the student's prediction"]),
        ({"method": ["kd", "last_batch"], "data": {**MIXED, "augmentation": {"mixup": 0.4}}},
         ["'last_batch' repeats images of the last batch", "data.augmentation.mixup"]),
        ({"method": "last_batch", "data": {**MIXED, "augmentation": {"cutmix": 1.0}}},
         ["'last_batch' repeats images of the last batch", "data.augmentation.cutmix"]),
        ({"method": "last_batch", "training": {"epochs": 2, "augmentation": {"mixup": 0.2}}},
         ["'last_batch' repeats images of the last batch", "training.augmentation.mixup"]),
    ],
)  # fmt: skip
def test_parts_that_cannot_work_together_are_both_named(
    load: Loader, second_head: str, sections: Any, words: list[str]
) -> None:
    (problem,) = refusal(load, **sections)
    assert re.match(r"zoo\.yaml:\d+: method: ", problem)
    for word in words:
        assert word in problem


def test_a_method_of_maps_beside_one_of_views_is_fine(load: Loader) -> None:
    assert load(views="tekap", method=["kd", "at"]).arms[0].name == "tekap/kd+at"
    assert load(student={"network": "torchvision_vit_tiny"}, method="at").arms[0].name == "none/at"
