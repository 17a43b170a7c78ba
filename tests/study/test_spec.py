"""A settings file as a study: what is filled in, what is refused and how it is said, what comes out again."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
import yaml

from akdtune.errors import SettingsError
from akdtune.folders import packaged
from akdtune.methods import Method
from akdtune.registry import ComponentSettings, kept, lookup, names, register
from akdtune.settings import file as settings_file
from akdtune.settings import space
from akdtune.settings.sections import SchedulerSettings, SearchSettings
from akdtune.settings.trial import pair_problem
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.schema import json_schema
from akdtune.study.spec import Study
from akdtune.study.written import export_yaml
from akdtune.views import ViewAugmenter
from tests.checkout import SNAPSHOTS
from tests.extras import readable_studies

SMALL = """\
study: small
data: {name: digits, validation: 600}
teacher: {network: resnet20, epochs: 4}
student: {network: resnet8}
views: {name: angular, margin: {uniform: [0.1, 0.5]}}
method: {name: kd, weight: {log_uniform: [0.1, 4.0]}}
training: {epochs: 40, milestones: [24, 32]}
search: {trials: 6}
scheduler: {name: asha, grace_period: 26}
probe: {trials: 6}
"""
MANY = SMALL.replace(
    "method: {name: kd, weight: {log_uniform: [0.1, 4.0]}}",
    """\
