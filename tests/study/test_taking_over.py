"""`base: FILE`: a settings file that says only what differs from another."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from akdtune.errors import SettingsError
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.schema import json_schema
from akdtune.study.spec import Study
from akdtune.study.written import export_yaml

BASE = """\
study: below
data: {name: digits, validation: 300}
teacher: {network: {name: cnn, widths: [8, 8]}, epochs: 4}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: angular, num_views: 2, margin: {uniform: [0.1, 0.5]}, warmup_epochs: 1}
method: {choice: [kd, {name: crd, weight: 0.5}]}
training: {epochs: 12, milestones: [8], lr: 0.1}
search: {algorithm: random, trials: 6, seed: 3}
scheduler: {name: asha, grace_period: 9}
probe: {trials: 4, fixed: {views.margin: 0.3}}
"""
ABOVE = """\
base: below.yaml
views: {margin: {choice: [0.2, 0.4]}}
training: {lr: {log_uniform: [0.01, 0.1]}}
search: {trials: 8}
probe: null
"""
WRITTEN_OUT = """\
data: {name: digits, validation: 300}
teacher: {network: {name: cnn, widths: [8, 8]}, epochs: 4}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: angular, num_views: 2, margin: {choice: [0.2, 0.4]}, warmup_epochs: 1}
method: {choice: [kd, {name: crd, weight: 0.5}]}
training: {epochs: 12, milestones: [8], lr: {log_uniform: [0.01, 0.1]}}
search: {algorithm: random, trials: 8, seed: 3}
scheduler: {name: asha, grace_period: 9}
probe: null
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a study and one on top of it."""
    monkeypatch.chdir(tmp_path)
    Path("below.yaml").write_text(BASE)
    Path("above.yaml").write_text(ABOVE)
    return tmp_path


def refused(text: str, name: str = "above.yaml") -> list[str]:
    Path(name).write_text(text)
    with pytest.raises(SettingsError) as caught:
        spec.load(name)
    return [str(problem) for problem in caught.value.problems]


def proposals(study: Study) -> list[object]:
    return [arm.random(seed).settings for arm in study.arms for seed in range(5)]


def test_it_is_the_same_study_as_the_one_written_out() -> None:
    Path("plain.yaml").write_text(WRITTEN_OUT)
    above, plain = spec.load("above.yaml"), spec.load("plain.yaml")
    assert above.resolved() | {"study": "plain"} == plain.resolved()
    assert list(above.resolved()) == list(plain.resolved())
    assert proposals(above) == proposals(plain)
    settings = [arm.centre().settings for arm in above.arms]
    assert [cell_hash(of, "d", "t") for of in settings] == [
        cell_hash(arm.centre().settings, "d", "t") for arm in plain.arms
    ]
    assert (above.taken_over, plain.taken_over) == (("below.yaml",), ())


def test_its_name_is_its_own() -> None:
    assert spec.load("above.yaml").name == "above"


def test_what_is_kept_of_it_needs_no_other_file() -> None:
    above = spec.load("above.yaml")
    resolved = above.resolved()
    exported = export_yaml(resolved, above.arms[0].centre().settings)
    Path("below.yaml").unlink()
    Path("exported.yaml").write_text(exported)
    assert "base" not in yaml.safe_load(exported)
    assert "base" not in resolved
    assert spec.load("exported.yaml").epochs == 12


def test_overrides_win_over_both() -> None:
    study = spec.load("above.yaml", ["search.trials=2", "teacher.epochs=7"])
    assert (study.search.trials, study.teacher.epochs) == (2, 7)


def test_a_packaged_study_by_its_name() -> None:
    Path("mine.yaml").write_text("base: digits_angular\nsearch: {trials: 4}\n")
    study, packaged = spec.load("mine.yaml"), spec.load("digits_angular", ["search.trials=4"])
    assert study.resolved() | {"study": "digits_angular"} == packaged.resolved()
    assert study.taken_over == ("digits_angular",)


def test_a_chain_from_other_folders(folder: Path) -> None:
    (folder / "more").mkdir()
    Path("more/top.yaml").write_text("base: ../above.yaml\nsearch: {seed: 5}\n")
    study = spec.load("more/top.yaml")
    assert (study.search.trials, study.search.seed, study.epochs) == (8, 5, 12)
    assert study.taken_over == ("more/../above.yaml", "more/../below.yaml")


def test_lists_and_domains_replace() -> None:
    Path("above.yaml").write_text("base: below.yaml\nmethod: [kd, crd]\ntraining: {milestones: [10]}\n")
    study = spec.load("above.yaml")
    assert [arm.name for arm in study.arms] == ["angular/kd+crd"]
    assert study.values["training"]["milestones"] == [10]


def test_another_component_brings_its_own_settings() -> None:
    Path("above.yaml").write_text("base: below.yaml\nviews: {name: tekap}\nprobe: null\n")
    assert spec.load("above.yaml").values["views"] == {"name": "tekap"}
    Path("above.yaml").write_text("base: below.yaml\nstudent: {network: resnet8}\n")
    assert spec.load("above.yaml").values["student"] == {"network": "resnet8"}
    Path("top.yaml").write_text("base: above.yaml\nstudent: {network: {name: cnn, widths: [4, 4]}}\n")
    assert spec.load("top.yaml").values["student"] == {"network": {"name": "cnn", "widths": [4, 4]}}


def test_settings_on_a_plain_name_below() -> None:
    below = BASE.replace("method: {choice: [kd, {name: crd, weight: 0.5}]}", "method: kd")
    Path("below.yaml").write_text(below)
    Path("above.yaml").write_text("base: below.yaml\nmethod: {temperature: 3.0}\n")
    assert spec.load("above.yaml").values["method"] == {"name": "kd", "temperature": 3.0}


def test_null_takes_an_entry_away_where_keys_are_free() -> None:
    Path("above.yaml").write_text("base: below.yaml\nprobe: {fixed: {views.margin: null, method.crd.weight: 1.0}}\n")
    assert spec.load("above.yaml", ["method={choice: [kd, {name: crd, weight: {uniform: [0.5, 2.0]}}]}"]).probe
    study = spec.load("above.yaml", ["method={choice: [kd, {name: crd, weight: {uniform: [0.5, 2.0]}}]}"])
    assert study.probe is not None
    assert study.probe.fixed == {"method.crd.weight": 1.0}


# What is wrong, and where


def test_what_is_wrong_below_names_the_file_and_line_below() -> None:
    Path("below.yaml").write_text(BASE.replace("lr: 0.1", "lrr: 0.1").replace("seed: 3", "seed: three"))
    assert refused("base: below.yaml\nsearch: {trials: 0}\n") == [
        "above.yaml:2: search.trials: must be above 0, got 0",
        "below.yaml:7: training.lrr: unknown key 'lrr'; did you mean 'lr'? (`akdtune schema` lists all 17)",
        "below.yaml:8: search.seed: must be a whole number, got 'three'",
    ]


def test_what_is_replaced_is_no_longer_wrong() -> None:
    Path("below.yaml").write_text(BASE.replace("trials: 6", "trials: six"))
    assert spec.load("above.yaml").search.trials == 8


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("belw.yaml", "belw.yaml: there is no such file; did you mean 'below.yaml'?"),
        ("digits_anglar", "digits_anglar: there is no such file; did you mean the packaged 'digits_angular'?"),
        ("[below.yaml]", "must be the name of one file, or of a packaged study, got ['below.yaml']"),
        ("3", "must be the name of one file, or of a packaged study, got 3"),
        ("''", "must be the name of one file, or of a packaged study, got ''"),
        (".", ". is a folder, not a YAML file"),
        ("$NOT_SET/a.yaml", "'$NOT_SET/a.yaml': the variable $NOT_SET is not set"),
        ("above.yaml", "goes round in a circle: above.yaml -> above.yaml"),
    ],
)
def test_a_base_that_is_none(folder: Path, base: str, message: str) -> None:
    (problem,) = refused(f"study: s\nbase: {base}\n")
    assert problem.replace(f"{folder}/", "") == f"above.yaml:2: base: {message}"


def test_a_longer_circle() -> None:
    Path("below.yaml").write_text(f"# on top\nbase: above.yaml\n{BASE}")
    assert refused(ABOVE) == [
        "below.yaml:2: base: goes round in a circle: above.yaml -> below.yaml -> above.yaml",
    ]


def test_too_long_a_chain() -> None:
    for number in range(12):
        Path(f"s{number}.yaml").write_text(f"base: s{number + 1}.yaml\n")
    Path("s12.yaml").write_text(BASE)
    with pytest.raises(SettingsError, match=r"s9\.yaml:1: base: is one of more than 10 files"):
        spec.load("s0.yaml")


def test_a_base_on_the_command_line_is_refused() -> None:
    with pytest.raises(SettingsError, match="command line: base: stands in a file"):
        spec.load("below.yaml", ["base=above.yaml"])


# The schema


def test_the_schema_takes_what_the_reader_takes() -> None:
    schema = json_schema()
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)

    def is_valid(text: str) -> bool:
        return bool(checker.is_valid(json.loads(json.dumps(yaml.safe_load(text)))))

    assert is_valid(BASE)
    assert is_valid(ABOVE)
    assert is_valid("base: digits_angular")
    assert not is_valid(ABOVE.replace("base: below.yaml\n", ""))
    assert not is_valid("base: [a]")
    assert not is_valid("base: a.yaml\nviews: {margn: 0.1}")
    assert not is_valid("base: a.yaml\nserch: {trials: 3}")
    assert not is_valid(BASE.replace("name: angular, ", ""))
    assert not is_valid("base: null\n" + ABOVE.partition("\n")[2])


def test_a_folder_of_runs_hides_no_packaged_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_angular").mkdir()
    (tmp_path / "mine.yaml").write_text("study: mine\nbase: digits_angular\n")
    assert spec.load("digits_angular").name == "digits_angular"
    assert spec.load("mine.yaml").name == "mine"