method:
  choice:
    - {name: kd, temperature: {choice: [2, 4]}}
    - {name: dkd, beta: {choice: [2, 6, 8]}}
    - [{name: kd}, {name: crd}]""",
)

Loader = Callable[..., Study]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Writes a text as study.yaml in the working directory and loads it."""
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str, *overrides: str) -> Study:
        Path("study.yaml").write_text(text, encoding="utf-8")
        return spec.load("study.yaml", overrides)

    return write_and_load


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def problems(load: Loader, text: str, *overrides: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


def check_snapshot(name: str, text: str) -> None:
    """Compares with a stored text; AKDTUNE_UPDATE_SNAPSHOTS=1 stores it. Lists of registered names are left out."""
    for kind in ("methods", "views", "networks", "data"):
        known = [*names(kind), *(["timm/NAME"] if kind == "networks" else [])]  # type: ignore[arg-type]
        text = text.replace(", ".join(sorted(known)), f"<{kind}>")
    text = re.sub(r"lists all \d+", "lists all <number>", text)
    path = SNAPSHOTS / name
    if os.environ.get("AKDTUNE_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# What is read


def test_a_small_study(load: Loader) -> None:
    study = load(SMALL)
    assert study.name == "small"
    assert study.source == "study.yaml"
    assert study.warnings == ()
    assert [arm.name for arm in study.arms] == ["angular/kd"]
    assert [d.path for d in study.arms[0].dimensions] == ["views.margin", "method.kd.weight"]
    assert (study.epochs, study.rungs) == (40, [26])
    assert study.search == SearchSettings(algorithm="tpe", trials=6, fair="per_arm", seed=0, trial_seed=0)
    assert study.probe is not None
    assert study.probe.seeds == [1]
    assert study.tracking.wandb is None
    assert study.spaces == study.arms


def test_arms_that_differ_in_a_variant_are_named_by_it() -> None:
    names = [arm.name for arm in spec.load("tekap_vs_angular").arms]
    assert {"tekap:paper/kd", "tekap:released/kd+crd", "angular:constrained/dkd", "none/crd"} <= set(names)
    assert len(set(names)) == len(names) == 32
    assert not any("#" in name for name in names)


def test_a_proposal_has_every_setting_filled_in_as_plain_json(load: Loader) -> None:
    proposal = load(SMALL).arms[0].random(1)
    space.assert_plain(proposal.settings)
    assert list(proposal.settings) == ["data", "teacher", "views", "method", "student", "training"]
    assert proposal.settings["method"] == [
        {"name": "kd", "standardize": False, "temperature": 4.0, "weight": proposal.params["method.kd.weight"]}
    ]
    assert proposal.settings["views"]["margin"] == proposal.params["views.margin"]
    assert proposal.settings["views"]["variant"] == "paper"
    assert proposal.settings["student"] == {"network": "resnet8", "checkpoint": None, "train": "all"}
    assert proposal.settings["training"]["momentum"] == 0.9
    assert proposal.settings["teacher"]["epochs"] == 4


def test_proposals_share_no_mutable_part(load: Loader) -> None:
    arm = load(SMALL).arms[0]
    arm.random(1).settings["data"]["validation"] = 0
    assert arm.random(1).settings["data"]["validation"] == 600


def test_settings_are_typed_the_same_a_second_time(load: Loader) -> None:
    """A trial types its settings again from JSON: presets must not shift what they filled in before."""
    for study in (load(MANY), *map(spec.load, readable_studies())):
        for arm in study.arms:
            settings = arm.random(7).settings
            views = dict(settings["views"])
            model = lookup("views", views.pop("name")).Settings
            assert model(**views).model_dump(mode="json") == views


def test_arm_names(load: Loader) -> None:
    text = changed(MANY, "views: {name: angular, margin: {uniform: [0.1, 0.5]}}",
                   "views: {choice: [none, {name: angular, variant: {choice: [paper, constrained]}}]}")  # fmt: skip
    text = changed(text, "{network: resnet8}", "{network: {choice: [resnet8, resnet14]}}")
    arms = [arm.name for arm in load(text, "probe=null").arms]
    assert len(arms) == len(set(arms)) == 18
    assert {"none/kd/resnet8", "angular:paper/kd+crd/resnet14", "angular:constrained/dkd/resnet8"} <= set(arms)


def test_arms_of_the_same_components_are_named_by_what_differs(load: Loader) -> None:
    text = changed(MANY, "- [{name: kd}, {name: crd}]", "- {name: kd, weight: 2}")
    assert [arm.name for arm in load(text).arms] == [
        "angular/kd[temperature=2|4]", "angular/dkd", "angular/kd[weight=2]",
    ]  # fmt: skip


def test_pooled_search_is_one_space(load: Loader) -> None:
    study = load(MANY, "search.fair=pooled")
    assert [searched.name for searched in study.spaces] == ["pooled"]
    assert {study.pooled.random(seed).arm for seed in range(30)} == {arm.name for arm in study.arms}


def test_shorthands(load: Loader) -> None:
    study = load(SMALL, "views=none", "method=[kd, crd]", "probe=null")
    settings = study.arms[0].random(0).settings
    assert settings["views"] == {"name": "none"}
    assert [term["name"] for term in settings["method"]] == ["kd", "crd"]
    assert [arm.name for arm in load(SMALL, "method={choice: [kd, [kd, crd]]}").arms] == [
        "angular/kd",
        "angular/kd+crd",
    ]


def test_views_may_be_left_out(load: Loader) -> None:
    text = changed(SMALL, "views: {name: angular, margin: {uniform: [0.1, 0.5]}}\n", "")
    assert load(text, "probe=null").arms[0].name == "none/kd"


def test_networks_with_settings_of_their_own(load: Loader) -> None:
    study = load(SMALL, "student.network={name: cnn, widths: {choice: [[4, 8], [8, 16]]}}")
    (arm,) = study.arms
    assert {str(arm.random(seed).settings["student"]["network"]["widths"]) for seed in range(20)} == {
        "[4, 8]",
        "[8, 16]",
    }


def test_numbers_as_people_write_them(load: Loader) -> None:
    study = load(changed(SMALL, "epochs: 40,", "epochs: 40, weight_decay: 5e-4, lr: 1E-2,"))
    training = study.arms[0].random(0).settings["training"]
    assert (training["weight_decay"], training["lr"]) == (5e-4, 1e-2)


def test_anchors_and_merge_keys(load: Loader) -> None:
    text = changed(MANY, "- {name: kd, temperature: {choice: [2, 4]}}", "- &kd {name: kd, weight: {uniform: [1, 2]}}")
    text = changed(text, "- [{name: kd}, {name: crd}]", "- [*kd, {name: crd}]\n    - {<<: *kd, weight: 3}")
    assert [arm.name for arm in load(text).arms] == [
        "angular/kd[weight=1..2]", "angular/dkd", "angular/kd+crd", "angular/kd[weight=3]",
    ]  # fmt: skip


def test_paths_are_absolute_for_the_workers(load: Loader, tmp_path: Path) -> None:
    data = "data={name: parquet, train: 'in/train-*.parquet', test: [~/a.parquet, b.parquet], validation: 500}"
    study = load(SMALL, data, "teacher.checkpoint=teachers/t.pt")
    assert study.data.train == str(tmp_path / "in/train-*.parquet")
    assert study.data.test == [str(Path.home() / "a.parquet"), str(tmp_path / "b.parquet")]
    assert study.teacher.checkpoint == str(tmp_path / "teachers/t.pt")
    rooted = load(SMALL, data.replace("{name", "{root: pictures, name"))
    assert rooted.data.train == str(tmp_path / "pictures/in/train-*.parquet")
    assert rooted.data.root == str(tmp_path / "pictures")


def test_rungs_leave_out_the_last_epoch() -> None:
    def rungs(grace: int, factor: float, epochs: int) -> list[int]:
        return SchedulerSettings(grace_period=grace, reduction_factor=factor).rungs(epochs)

    assert rungs(160, 1.25, 240) == [160, 200]
    assert rungs(1, 4, 64) == [1, 4, 16]
    assert rungs(1, 4, 65) == [1, 4, 16, 64]
    assert rungs(26, 2, 40) == [26]
    assert rungs(1, 1.25, 4) == [1, 2, 3]
    assert rungs(40, 2, 40) == []
    assert SchedulerSettings(name="none").rungs(40) == []


def test_a_study_pickles(load: Loader) -> None:
    study = load(MANY)
    copy = pickle.loads(pickle.dumps(study))
    assert copy.arms[1].random(4) == study.arms[1].random(4)


# Overrides


@pytest.mark.parametrize(
    ("override", "arm", "index", "key", "value"),
    [
        ("method.beta=4", 1, 0, "beta", 4.0),
        ("method.alpha=0.5", 1, 0, "alpha", 0.5),
        ("method.kd.temperature=3", 0, 0, "temperature", 3.0),
        ("method.kd.temperature=3", 2, 0, "temperature", 3.0),
        ("method.num_negatives=100", 2, 1, "num_negatives", 100),
        ("method.choice[2][0].weight=2", 2, 0, "weight", 2.0),
        ("method.choice.2.1.weight=2", 2, 1, "weight", 2.0),
        (" method.crd.weight = 2 ", 2, 1, "weight", 2.0),
    ],
)
def test_overrides_reach_into_choices(load: Loader, override: str, arm: int, index: int, key: str, value: Any) -> None:
    study = load(MANY, override)
    assert study.arms[arm].random(0).settings["method"][index][key] == value
    assert study.overrides == (override,)


def test_overrides_by_position_touch_one_place_only(load: Loader) -> None:
    study = load(MANY, "method.choice[0].weight=2")
    assert study.arms[0].random(0).settings["method"][0]["weight"] == 2.0
    assert study.arms[2].random(0).settings["method"][0]["weight"] == 0.9


def test_overrides_of_any_kind(load: Loader) -> None:
    study = load(
        SMALL, "training.lr={log_uniform: [0.01, 0.1]}", "views.angular.num_views={choice: [1, 3]}",
        "method.kd.weight=2",
        "tracking.wandb.project=x", "resources.gpu=0", "confirm=null", "ablation=null", "probe=null",
        "student.network.name=resnet14", "search.seed=5",
    )  # fmt: skip
    assert [d.path for d in study.arms[0].dimensions] == ["views.margin", "views.num_views", "training.lr"]
    assert study.tracking.wandb is not None
    assert study.tracking.wandb.project == "x"
    assert study.probe is None
    assert study.arms[0].tree["student"] == {"network": {"name": "resnet14"}}


def test_fixed_probe_settings_by_key_path(load: Loader) -> None:
    for override in ("probe.fixed.method.kd.weight=2", "probe.fixed={method.kd.weight: 2}"):
        study = load(SMALL, override)
        assert study.probe is not None
        assert study.probe.fixed == {"method.kd.weight": 2}
        assert {probe.params["method.kd.weight"] for probe in study.arms[0].probes(3, 0)} == {2.0}


def test_a_later_override_wins(load: Loader) -> None:
    assert load(SMALL, "search.trials=7", "search.trials=8").search.trials == 8


def test_overrides_may_put_a_network_setting_on_a_plain_name(load: Loader) -> None:
    study = load(SMALL, "student.network=cnn", "student.network.widths=[4, 8]")
    assert study.arms[0].random(0).settings["student"]["network"] == {"name": "cnn", "widths": [4, 8]}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.weight=2", ["several places", "method.kd.weight=2, method.dkd.weight=2, method.crd.weight=2"]),
        ("method.betta=2", ["no choice there", "'betta'", "did you mean 'beta'", "kd, dkd, crd"]),
        ("method.dkdd.beta=2", ["did you mean 'dkd'"]),
        ("training.epochs.x=2", ["leads nowhere", "training.epochs is 40"]),
        ("views.margn=0.2", ["unknown key 'margn'", "did you mean 'margin'"]),
        ("vews.margin=0.2", ["unknown section 'vews'", "did you mean views.margin=0.2?"]),
        ("training.lr", ["form key.path=value"]),
        ("=3", ["form key.path=value"]),
        ("training..lr=3", ["form key.path=value"]),
        ("training.lr=[1", ["cannot be parsed"]),
        ("training.lr=abc", ["must be a number, got 'abc'"]),
        ("training.lr=.nan", ["finite"]),
        ("method.choice[7].weight=2", ["command line: method.choice[7].weight"]),
    ],
)
def test_overrides_that_cannot_be_applied(load: Loader, override: str, words: list[str]) -> None:
    messages = problems(load, MANY, override)
    assert len(messages) == 1
    assert messages[0].startswith("command line: ") or "section" in messages[0]
    for word in words:
        assert word in messages[0]


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ("validation: 600", "validation: '600'", 2, "data.validation", ["whole number", "got '600'"]),
        ("validation: 600", "validation: 600.5", 2, "data.validation", ["whole number", "got 600.5"]),
        ("validation: 600", "validation: true", 2, "data.validation", ["whole number", "got true"]),
        ("validation: 600", "validation: 0", 2, "data.validation", ["above 0"]),
        ("validation: 600", "validaton: 600", 2, "data.validation", ["is missing"]),
        ("validation: 600", "validation: 600, train: x", 2, "data.train", ["does not belong", "'digits'"]),
        ("name: digits", "name: digts", 2, "data.name", ["unknown data set 'digts'", "did you mean 'digits'"]),
        ("network: resnet20", "network: resnet32x", 3, "teacher.network", ["unknown network", "'resnet32x4'"]),
        ("network: resnet20", "network: {widths: [4]}", 3, "teacher.network.name", ["is missing", "cnn"]),
        ("network: resnet8", "network: {name: cnn, width: [4]}", 4, "student.network.width", ["did you mean 'widths'"]),
        ("network: resnet8", "network: [resnet8]", 4, "student.network", ["a name or a mapping", "['resnet8']"]),
        ("{network: resnet8}", "resnet8", 4, "student", ["must be a mapping", "'resnet8'"]),
        ("name: angular", "name: angluar", 5, "views.name", ["unknown view 'angluar'", "did you mean 'angular'"]),
        ("name: angular, ", "", 5, "views.name", ["is missing", "angular"]),
        ("margin: {uniform: [0.1, 0.5]}", "margin: {uniform: [0.1, 1.5]}", 5, "views.margin", ["at most 1", "got 1.5"]),
        ("margin: {uniform: [0.1, 0.5]}", "margin: {choice: [0.1, a]}", 5, "views.margin.choice[1]", ["got 'a'"]),
        ("uniform: [0.1, 0.5]", "unifrom: [0.1, 0.5]", 5, "views.margin", ["did you mean the domain 'uniform'"]),
        ("{uniform: [0.1, 0.5]}", "{uniform: [0, 1], grid: [1]}", 5, "views.margin", ["exactly one key"]),
        ("{uniform: [0.1, 0.5]}", "{choice: []}", 5, "views.margin", ["at least one option"]),
        ("{uniform: [0.1, 0.5]}", "{uniform: [0.5, 0.1]}", 5, "views.margin", ["low end 0.5 above its high end 0.1"]),
        ("log_uniform: [0.1, 4.0]", "log_uniform: [0, 4.0]", 6, "method.weight", ["low end above 0"]),
        ("log_uniform: [0.1, 4.0]", "uniform: [-1, 4.0]", 6, "method.weight", ["at least 0, got -1"]),
        ("name: kd", "name: kdd", 6, "method.name", ["unknown method 'kdd'", "did you mean 'kd'"]),
        ("name: kd, weight", "name: kd, wieght", 6, "method.wieght", ["did you mean 'weight'"]),
        ("{name: kd, weight: {log_uniform: [0.1, 4.0]}}", "[]", 6, "method", ["at least one method"]),
        ("{name: kd, weight: {log_uniform: [0.1, 4.0]}}", "[kd, kd]", 6, "method[1]", ["'kd' stands twice in the sum"]),
        ("{name: kd, weight: {log_uniform: [0.1, 4.0]}}", "", 6, "method", ["is missing"]),
        ("milestones: [24, 32]", "milestones: [32, 24]", 7, "training.milestones", ["rise strictly", "[32, 24]"]),
        ("milestones: [24, 32]", "milestones: [24, 3.5]", 7, "training.milestones[1]", ["whole number", "3.5"]),
        ("epochs: 40", "epochs: {choice: [40, 20]}", 7, "training.epochs", ["cannot be searched", "equal length"]),
        ("search: {trials: 6}", "search: {trials: 0}", 8, "search.trials", ["above 0, got 0"]),
        ("search: {trials: 6}", "search: {algorithm: random}", 8, "search.trials", ["is missing", "'random'"]),
        ("search: {trials: 6}", "search: {algorithm: tpee}", 8, "search.algorithm",
         ["'random', 'qmc', 'grid'", "mean 'tpe'"]),
        ("search: {trials: 6}", "search: 6", 8, "search", ["must be a mapping, got 6"]),
        ("trials: 6}\nsch", "trials: {choice: [1, 2]}}\nsch", 8, "search.trials", ["cannot be searched"]),
        ("grace_period: 26", "grace_period: 40", 9, "scheduler.grace_period", ["below training.epochs (40)", "got 40"]),
        (", grace_period: 26", "", 9, "scheduler", ["grace_period is needed"]),
        ("{name: asha", "{name: hyperband", 9, "scheduler.name", ["'asha', 'median', 'racing', 'none'"]),
        ("probe: {trials: 6}", "probe: {trials: 6, seeds: [1, 0]}", 10, "probe.seeds", ["must not hold 0", "[1, 0]"]),
        ("probe: {trials: 6}", "probe: {trials: 6, seeds: []}", 10, "probe.seeds", ["at least 1 long"]),
        ("probe: {trials: 6}", "probe: {trials: 6, seeds: [1, 1]}", 10, "probe.seeds", ["must differ"]),
        ("probe: {trials: 6}", "probe: {trials: 6, fixed: {method.kd.weigt: 1}}", 10, "probe.fixed.method.kd.weigt",
         ["did you mean 'method.kd.weight'"]),
        ("probe: {trials: 6}", "probe: {trials: 6, fixed: {method.kd.weight: 9}}", 10, "probe.fixed.method.kd.weight",
         ["within log_uniform [0.1, 4.0]", "got 9"]),
        ("study: small", "study: a/b", 1, "study", ["letters, digits", "'a/b'"]),
        ("study: small", "stdy: small", 1, "stdy", ["unknown section 'stdy'", "did you mean 'study'"]),
        ("study: small", "plugins: [no_such_module]", 1, "plugins", ["cannot import 'no_such_module'"]),
        ("study: small", "plugins: {a: b}", 1, "plugins", ["list of module names"]),
        ("study: small", "confirm: {top: 3}", 1, "confirm.seeds", ["is missing"]),
        ("study: small", "ablation: {design: path}", 1, "ablation.seeds", ["is missing"]),
        ("study: small", "resources: {cpu: 0}", 1, "resources.cpu", ["above 0"]),
        ("study: small", "tracking: {wandb: {projct: x}}", 1, "tracking.wandb.projct", ["did you mean 'project'"]),
        ("study: small", "tracking: {wandb: {mode: of}}", 1, "tracking.wandb.mode", ["'offline'"]),
    ],
)  # fmt: skip
def test_one_mistake_gives_one_message(load: Loader, old: str, new: str, line: int, key: str, words: list[str]) -> None:
    messages = problems(load, changed(SMALL, old, new))
    mine = [text for text in messages if text.startswith(f"study.yaml:{line}: {key}: ")]
    assert len(mine) == 1, messages
    assert len(messages) == 1 or "validaton" in new
    for word in words:
        assert word in mine[0]


def test_combinations_of_single_values_are_checked_within_each_option(load: Loader) -> None:
    text = changed(MANY, "- {name: dkd, beta: {choice: [2, 6, 8]}}", "- {name: dkd, beta: {choice: [2, -6]}, alpha: x}")
    assert problems(load, text) == [
        "study.yaml:9: method.choice[1].alpha: must be a number, got 'x'",
        "study.yaml:9: method.choice[1].beta.choice[1]: must be at least 0, got -6",
    ]


def test_an_unknown_key_is_said_once_for_all_its_options(load: Loader) -> None:
    messages = problems(load, changed(SMALL, "margin: {uniform: [0.1, 0.5]}", "margn: {choice: [0.1, 0.2, 0.3]}"))
    assert len(messages) == 1
    assert messages[0].startswith("study.yaml:5: views.margn: unknown key 'margn'; did you mean 'margin'?")


def test_a_grid_needs_values_that_can_be_listed(load: Loader) -> None:
    assert problems(load, SMALL, "search.algorithm=grid", "probe=null") == [
        "study.yaml:5: views.margin: 'uniform' has no values to list: with search.algorithm grid, use `grid` or "
        "`choice`",
        "study.yaml:6: method.weight: 'log_uniform' has no values to list: with search.algorithm grid, use `grid` or "
        "`choice`",
    ]


def test_epochs_hidden_in_a_choice_are_refused(load: Loader) -> None:
    messages = problems(
        load, changed(SMALL, "{epochs: 40, milestones: [24, 32]}", "{choice: [{epochs: 40}, {epochs: 50}]}")
    )
    assert len(messages) == 1
    assert "study.yaml:7: training: has several numbers of epochs" in messages[0]


def test_released_with_a_learned_margin_is_refused(load: Loader) -> None:
    messages = problems(load, SMALL, "views.variant=released", "views.learnable_margin=true")
    assert any("learnable_margin" in text and "released" in text for text in messages)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a mapping of settings, got nothing"),
        ("- 1", "must be a mapping of settings, got [1]"),
        ("a: [1\nb: 2", "study.yaml:2: (YAML): cannot be parsed"),
        ("a: b: c", "study.yaml:1: (YAML): cannot be parsed"),
        ("a: \t- x\n  y", "cannot be parsed"),
        ("a: 1\n---\nb: 2", "study.yaml:2: (YAML): cannot be parsed"),
        ("\x01", "cannot be parsed"),
    ],
)
def test_what_is_no_settings_file(load: Loader, text: str, words: str) -> None:
    assert words in problems(load, text)[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("study: small", "study: small\nstudy: other", "study.yaml:2: study: stands twice; the first time in line 1"),
        ("study: small", "study: !!python/name:os.system x", "study.yaml:1: study: has the tag"),
        ("study: small", "study: &a [*a]", "study.yaml:1: study[0]: refers to itself"),
        ("epochs: 40", "epochs: 40, lr: .inf", "study.yaml:7: training.lr: must be a finite number, got .inf"),
        ("epochs: 40", "? [1, 2] : 3, epochs: 40", "study.yaml:7: training: has a key that is not a word"),
    ],
)
def test_yaml_that_is_not_plain(load: Loader, old: str, new: str, message: str) -> None:
    messages = problems(load, changed(SMALL, old, new))
    assert any(text.startswith(message) for text in messages), messages


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"study: caf\xe9")
    for source, words in {
        "digits_angulr": "digits_angulr: there is no such file; did you mean the packaged 'digits_angular'?",
        "search_spaces/digits_angular.yaml": "did you mean the packaged 'digits_angular'?",
        "xyz.yaml": "there is no such file (packaged: adaspec, angular_ablation, cifar_angular, cifar_baselines, ",
        "folder": "is a folder, not a YAML file",
        "latin.yaml": "is not a text file in UTF-8",
    }.items():
        with pytest.raises(SettingsError) as caught:
            spec.load(source)
        assert words in str(caught.value)
        assert caught.value.exit_code == 2


JUNK: list[Any] = [
    None, [], {}, "x", -1, 1.5, True, [[1]], {"name": 3}, {"name": None}, {"choice": [1]}, {"choice": None},
    {"choice": [None, "kd", {"choice": [[]]}]}, {"grid": [{}, []]}, {"uniform": [0.1, 0.2]}, {"int_uniform": [1, 3]},
]  # fmt: skip


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths_of(item, (*path, key))


def test_no_junk_in_any_place_ends_in_a_traceback(load: Loader) -> None:
    pairs = list(itertools.product(paths_of(yaml.safe_load(MANY)), JUNK))[::5]  # every junk, every fifth pair
    refused = 0
    for path, junk in pairs:
        values = container = yaml.safe_load(MANY)
        for key in path[:-1]:
            container = container[key]
        container[path[-1]] = junk
        with contextlib.suppress(SettingsError):
            load(yaml.safe_dump(values)).arms[0].random(0)
            continue
        refused += 1
    assert len(pairs) > refused > len(pairs) / 2


BAD = """\
study: bad name
dta: {name: digits}
data:
  name: digts
  validation: "600"
  label_noise: {fracton: 0.4}
  split_seed: {choice: [1, 2]}
teacher:
  network: {name: cnn, widhts: [32]}
  epochs: 40.5
student:
  network: {name: cn, widths: [4, 8, 16]}
views:
  name: angular
  variant: constraned
  num_views: {choice: []}
  margin: {uniform: [0.6, 0.1]}
  diversity_weight: {log_uniform: [0, 30.0]}
  intra: 1
  constraint: {uniform: [0, 1], choice: [1]}
  gt_weight: {unifrom: [0, 1]}
  margn: 0.2
method:
  choice:
    - {name: kd, temperature: {uniform: [-1, 4.0]}, wieght: 2}
    - {name: dkdd}
    - - {name: kd}
      - {name: kd, temperature: 2, temperature: 3}
    - 7
training:
  epochs: {choice: [40, 50]}
  batch_size: 1
  lr: {uniform: [1, 2, 3]}
search: {algorithm: tpee}
scheduler: {name: asha, reduction_factor: 1}
probe: {trials: 24, seeds: [0, 0]}
confirm: {top: 3}
resources: {gpu: -1}
tracking: {wandb: {projct: a}}
"""


def test_all_problems_of_a_file_come_in_one_message(load: Loader) -> None:
    with pytest.raises(SettingsError) as caught:
        load(BAD, "method.weight=2", "foo")
    check_snapshot("settings_errors.txt", f"{caught.value}\n")


# Pairs and plugins


@pytest.fixture
def own_components() -> Iterator[None]:
    """A registry whose additions vanish after the test."""
    with kept():
        yield


def test_a_pair_that_cannot_work_is_refused_naming_both(load: Loader, own_components: None) -> None:
    @register("blurred")
    class Blurred(ViewAugmenter):
        offers = frozenset({"logits"})

    @register("stage_matching")
    class StageMatching(Method):
        consumes = "stages"
        needs = frozenset({"preact"})

    assert pair_problem("blurred", "kd") is None
    assert problems(load, SMALL, "views=blurred", "method=[kd, crd]", "probe=null") == [
        "command line: method: 'crd' cannot work with the views 'blurred': it needs pooled, and these "
        "views offer logits only"
    ]
    assert problems(load, SMALL, "views=blurred", "method=stage_matching", "probe=null") == [
        "command line: method: nothing of the views 'blurred' would reach the student: 'stage_matching' reads no views"
    ]
    with_vit = ["views=none", "method=stage_matching", "probe=null", "student.network=torchvision_vit_tiny"]
    assert problems(load, SMALL, *with_vit) == [
        "command line: method: 'stage_matching' cannot work with the student network 'torchvision_vit_tiny': it needs "
        "preact, which it lacks"
    ]


def test_plugins_bring_components_of_their_own(
    load: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_components: None
) -> None:
    (tmp_path / "my_views.py").write_text(
        "from akdtune.registry import ComponentSettings, register\n"
        "from akdtune.views import ViewAugmenter\n"
        "@register('shifted')\n"
        "class Shifted(ViewAugmenter):\n"
        "    class Settings(ComponentSettings):\n"
        "        by: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = changed(SMALL, "study: small", "study: small\nplugins: [my_views]")
    try:
        study = load(text, "views={name: shifted, by: {int_uniform: [1, 3]}}")
        assert study.plugins == ("my_views",)
        assert study.arms[0].name == "shifted/kd"
        assert study.arms[0].random(0).settings["views"]["by"] in (1, 2, 3)
    finally:
        sys.modules.pop("my_views", None)


# Warnings


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["scheduler.grace_period=20"], "scheduler.grace_period: 20 is not after the first milestone (24)"),
        (["scheduler={name: none, grace_period: 3}"], "scheduler.grace_period: is ignored: scheduler.name is none"),
        (["method={choice: [kd, crd, dkd, [kd, crd]]}", "probe.trials=8"], "search.trials: 6 trials over 4 arms"),
        (["probe.trials=7", "probe.seeds=[1, 2]"], "7 trials do not divide evenly over arms (1) x seeds (2)"),
        (["views.margin=0.2"], "probe: is ignored: no setting of the views is searched"),
        (["views.margin={grid: [0.1, 0.2]}"], "'tpe' draws from `grid` values as from a `choice`"),
        (["views.margin={grid: [0.1, 0.2]}", "method.weight=1", "search={algorithm: grid, trials: 1}", "probe=null"],
         "search.trials: is 1, but the grid has 2 configurations: the rest is left out"),
        (["teacher.checkpoint=x.pt"], "teacher.epochs: is ignored: the teacher comes from a checkpoint"),
        (["training.milestones=[24, 60]"], "training.milestones: [60] have no effect: there are 40 epochs"),
        (["report.train_on=subset"], "report: is ignored: without confirm and ablation"),
        (["views.margin={quantized_uniform: [0.1, 0.5, 0.3]}"], "no step of 0.3 ends at 0.5"),
    ],
)  # fmt: skip
def test_odd_settings_are_warned_about_not_refused(load: Loader, overrides: list[str], words: str) -> None:
    warnings = load(SMALL, *overrides).warnings
    assert len([text for text in warnings if words in text]) == 1, warnings
    assert len(warnings) == 1, warnings


# Out again


def test_the_resolved_study_loads_again_as_the_same_study(load: Loader) -> None:
    study = load(MANY, "views.variant=constrained")
    resolved = study.resolved()
    space.assert_plain(resolved)
    assert resolved["views"]["constraint"] == "hinge"
    assert resolved["method"]["choice"][1] == {
        "name": "dkd", "standardize": False, "temperature": 4.0, "alpha": 1.0, "weight": 1.0, "warmup_epochs": 20,
        "beta": {"choice": [2, 6, 8]},
    }  # fmt: skip
    again = load(yaml.safe_dump(resolved))
    assert again.resolved() == resolved
    assert [arm.random(3) for arm in again.arms] == [arm.random(3) for arm in study.arms]


def test_a_difference_is_readable(load: Loader) -> None:
    old = load(MANY).resolved()
    new = load(
        MANY, "training.epochs=50", "method.beta={choice: [2, 6]}", "views.margin={uniform: [0.1, 0.4]}", "probe=null"
    )
    assert settings_file.settings_difference(old, new.resolved()) == [
        "views.margin: {uniform: [0.1, 0.5]} -> {uniform: [0.1, 0.4]}",
        "method.choice[1].beta.choice: [2, 6, 8] -> [2, 6]",
        "training.epochs: 40 -> 50",
        "probe.trials: 6 -> (absent)",
        "probe.seeds: [1] -> (absent)",
        "probe.fixed: {} -> (absent)",
        "probe: (absent) -> null",
    ]
    assert settings_file.settings_difference(old, old) == []


@pytest.mark.parametrize("name", ["digits_angular", "cifar_angular"])
def test_an_exported_configuration_runs_as_is(load: Loader, name: str) -> None:
    study = spec.load(name)
    for arm in study.arms:
        proposal = arm.random(2)
        best = load(export_yaml(study.resolved(), proposal.settings))
        assert best.name == f"{name}_best"
        assert best.warnings == ()
        (only,) = [proposal for searched in best.spaces for proposal in searched.grid()]
        assert only.settings == proposal.settings
        assert only.arm == arm.name
        assert best.search.trial_seed == study.search.trial_seed


def test_an_export_keeps_an_imported_teacher(load: Loader, tmp_path: Path) -> None:
    text = changed(SMALL, "network: resnet20, epochs: 4", "network: resnet20, checkpoint: t.pt")
    study = load(text)
    best = load(export_yaml(study.resolved(), study.arms[0].random(0).settings))
    assert best.teacher.checkpoint == str(tmp_path / "t.pt")
    assert best.warnings == ()


def test_the_cell_hash_counts_what_determines_the_result(load: Loader) -> None:
    def cell(*overrides: str) -> str:
        return cell_hash(load(SMALL, *overrides).arms[0].random(0).settings, "data", "teacher")

    base = cell()
    assert len(base) == 12
    assert int(base, 16) >= 0
    assert cell() == base
    same = ["search.seed=9", "resources.cpu=2", "tracking.wandb={}", "training.device=cpu", "study=other", "probe=null"]
    assert {cell(override) for override in same} == {base}
    differs = [
        "training.lr=0.1",
        "views.dropout=[0.1, 0.1, 0.1, 0.1, 0.1]",
        "student.network=resnet14",
        "data.split_seed=1",
    ]
    assert len({base, *(cell(override) for override in differs)}) == 5
    settings = load(SMALL).arms[0].random(0).settings
    assert len({base, cell_hash(settings, "other", "teacher"), cell_hash(settings, "data", "other")}) == 3


def test_the_cell_hash_is_the_same_in_every_version() -> None:
    """Trial ids name directories of finished work: this value changes only with a way to carry them over."""
    settings = {
        "data": {"name": "digits", "root": "/x"},
        "method": [{"name": "kd", "weight": 1.5}],
        "training": {"lr": 0.05},
    }
    assert cell_hash(settings, "d", "t") == "80b440225067"
    settings["data"]["root"] = "/y"
    assert cell_hash(settings, "d", "t") == "80b440225067"


# Packaged spaces and the JSON schema


def test_packaged_spaces_load_without_a_warning() -> None:
    assert list(packaged()) == [
        "adaspec", "angular_ablation", "cifar_angular", "cifar_baselines", "cifar_diversity", "cifar_leave_one_out",
        "detection", "digits_ablation", "digits_angular", "digits_zoo", "fedfd", "fedfree", "fewshot", "functional_kd",
        "functional_kd_same_network", "imagenet_r34_r18", "imbalanced", "paper_vs_released", "pkd",
        "precision_ablation", "rethink_kd", "rethink_kd_ss", "rethink_kd_ww", "selections", "snn_branches",
        "strong2weak", "tekap_controls", "tekap_vs_angular", "tinyimagenet_transfer",
    ]  # fmt: skip
    for name, path in readable_studies().items():
        assert spec.load(name).warnings == ()
        assert spec.load(path).name == name


def test_the_digits_space_is_the_measured_one() -> None:
    study = spec.load("digits_angular")
    settings = study.arms[0].random(0).settings
    assert [arm.name for arm in study.arms] == ["angular/kd", "angular/dkd", "angular/crd", "angular/kd+crd"]
    assert (study.search.trials, study.probe and study.probe.trials, study.epochs, study.rungs) == (16, 44, 40, [26])
    assert settings["data"] | {"validation": 600, "label_noise": {"fraction": 0.4, "seed": 0}} == settings["data"]
    assert settings["data"]["pixel_noise"]["std"] == 0.25
    assert settings["teacher"]["network"] == {"name": "cnn", "widths": [32, 64, 128]}
    assert settings["student"]["network"] == {"name": "cnn", "widths": [4, 8, 16]}
    training = {"batch_size": 32, "lr": 0.05, "milestones": [24, 32], "ce_weight": 1.0}
    assert settings["training"] | training == settings["training"]
    assert (settings["views"]["variant"], settings["views"]["warmup_epochs"]) == ("constrained", 60)
    ranges = {d.path: (d.kind, d.low, d.high) for d in study.arms[0].dimensions if d.low is not None}
    assert ranges == {
        "views.margin": ("uniform", 0.1, 0.6),
        "views.diversity_weight": ("log_uniform", 1.0, 30.0),
        "method.kd.weight": ("log_uniform", 0.1, 4.0),
    }


def test_the_cifar_space_is_the_published_recipe() -> None:
    study = spec.load("cifar_angular")
    training = {
        "epochs": 240,
        "batch_size": 64,
        "lr": 0.05,
        "milestones": [150, 180, 210],
        "weight_decay": 5e-4,
        "momentum": 0.9,
    }
    settings = study.arms[0].random(0).settings
    assert settings["training"] | training == settings["training"]
    assert (settings["teacher"]["network"], settings["student"]["network"]) == ("resnet32x4", "resnet8x4")
    assert study.teacher.resolved_milestones() == [150, 180, 210]
    assert study.rungs == [160, 200]
    assert "confirm" not in study.values


def test_the_cifar_space_takes_the_overrides_of_a_short_run() -> None:
    study = spec.load(
        "cifar_angular",
        [
            "data={name: parquet, train: /d/train-*.parquet, test: /d/t.parquet, validation: 500, limit_per_class: 20}",
            "teacher.network=resnet20", "teacher.epochs=2", "student.network=resnet8", "views.warmup_epochs=1",
            "training.epochs=3", "training.milestones=[2]", "search.trials=6", "scheduler.grace_period=1",
            "resources.gpu=0", "resources.cpu=1", "confirm=null", "probe=null",
        ],
    )  # fmt: skip
    assert (study.epochs, study.rungs, study.resources.gpu, study.probe) == (3, [1, 2], 0.0, None)
    assert study.data.limit_per_class == 20
    assert len(study.arms) == 4


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_packaged_and_resolved_files_fit_the_schema(load: Loader, validator: Any) -> None:
    for name, path in readable_studies().items():
        validator.validate(yaml.safe_load(path.read_text()))
        validator.validate(spec.load(name).resolved())
    validator.validate(yaml.safe_load(SMALL))
    validator.validate(load(MANY).resolved())


@pytest.mark.parametrize(
    "section",
    [
        "views: none", "views: null", "views: {choice: [none, {name: angular, num_views: {int_uniform: [1, 5]}}]}",
        "method: kd", "method: [kd, {name: crd, weight: {log_uniform: [0.1, 1]}}]", "method: {choice: [kd, [kd, crd]]}",
        "method: {name: {choice: [kd, dkd]}, temperature: {uniform: [1, 4]}}",
        "student: {network: {choice: [resnet8, {name: cnn, widths: {choice: [[4], [8]]}}]}}",
        "training: {lr: {choice: [0.1, {uniform: [0.2, 0.3]}]}, ce_weight: {grid: [0.1, 1]}}",
        "confirm: null", "scheduler: null", "probe: {trials: 4, fixed: {training.lr: 0.1}}",
        "{teacher: none, views: none, method: [student_only, last_batch]}",
        "{teacher: {network: {name: none}}, views: none, method: student_only}",
        "{teacher: {network: none}, views: none, method: {choice: [label_smoothing, sdpgo_style]}}",
        "{teacher: {network: resnet20, epochs: 4, others: [{network: resnet8, checkpoint: a.pt}],"
        " distilled_from: [{network: resnet32, epochs: 4, distilled_from: [{network: resnet44, epochs: 4}]}],"
        " distillation: {weight: 0.5, drop: 0}}, views: multi_teacher}",
        "teacher: {network: {name: torchvision_resnet18, weights: IMAGENET1K_V1}, checkpoint: pretrained}",
        "student: {network: resnet8, checkpoint: {choice: [a.pt, b.pt]}, train: classifier}",
        "student: {choice: [{network: resnet8}, {network: resnet14, checkpoint: a.pt}]}",
        "{search: {algorithm: grid, seeds: [0, 1]}, scheduler: null, views: {name: angular, margin: {grid: [0.1]}},"
        " method: {name: kd, standardize: {choice: [true, false]}}}",
        "training: {epochs: 40, optimizer: {choice: [sgd, dot, adamw]}, schedule: cosine, milestones: [24, 32]}",
        "{data: {name: digits, validation: 600, augmentation: {mixup: 0.4, cutmix: 1.0, randaugment: {ops: 1}}},"
        " method: mlkd}",
        "data: {name: digits, validation: 600, augmentation: strong, imbalance: 5, fraction: 0.5}",
        "data: {name: image_folder, root: x, size: 16, validation: 4, stream: always, workers: 0}",
        "training: {epochs: 40, augmentation: strong}",
        "training: {epochs: 40, augmentation: {autoaugment: cifar10, cutout: 4}}",
        "{training: {epochs: 40, augmentation: {choice: [null, weak, {random_resized_crop: {scale: [0.2, 1.0]},"
        " rotation: {uniform: [5, 20]}}]}}, search: {algorithm: random, trials: 6}}",
        "teacher: {network: resnet20, epochs: 4, augmentation: {cutout: 4},"
        " others: [{network: resnet8, epochs: 4, augmentation: strong}]}",
    ],
)  # fmt: skip
def test_what_loads_fits_the_schema(load: Loader, validator: Any, section: str) -> None:
    values = yaml.safe_load(SMALL) | {"probe": None} | yaml.safe_load(section)
    if "training.lr" not in section:
        load(yaml.safe_dump(values))
    validator.validate(values)


@pytest.mark.parametrize(
    "section",
    [
        "dta: {}", "views: angluar", "views: {name: angular, margn: 0.1}",
        "views: {name: angular, margin: {uniform: [1]}}",
        "views: {name: angular, margin: '0.1'}", "views: {name: angular, margin: {uniform: [0, 1], choice: [1]}}",
        "method: {name: kd, weight: {log_uniform: [0, 1]}}", "method: []", "method: {choice: []}",
        "method: {name: kd, beta: 3}", "data: {name: digits, validation: {choice: [1, 2]}}", "confirm: {top: 3}",
        "training: {epochs: {choice: [1, 2]}}", "search: {algorithm: tpee}", "student: {network: resnet9}",
        "teacher: {network: {choice: [resnet8, resnet14]}}", "training: {lr: {uniform: [0, a]}}",
        "teacher: nothing", "teacher: {network: resnet8, others: [{network: none}]}",
        "teacher: {network: resnet8, others: [{network: resnet8, others: [{network: resnet8}]}]}",
        "teacher: {network: resnet8, distilled_from: [{network: resnet8, epoch: 3}]}",
        "student: {network: resnet8, train: body}", "student: {network: resnet8, checkpoint: 3}",
        "student: {network: resnet8, checkpoint: ''}",
        "search: {trials: 4, seeds: 3}", "search: {trials: 4, seeds: []}",
        "training: {optimizer: adam}", "training: {schedule: linear}",
        "data: {name: digits, validation: 600, augmentation: {mixup: -1}}",
        "data: {name: digits, validation: 600, fraction: 2}",
        "training: {augmentation: medium}", "training: {augmentation: {rotation: 200}}",
        "training: {augmentation: {choice: [weak, medium]}}", "training: {augmentation: {autoaugment: cifar100}}",
        "teacher: {network: resnet8, augmentation: {choice: [weak, strong]}}",
    ],
)  # fmt: skip
def test_what_is_refused_does_not_fit_the_schema(load: Loader, validator: Any, section: str) -> None:
    values: dict[Literal["any"], Any] = yaml.safe_load(SMALL) | yaml.safe_load(section)
    assert not validator.is_valid(values)
    with pytest.raises(SettingsError):
        load(yaml.safe_dump(values))


def test_every_setting_of_a_component_is_described_in_the_schema() -> None:
    definitions = json_schema()["$defs"]
    for kind in ("views", "methods"):
        for name in names(kind):  # type: ignore[arg-type]
            model: type[ComponentSettings] = lookup(kind, name).Settings  # type: ignore[arg-type]
            properties = definitions[f"{kind}.{name}"]["properties"]
            assert set(properties) == {"name", *model.model_fields}
            for key, setting in model.model_fields.items():
                if setting.description:
                    assert properties[key]["description"] == setting.description


def test_every_base_method_is_a_cell_of_the_baselines_and_reads_the_test_set() -> None:
    study = spec.load("cifar_baselines")
    assert study.reports and not study.search.searches, "nothing is chosen, so nothing is judged on validation images"
    plan = study.cell_plan
    assert plan is not None and {cell.role for cell in plan.cells} == {"ablation"}
    ours = {name for name in names("methods") if lookup("methods", name).__module__.startswith("akdtune.")}
    of_others = {"branch_self", "time_self", "fedfd"}  # networks with several answers, clients
    assert {term["name"] for cell in plan.cells for term in cell.settings["method"]} == ours - of_others
    assert {cell.name for cell in plan.cells if not cell.changes} == {"base"} and plan.reference == "base"


def test_the_search_of_the_baselines_that_was_measured_still_stands() -> None:
    """docs/zoo.md: validation accuracies of the file as it was."""
    grid = ["ablation=null", "search={algorithm: grid, seeds: [0, 1, 2]}", "method={choice: [student_only, kd]}"]
    study = spec.load("cifar_baselines", [*grid, "data.validation=9"])
    assert [arm.name for arm in study.arms] == ["none/student_only", "none/kd"] and not study.reports
